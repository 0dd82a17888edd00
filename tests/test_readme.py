"""README.md, docs/ and CONTRIBUTING.md: their Python is run, their commands are read, their links lead somewhere."""

import importlib
import re
import shlex
import tomllib

import pytest
import torch
import yaml
from conftest import ROOT, config
from omegaconf import open_dict
from pages import PAGES, blocks, prose
from torch.distributions import Distribution, StudentT

import cvae.priors
from cvae.__main__ import parser
from cvae.build import build_vae, make
from cvae.cli.resume import ALLOWED, run_to_resume
from cvae.cli.train import train_here

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
OWN_PARTS = "docs/own_parts.md"  # tests/test_own_parts.py writes its Python into files, as it says


# Python


def smaller(words):
    """The words of a training that takes a second, of synthetic digits in place of MNIST."""
    words = [word for word in words if not word.startswith("trainer.max_epochs=")]
    if "data=npz" not in words:
        words += ["data=synthetic", "data.source.train_size=64", "data.source.test_size=32", "model.filters=4"]
    return [
        *words,
        "trainer=cpu",
        "trainer.max_epochs=1",
        "evaluation.samples=0",
        "callbacks.pictures.manifold_steps=2",
    ]


def check_readme(left):
    images, q, log_px_given_z = left["images"], left["q"], left["log_px_given_z"]
    assert images.shape == (16, 1, 28, 28) and 0 <= images.min() < images.max() <= 1
    assert isinstance(q, Distribution) and (q.batch_shape, q.event_shape) == ((16,), (2,))
    assert log_px_given_z.shape == (16,) and (log_px_given_z < 0).all()  # binary images: a probability
    assert left["elbo"] < 0
    shapes = {"again": (16,), "way": (9, 1), "moved": (2, 7, 1)}
    assert {name: tuple(left[name].shape) for name in shapes} == {name: (*n, 1, 28, 28) for name, n in shapes.items()}


def check_arrays(left):
    data = make(config("data=npz", "data.root=images.npz"), "data")
    data.setup()
    assert len(left["digits"]) == 100 and data.image_shape == (1, 28, 28)


def check_python(left):
    assert left["run"].vae.shapes[1] == (3, 16, 16) and left["run"].config.likelihood._target_.endswith(
        "DiscretizedLogistic"
    )
    assert left["same"].metrics == left["run"].metrics and "bits_per_dim" in str(left["run"].evaluate(samples=2))
    assert left["terms"].loss.shape == (64,) and left["terms"].elbo.mean() > -28 * 28


CHECKS = {"README.md": check_readme, "docs/own_data.md": check_arrays, "docs/python.md": check_python}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(PAGES[page], "python") and page != OWN_PARTS])
def test_the_python_of_a_page(page, tmp_path, monkeypatch):
    """Run with small trainings in place of those that the page makes; CHECKS has what it must leave."""
    code = "".join(blocks(PAGES[page], "python"))
    monkeypatch.setattr("cvae.api.train_here", lambda words, *rest: train_here(smaller(words), *rest))
    monkeypatch.chdir(tmp_path)
    left = {}
    exec(compile(code, page, "exec"), left)
    CHECKS.get(page, bool)(left)


def test_the_prior_of_contributing(monkeypatch):
    """Its class and its YAML file, as they stand there."""
    (code, line), (choice,) = blocks(CONTRIBUTING, "python"), blocks(CONTRIBUTING, "yaml")
    left = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), left)
    assert '"student_t": (StudentTPrior, ' in line
    monkeypatch.setattr(cvae.priors, "StudentTPrior", left["StudentTPrior"], raising=False)
    cfg = config("model.latent_dim=3", "model.filters=4")
    with open_dict(cfg):
        cfg.prior = yaml.safe_load(choice)
    p, z = build_vae(cfg).p_z(), torch.randn(4, 3)
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    torch.testing.assert_close(p.log_prob(z), StudentT(10.0).log_prob(z).sum(-1))
    cfg.prior.degrees = 2
    with pytest.raises(ValueError, match="prior.degrees=2: must be"):
        build_vae(cfg)


# Commands


def commands(text):
    """Each `python train.py …` in a line of its own or between backticks, once, without its comment."""
    found = re.findall(r"(?:^|`)python train\.py([^`\n]*)", "\n".join(re.split(r" && ", text)), re.MULTILINE)
    return list(dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in found))


TEXT = "\n".join(PAGES.values())
COMMANDS = sorted(set(re.findall(r"^python -m cvae (.*?)(?:  +#.*)?$", TEXT, re.MULTILINE)))


def test_each_command_after_a_run_is_shown():
    there = set(re.findall(r"^    ([a-z][\w-]*)", parser().format_help(), re.M))
    assert {line.split()[0] for line in COMMANDS} | {"train"} == there  # train.py's words are on every page


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_after_a_run_is_read(line):
    args = parser().parse_args(["7" if word in ("S", "N") else word for word in line.split()])
    assert callable(args.call)


