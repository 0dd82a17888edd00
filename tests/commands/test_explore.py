"""python -m cvae explore: which model, images and page, and what is refused before time is spent."""

import json
import socket
import sys
from types import ModuleType

import pytest
import torch
from test_commands import make_run

import cvae
from cvae import __main__ as entry
from cvae.build import make
from cvae.commands import explore
from cvae.explorer.codes import CodeSpace
from cvae.runs.directory import Run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", "data.source.test_size=9")


@pytest.fixture
def served(monkeypatch):
    """What would be served: (space, title, port, browser)."""
    calls, page = [], ModuleType("cvae.explorer.page")
    page.serve = lambda *arguments: calls.append(arguments)
    monkeypatch.setitem(sys.modules, "cvae.explorer.page", page)
    return calls


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_defaults():
    given = vars(entry.parser().parse_args(["explore", "RUN"]))
    assert given == {
        "run": "RUN", "checkpoint": "last.ckpt", "seed": 0, "trust": False, "port": 8080, "no_browser": False,
        "weights": None, "html": None, "images": None, "data_root": None, "call": explore.look,
    }  # fmt: skip


def test_what_is_served(run, served, call):
    port = free_port()
    assert call("explore", run, "--port", port)[0] == 0
    ((space, title, shown_at, browser),) = served
    vae, data = cvae.load(run), make(Run(run).config(), "data")
    data.setup()
    x, _ = data.batch("test", range(9))
    torch.testing.assert_close(space.means, vae.encode(x).mean.detach())
    assert (title, shown_at, browser) == (f"{run}, last.ckpt", port, True)
    call("explore", run, "--port", port, "--no-browser", "--images", 4)
    assert served[1][3] is False and len(served[1][0].means) == 4


def test_the_checkpoint_that_is_asked_for(run, served, call):
    last = run / "checkpoints" / "last.ckpt"
    weights = torch.load(last, weights_only=True)
    for value in weights["state_dict"].values():
        value.mul_(1.5)
    torch.save(weights, run / "checkpoints" / "best.ckpt")
    for name in ("last", "best"):
        call("explore", run, "--port", free_port(), "--checkpoint", name)
    means = [space.means for space, *_ in served]
    assert not torch.allclose(*means) and served[1][1] == f"{run}, best.ckpt"


def test_the_seed(tmp_path, served, call):
    run = make_run(tmp_path / "run", "data.source.test_size=9", "model.latent_dim=2", "prior=mixture")
    for seed in (0, 0, 1):
        call("explore", run, "--port", free_port(), "--seed", seed)
    low = [space.low for space, *_ in served]
    assert torch.equal(low[0], low[1]) and not torch.equal(low[0], low[2])


def test_the_data_may_lie_elsewhere(tmp_path, mnist_root, small_md5, served, call):
    run = make_run(tmp_path / "run", "data=mnist", f"data.root={tmp_path}/gone")
    assert call("explore", run, "--port", free_port(), "--data-root", mnist_root)[0] == 0
    assert len(served[0][0].means) == 40


def test_a_page_as_a_file(run, served, call, tmp_path):
    file = tmp_path / "new" / "page.html"
    code, printed = call("explore", run, "--html", file, "--port", 1)  # no port is needed
    assert code == 0 and str(file) in printed and served == []
    page = file.read_text(encoding="utf-8")
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert data["title"] == f"{run}, last.ckpt" and len(data["classes"]) == 9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", 0], "--images=0: must be a positive integer"),
        (["--seed", -1], "--seed=-1: must be an integer from 0"),
        (["--port", -1], "--port=-1: must be a port that no other program uses"),
        (["--port", 70000], "--port=70000: must be a port that no other program uses"),
    ],
)
def test_wrong_options(run, served, call, words, said):
    code, printed = call("explore", run, *words)
    assert code == 1 and said in printed and served == []


def test_a_port_in_use(run, served, call, monkeypatch):
    """Said before the model is loaded."""
    monkeypatch.setattr("cvae.build.load_with_step", lambda *_: pytest.fail("loaded"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, printed = call("explore", run, "--port", port)
    assert code == 1 and f"--port={port}: must be a port that no other program uses (" in printed and served == []


def test_without_nicegui(run, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    monkeypatch.delitem(sys.modules, "cvae.explorer.page", raising=False)
    code, printed = call("explore", run, "--port", free_port())
    assert printed.startswith(f"Starting: libraries, the model of {run} and its test images")  # before any of these
    assert code == 1 and "explore needs nicegui: pip install -c constraints.txt -e '.[explore]'" in printed
    assert "--html FILE" in printed


@pytest.mark.parametrize("dims", [1, 3])
def test_a_table_needs_two_dimensions(tmp_path, call, dims, monkeypatch):
    run = make_run(tmp_path / "run", f"model.latent_dim={dims}")
    monkeypatch.setattr("cvae.build.load_data", lambda *_: pytest.fail("read"))
    code, printed = call("explore", run, "--html", tmp_path / "page.html")
    assert code == 1 and f"this one has {dims}" in printed and not (tmp_path / "page.html").exists()


def test_codes_have_a_page_of_their_own(tmp_path, served, call):
    run = make_run(tmp_path / "run", "posterior=categorical", "prior=uniform", "data.source.test_size=9")
    assert call("explore", run, "--port", free_port(), "--seed", 3)[0] == 0
    ((space, *_),) = served
    assert isinstance(space, CodeSpace) and space.seed == 3 and len(space.data.test) == 9
    code, printed = call("explore", run, "--html", tmp_path / "page.html")
    assert code == 1 and "--html: a table needs latents that are numbers: between two codes there is nothing" in printed


def test_a_run_that_names_foreign_code(run, served, call):
    config = run / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("cvae.networks.conv", "test_commands.my_network"))
    code, printed = call("explore", run, "--port", free_port())
    assert code == 1 and "--trust" in printed and served == []
    code, printed = call("explore", run, "--port", free_port(), "--trust")
    assert code == 1 and "test_commands.my_network" in printed and "say --trust" not in printed
