"""Wrong files, places and numbers: each command names what is wrong, at once, and leaves nothing behind."""

import itertools
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_commands import make_run, other_weights
from test_use import drawing, tiny_run  # noqa: F401, a fixture
from tiny import TINY

from cvae.commands.inputs import is_number_of_an_image, require_room
from cvae.errors import ConfigError
from cvae.models.vae import VAE


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run") / "plain", base=TINY)
    other_weights(run)
    return run


@pytest.fixture
def plain(made_once, tmp_path):
    """A run of 8x8 images with two latents, of a test's own."""
    return shutil.copytree(made_once, tmp_path / "plain")


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def refused(call, tmp_path):
    def refused(message, *arguments):
        """A command ends with one message that has this text, and has written nothing."""
        before = below(tmp_path)
        code, printed = call(*arguments)
        shown = " ".join(printed.split())
        assert code == 1 and message in shown and "Traceback" not in printed, (arguments, printed)
        assert shown.count(" Error: ") == 1 and below(tmp_path) == before

    return refused


def bad_files(folder):
    """Files that are no images, by the text that is said of each."""
    good = drawing(folder, "good.png", (64, 64))
    content = good.read_bytes()
    for name, bytes_of in (("empty.png", b""), ("half.png", content[: len(content) // 2]), ("text.png", b"no image")):
        (folder / name).write_bytes(bytes_of)
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(folder / "nan.tiff")
    np.save(folder / "array.npy", np.zeros((8, 8)))
    (folder / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(folder / "nowhere")
    (folder / "folder.png").mkdir()
    return {
        "empty.png": "not an image of a known format", "half.png": "half.png: ", "text.png": "not an image of a known",
        "nan.tiff": "its pixels are 32-bit numbers of an unknown range", "array.npy": "not an image of a known format",
        "script.eps": "not an image of a known format", "pipe.png": "not a file, or a link to none",
        "link.png": "not a file, or a link to none", "folder.png": "There are no images in ",
        "gone.png": "there is no such file: ", "": "is a folder: name an image in it",
    }  # fmt: skip


def test_files_that_are_no_images(plain, refused, tmp_path):
    """Each kind of file, by one of the commands that take files."""
    commands = itertools.cycle([["reconstruct"], ["encode"], ["interpolate", "0"], ["traverse"]])
    for (file, message), (name, *first) in zip(bad_files(tmp_path / "in").items(), commands, strict=False):
        refused(message, name, plain, *first, tmp_path / "in" / file)


COMMANDS = {
    "sample": [], "encode": ["--split", "test"], "interpolate": ["0", "1"], "traverse": [], "reconstruct": ["good.png"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_places_where_nothing_can_be_written(plain, refused, tmp_path, monkeypatch, command):
    """Before the model is loaded."""
    monkeypatch.chdir(tmp_path)
    drawing(tmp_path, "good.png")
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("cvae.build.load_with_step", lambda *_: pytest.fail("loaded"))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "locked" and access(path, mode))
    ending = ".csv" if command == "encode" else ".png"
    said = "must be in a folder that is there and can be written, which {} is not"
    for out, folder in ((f"a/b/x{ending}", "a"), (f"file/x{ending}", "file"), (f"locked/x{ending}", "locked")):
        refused(f"--out={out}: {said.format(folder)}", command, plain, *COMMANDS[command], "--out", out)
    if command in ("sample", "reconstruct"):
        refused(f"--out=a/b/c: {said.format('a/b')}", command, plain, *COMMANDS[command], "--out", "a/b/c")
        refused("--out=/dev/null: must be", command, plain, *COMMANDS[command], "--out", "/dev/null")
    (tmp_path / f"folder{ending}").mkdir()
    refused("must be the name of a file", command, plain, *COMMANDS[command], "--out", f"folder{ending}")


def test_a_new_folder_is_made_where_its_own_folder_is_there(plain, call, tmp_path):
    assert call("sample", plain, "--num", 1, "--out", tmp_path / "new" / "a.png")[0] == 0
    assert call("sample", plain, "--num", 1, "--out", tmp_path / "folder")[0] == 0
    assert (tmp_path / "new" / "a.png").is_file() and (tmp_path / "folder" / "0.png").is_file()


@pytest.mark.parametrize("command", [*COMMANDS, "export", "explore"])
def test_seeds(plain, refused, tmp_path, command, monkeypatch):
    monkeypatch.setattr("cvae.commands.explore.server", lambda port, run: None)
    monkeypatch.setattr("cvae.commands.export.find_spec", lambda name: True)
    words = [tmp_path / word if word == "good.png" else word for word in COMMANDS.get(command, [])]
    refused("--seed=4294967296: must be an integer from 0 to 4294967295", command, plain, *words, "--seed", 2**32)


def test_numbers(plain, refused, monkeypatch):
    monkeypatch.setattr("cvae.runtime.devices.main_memory", lambda: 50 * 64 * 20)
    refused("--num=21: must be at most 20: more images do not fit into the memory", "sample", plain, "--num", 21)
    refused("--steps=21: must be at most 20", "interpolate", plain, "0", "1", "--steps", 21)
    refused("--steps=11: must be at most 10", "traverse", plain, "--steps", 11)
    refused("--steps=21: must be at most 20", "traverse", plain, "--steps", 21, "--dims", 1)
    refused("--num=1000000000000: must be at most 20", "sample", plain, "--num", 10**12)
    refused("--num=-1: must be a positive integer", "sample", plain, "--num", -1)
    refused("--temperature=nan: must be a finite number", "sample", plain, "--temperature", "nan")
    refused("--dims=-1: must be a positive integer", "traverse", plain, "--dims", -1)


def test_how_many_images_fit():
    vae = SimpleNamespace(shapes=((2,), (3, 4, 5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvae.runtime.devices.main_memory", lambda: 7 * 50 * 60)
        require_room("--num", 7, vae)
        require_room("--num", 3, vae, 2)
        with pytest.raises(ConfigError, match="^--num=8: must be at most 7: more"):
            require_room("--num", 8, vae)
        with pytest.raises(ConfigError, match="^--steps=4: must be at most 3: more"):
            require_room("--steps", 4, vae, 2)


def test_numbers_of_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()  # a run of a sweep
    (tmp_path / "7").write_text("")
    assert [is_number_of_an_image(word) for word in ("0", "12", "7", "-1", "1.0", "a", "²")] == [True, True] + [
        False
    ] * 5


def test_what_codes_do_not_have(tiny_run, refused, tmp_path):
    codes = tiny_run("posterior=fsq", "prior=uniform")
    for command in (["interpolate", "0", "1"], ["traverse"]):
        refused("posterior=FSQ: must be one of numbers", command[0], codes, *command[1:])
    refused(
        "--prior=gmm: must be autoregressive: the latents of this model are codes", "sample", codes, "--prior", "gmm"
    )
    refused("prior=Codes: must be made of normal distributions", "sample", codes, "--temperature", 0.5)


@pytest.mark.parametrize("content", [b"", b"text", {"weight": 3}, [1, 2]])
def test_a_fitted_density_that_is_damaged(plain, refused, content):
    (plain / "priors").mkdir()
    file = plain / "priors" / "gmm_last_step=7.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    refused(str(file), "sample", plain, "--prior", "gmm")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(plain, refused, value):
    """No training saves such."""
    content = torch.load(plain / "checkpoints" / "last.ckpt", weights_only=True)
    next(iter(content["state_dict"].values())).view(-1)[3] = value
    torch.save(content, plain / "checkpoints" / "last.ckpt")
    for command, words in COMMANDS.items():
        refused("last.ckpt has weights that are no finite numbers", command, plain, *words)


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c(plain, call, tmp_path, monkeypatch, command):
    """In the midst of the work: one line, exit code 130, and nothing half written."""
    words = [drawing(tmp_path, word) if word == "good.png" else word for word in COMMANDS[command]]
    before = below(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(VAE, "likelihood_of" if command == "sample" else "infer", interrupted)
    assert call(command, plain, *words) == (130, "Interrupted.\n") and below(tmp_path) == before
