"""The rules of the house, read from its files: arrows, packages, sizes, conf/, and the tree in CONTRIBUTING.md."""

import ast
import graphlib
import re
import tomllib

import pytest
import yaml
from conftest import ROOT, get_object

from cvae.cli import compose
from cvae.version import VERSION

FILES = {  # module -> file
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "train.py", *sorted((ROOT / "cvae").rglob("*.py"))]
}

# A part of the house is a module or package directly below cvae/. Each may import the rows below its own, and itself.
ROWS = (
    ("train", "__main__", "cvae"),  # cvae is cvae/__init__.py
    ("api",),
    ("commands",),
    ("cli",),
    ("training", "explorer"),
    ("build",),
    ("objectives", "evaluation"),
    ("pictures",),
    ("models", "data"),
    ("networks", "posteriors", "priors", "likelihoods"),
    ("distributions", "kernels", "schedules"),
    ("runs",),
    ("runtime",),
    ("checks",),
    ("errors", "version"),
)
ROW = {part: number for number, parts in enumerate(ROWS) for part in parts}

MATHS = {
    "models", "networks", "posteriors", "priors", "likelihoods", "distributions", "kernels", "objectives", "schedules"
}  # fmt: skip
MATHS_MAY_KNOW = MATHS | {"checks", "errors"}
NOT_FOR_MATHS = {
    "pytorch_lightning", "lightning", "lightning_fabric", "hydra", "omegaconf",  # the frameworks
    "pathlib", "os", "io", "json", "shutil", "tempfile", "pickle", "logging",  # files and the terminal
    "rich", "matplotlib", "imageio", "PIL", "torchvision", "tensorboard",  # what shows figures and pictures
}  # fmt: skip


def part_of(module):
    """cvae.priors.flow -> priors; cvae and train -> themselves."""
    names = module.split(".")
    return names[1] if len(names) > 1 else names[0]


def imports(path):
    """The modules that a file imports anywhere in it: of this house the file's own module, of others as written."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: write the import from the root, from cvae.…"
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in FILES else node.module for module in deeper}
    return found


IMPORTS = {module: imports(path) for module, path in FILES.items()}
INSIDE = {module: {known for known in IMPORTS[module] if known in FILES} for module in FILES}


def test_the_imports_are_read():
    """What the rules below stand on."""
    assert {"cvae.objectives.terms", "cvae.models.vae", "cvae.errors", "math", "torch"} <= IMPORTS[
        "cvae.objectives.beta_tcvae"
    ]
    assert "cvae.training.train" in INSIDE["cvae.cli.train"]  # inside a function, too
    assert all(known in FILES for known in set().union(*IMPORTS.values()) if known.split(".")[0] == "cvae")


@pytest.mark.parametrize("module", FILES)
def test_arrows_point_one_way(module):
    part = part_of(module)
    assert part in ROW, f"{part} is new: put it into a row of ROWS"
    for known in map(part_of, INSIDE[module]):
        assert known == part or ROW[known] > ROW[part], f"{module} imports {known}, which is no row below {part}"


def test_no_import_goes_round_in_a_circle():
    tuple(graphlib.TopologicalSorter(INSIDE).static_order())  # CycleError names the circle


@pytest.mark.parametrize("module", [module for module in FILES if part_of(module) in MATHS_MAY_KNOW])
def test_the_maths_knows_nothing_of_frameworks_and_files(module):
    """Nor do the few helpers that it uses."""
    assert not {known.split(".")[0] for known in IMPORTS[module]} & NOT_FOR_MATHS
    assert {part_of(known) for known in INSIDE[module]} <= MATHS_MAY_KNOW
    names = {node.id for node in ast.walk(ast.parse(FILES[module].read_text())) if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "input"}


def test_an_installation_has_every_package_and_conf():
    """Each folder with Python files, and conf/, which lies at the root here and inside the package there."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent for path in FILES.values()} - {ROOT}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    there = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(setuptools["packages"]) == there | {"cvae.conf"} and setuptools["package-dir"] == {"cvae.conf": "conf"}
    assert setuptools["package-data"]["cvae.conf"] == ["**/*.yaml"] and CONF == compose.CONF


def test_the_version_is_that_of_one_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cvae.version.VERSION"}
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == VERSION


DOORS = {  # what can run code that stands in a file -> the modules that look first at what they open
    "instantiate": {"cvae.build"},
    "torch.load": {
        "cvae.runs.checkpoint",
        "cvae.evaluation.features",  # weights that the user names
        "cvae.evaluation.lpips",  # a file of torchmetrics's own package
        "cvae.runs.vgg",
    },
    "OmegaConf.load": {"cvae.runs.directory", "cvae.cli.resume"},  # the latter a file of conf/
    "yaml.load": {"cvae.runs.small_files"},  # with SafeLoader
    "pickle.loads": {"cvae.data.cifar10", "cvae.data.mnist"},  # known by their hashes
}
CLOSED = {"eval", "exec", "pickle.load", "yaml.unsafe_load", "torch.jit.load", "joblib.load"}