def test_the_commands_are_found():
    found = commands(
        "```\npip install . && python train.py\npython train.py a=1  # why\n```\nor `python train.py -m b=[1,2] c=2`."
    )
    assert [shlex.split(line) for line in found] == [[], ["a=1"], ["-m", "b=[1,2]", "c=2"]]


@pytest.mark.parametrize("command", [command for command in commands(TEXT) if "--" not in command])
def test_a_command_of_a_page_composes(command):
    words = shlex.split(command)
    if "-m" not in words and (stopped := run_to_resume(words)):
        assert {word.partition("=")[0] for word in stopped[1]} <= set(ALLOWED)
        return
    if "-m" in words:  # a sweep: its first run
        words = [re.sub(r"(=[^\[,]*),.*", r"\1", word) for word in words if word != "-m"]
    config(*words)


def test_choices_that_pages_name_exist():
    """GROUP=NAME anywhere, as between backticks in a table. fit-prior alone knows gmm, and cvae.train an array."""
    groups = [folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()]
    shown = "\n".join(text for page, text in PAGES.items() if page != OWN_PARTS)
    named = set(re.findall(rf"\b({'|'.join(groups)})=([a-z]\w*)(?![\w(])", shown))  # no pattern, as glob(…)
    assert named - {("prior", "gmm"), ("data", "my_array")} == {
        pair for pair in named if (ROOT / "conf" / f"{pair[0]}/{pair[1]}.yaml").exists()
    }


@pytest.mark.parametrize(
    "group", ["model", "posterior", "prior", "likelihood", "objective", "data", "experiment", "optimizer", "scheduler",
              "trainer", "logger"],
)  # fmt: skip
def test_the_page_of_choices_has_each(group):
    for file in (ROOT / "conf" / group).glob("*.yaml"):
        assert re.search(rf"`({group}=)?{file.stem}`", PAGES["docs/choices.md"]), file


# Pages


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_begins_with_what_it_is_for_and_a_command(page):
    title, empty, purpose, *lines = PAGES[page].splitlines()[:10]
    assert title.startswith("# ") and not empty and re.match(r"This page .*[.:]$", purpose)
    assert any(re.match(r"(python|pip|cvae) ", line) for line in lines)


def test_the_readme_names_each_page():
    linked = set(re.findall(r"\]\((docs/\w+\.md)", PAGES["README.md"]))
    assert linked == {page for page in PAGES if page.startswith("docs/")} - {"docs/index.md"}


def test_each_page_is_in_the_navigation_of_the_site():
    def leaves(entries):
        values = [value for entry in entries for value in entry.values()]
        return [page for value in values for page in ([value] if isinstance(value, str) else leaves(value))]

    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    pages = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md")}
    pages |= {f"{file.stem}.md" for file in (ROOT / "docs").glob("*.ipynb")}  # .ci/site makes these
    assert sorted(leaves(site["project"]["nav"])) == sorted(pages)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda page: page.stem)
def test_what_the_api_describes_exists(page):
    """Each module that a page of the API shows, and each of its members that the page names."""
    shown = re.split(r"^::: ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert shown
    for module, *options in map(str.splitlines, shown):
        members = re.search(r"members: \[(.*)\]", "\n".join(options))
        for name in members[1].split(", ") if members else []:
            assert hasattr(importlib.import_module(module), name), name
        importlib.import_module(module)


def figures(text, *headings):
    """Numbers with a decimal point below these headings."""
    parts = [re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1] for heading in headings]
    return set(re.findall(r"−?\d+\.\d+", "".join(parts)))


def test_the_figures_of_the_readme_are_those_of_the_pages():
    shown = figures(PAGES["README.md"], "Results", "How fast it is")
    assert shown and shown <= set(re.findall(r"−?\d+\.\d+", PAGES["docs/results.md"] + PAGES["docs/performance.md"]))


# Links


LINKED = {**PAGES, "CONTRIBUTING.md": CONTRIBUTING, "benchmarks/README.md": None, "SECURITY.md": None}
LINKED = {page: text or (ROOT / page).read_text(encoding="utf-8") for page, text in LINKED.items()}


def anchors(text):
    """What a link to a heading of this page says behind #."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page):
    """To files and headings, pictures too."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(LINKED[page])):
        if target.startswith(("https://", "http://")):
            continue
        file, _, heading = target.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert path.exists(), target
        assert not heading or heading in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_leads_only_to_pages(page):
    """Not out of docs/: the site has nothing else."""
    assert not re.search(r"\]\(\.\.", prose(PAGES[page]))


def test_each_picture_is_shown():
    shown = {name for text in PAGES.values() for name in re.findall(r"(\w+\.(?:png|gif))\)", text)}
    assert {file.name for file in (ROOT / "docs").iterdir() if file.suffix in (".png", ".gif")} <= shown