def called(module):
    """The functions that a module calls, as written, with the names of their keywords."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("module", FILES)
def test_what_opens_files_of_others_goes_through_one_door(module):
    """A new command gets its objects from cvae.build, which refuses what a saved config may not name."""
    for name, words in called(module):
        assert module in DOORS.get(name, {module}) and name not in CLOSED, name
        if name == "torch.load":
            assert words["weights_only"] == "True"
        if name in ("np.load", "numpy.load"):
            assert words["allow_pickle"] == "False"


def length(function):
    """Lines of a function, without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def test_the_length_of_a_function():
    code = 'def f(\n    a,\n):\n    """One\n\n    two."""\n    b = a\n    # c\n    return b\n'
    assert length(ast.parse(code).body[0]) == 6


@pytest.mark.parametrize("module", [module for module in FILES if module != "cvae.distributions.precision"])
def test_float64_is_asked_of_the_cpu_alone(module):
    """MPS has none: `precision.py` knows what to do there."""
    bare = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "double"
        and not ast.unparse(node.func.value).endswith(".cpu()")
    ]
    assert not bare, f"{module}: .cpu() first in {', '.join(bare)}"


@pytest.mark.parametrize("module", FILES)
def test_functions_and_files_are_short(module):
    """Functions under 50 lines, files of at most 300."""
    source = FILES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 300
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert {function.name: length(function) for function in functions if length(function) >= 50} == {}


# conf/

CONF = ROOT / "conf"
YAMLS = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml"))


def entries(node, where=()):
    """Every key of a YAML document: (its path, its node, the node of its value)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*where, key.value), key, value
            yield from entries(value, (*where, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from entries(item, (*where, index))


def test_targets_can_be_imported():
    targets = {
        (name, value.value)
        for name in YAMLS
        for path, _, value in entries(yaml.compose((CONF / name).read_text(encoding="utf-8")))
        if path[-1] in ("_target_", "class")
    }
    assert len(targets) > 30
    for name, target in targets:
        assert callable(get_object(target)), f"{name}: {target}"


def has_comment_above(lines, mark):
    """Whether the lines above a key, from its column on, are a comment; what begins the file is that of the file."""
    number = mark.line
    while number and lines[number - 1].startswith(" " * mark.column + "#"):
        number -= 1
    return 0 < number < mark.line


def documented(name):
    """(Keys that need a comment and have none, keys that have one) of a file of conf/.

    A comment stands on the line of its key or above it. A file that takes over another by `defaults` may leave comments
    to it. These keys need none: what Hydra reads (names that begin with _, defaults, all below hydra), a reference ${…}
    to a key that is explained elsewhere, and a key whose value has keys.
    """
    text = (CONF / name).read_text(encoding="utf-8")
    lines = text.splitlines()
    explained, bare = set(), set()
    for path, key, value in entries(yaml.compose(text)):
        if re.search(r"\s#\s", lines[key.start_mark.line]) or has_comment_above(lines, key.start_mark):
            explained.add(path)
        elif path[0] in ("defaults", "hydra") or str(path[-1]).startswith("_"):
            continue
        elif any(entries(value)):
            continue
        elif not re.fullmatch(r"\$\{[\w.]+\}.*", value.value if isinstance(value, yaml.ScalarNode) else ""):
            bare.add(path)
    beside = [base for base in (yaml.safe_load(text) or {}).get("defaults", []) if isinstance(base, str)]
    for base in set(beside) - {"_self_"}:
        explained |= documented(f"{name.rpartition('/')[0]}/{base}.yaml")[1]
    return bare - explained, explained


@pytest.mark.parametrize("name", YAMLS)
def test_a_file_begins_with_a_comment(name):
    assert (CONF / name).read_text(encoding="utf-8").startswith("# ")


# An experiment sets values of keys that are explained in their groups; the groups of hydra/ are Hydra's own keys.
@pytest.mark.parametrize("name", [name for name in YAMLS if not name.startswith(("experiment/", "hydra/"))])
def test_every_key_has_a_comment(name):
    bare = sorted(".".join(map(str, path)) for path in documented(name)[0])
    assert not bare, f"conf/{name}: no comment for {', '.join(bare)}"


# CONTRIBUTING.md


def tree():
    """The files of cvae/ in the tree of CONTRIBUTING.md, from the root; a folder stands for its __init__.py."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(cvae/.*?)```", text, re.DOTALL)
    folders, files = [], []
    for line in block.splitlines():
        indent, name, what = re.fullmatch(r"( *)(\S+)(?: +(.*))?", line).groups()
        folders[len(indent) // 2 :] = [name.removesuffix("/")] if name.endswith("/") else []
        assert what, f"{name}: say what is in it"
        files.append("/".join([*folders, "__init__.py" if name.endswith("/") else name]))
    return files


def test_the_tree_in_contributing_is_that_of_the_house():
    named = tree()
    there = {path.relative_to(ROOT).as_posix() for path in FILES.values()} - {"train.py"}
    assert len(named) == len(set(named))
    assert set(named) == there
