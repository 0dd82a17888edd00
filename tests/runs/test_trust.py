"""What a saved config may say: everything that conf/ offers, and nothing else."""

import os
import sys

import pytest
from conftest import ROOT, config
from omegaconf import OmegaConf

from cvae.build import make, saved_config
from cvae.errors import UserError
from cvae.runs.directory import Run
from cvae.runs.small_files import CONFIG, VALUES
from cvae.runs.trust import (
    DATA_ROOT,
    PARTS,
    found,
    is_part,
    is_plain,
    require_inside,
    require_parts,
    require_plain,
    walk,
)

CONF = ROOT / "conf"
CHOICES = [
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for group in (*PARTS, "experiment")
    for path in sorted((CONF / group).glob("*.yaml"))
] + ["objective/beta=linear", "objective/beta=cyclical"]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_run_of_ones_own_loads_without_a_word(tmp_path, choice):
    """Whatever conf/ offers is allowed in its group. If this fails for a new part: its module needs it in `__all__`."""
    run = Run(tmp_path)
    run.save_config(config(choice))
    content = OmegaConf.to_container(saved_config(run))
    for group in PARTS:
        if choice in ("logger=mlflow", "logger=wandb") and group == "logger":
            with pytest.raises(UserError, match="^logger.(mlflow|wandb)._target_='cvae.training.loggers"):
                require_parts(content, group)  # to go on with it: it could send pictures of the data anywhere
        else:
            require_parts(content, group)


@pytest.mark.parametrize(
    ("target", "group", "allowed"),
    [
        ("cvae.networks.conv", "model", True),
        ("cvae.networks.layers.Shift", "model", False),  # its module has no __all__
        ("cvae.networks.no_such", "model", False),
        ("cvae.networks.no_such.conv", "model", False),
        ("cvae.networks.conv.conv", "model", False),
        ("cvae.networksx.conv", "model", False),
        ("cvae.priors.VampPrior", "model", False),
        ("cvae.data.cifar10.CIFAR10", "data", True),
        ("cvae.data.cifar10.pickle.loads", "data", False),
        ("cvae.data.idx_files.write_idx", "data", False),
        ("cvae.schedules.Linear", "objective", True),
        ("cvae.schedules.number", "objective", False),
        ("torch.optim.AdamW", "optimizer", True),
        ("torch.optim.adamw.adamw", "optimizer", False),  # of other libraries no modules below
        ("torch.optim.lr_scheduler.StepLR", "scheduler", True),
        ("torch.optim.lr_scheduler.torch.load", "scheduler", False),
        ("pytorch_lightning.Trainer", "trainer", True),
        ("pytorch_lightning.Callback", "trainer", False),
        ("pytorch_lightning.loggers.MLFlowLogger", "logger", False),  # which could send what it logs anywhere
        ("cvae.training.pictures.Pictures", "callbacks", True),
        ("conv", "model", False),
        ("", "model", False),
        (None, "model", False),
        (["cvae.networks.conv"], "model", False),
        ("cvae.cli.messages.NewRunDirectory", "hydra", False),
    ],
)
def test_parts(target, group, allowed):
    assert is_part(target, PARTS.get(group, ())) is allowed


def test_nothing_is_imported_for_a_name_that_is_not_allowed(tmp_path, monkeypatch):
    (tmp_path / "strangers.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for places in PARTS.values():
        assert not is_part("strangers.Part", places)
    assert "strangers" not in sys.modules


def test_a_group_that_is_none_has_no_parts():
    with pytest.raises(UserError, match="^mine._target_='torch.optim.Adam': a saved config may build parts of nothing"):
        require_parts({"mine": {"_target_": "torch.optim.Adam"}}, "mine")
    with pytest.raises(UserError, match="^mine='a': a saved config must have the keys of a part here"):
        require_parts({"mine": "a"}, "mine")
    with pytest.raises(UserError, match="^mine=None"):
        require_parts({}, "mine")
    require_parts({"mine": {"a": [{"b": 1}]}}, "mine")


def test_the_message_says_the_word_that_allows_it():
    with pytest.raises(UserError) as error:
        require_parts({"model": {"hidden": [{"_target_": "my.network"}]}}, "model")
    assert str(error.value) == (
        "model.hidden.0._target_='my.network': a saved config may build parts of cvae.networks here, no others. If you "
        "trust whoever made the run, say --trust (in Python: trust=True)"
    )
    with pytest.raises(UserError, match=r"parts of cvae.objectives or cvae.schedules or cvae.runs.vgg here"):
        require_parts({"objective": {"beta": {"_target_": "my.schedule"}}}, "objective")


@pytest.mark.parametrize("key", ["_args_", "_convert_", "_recursive_", "_mode_", "_partial_"])
def test_keys_of_hydra(key):
    with pytest.raises(UserError, match=f"^model.{key}=1: a saved config may not say {key}"):
        require_parts({"model": {key: 1}}, "model")
    require_parts({"data": {key.rstrip("_"): 1, key.lstrip("_"): 1, "source": {"_partial_": True}}}, "data")


@pytest.mark.parametrize(
    "content",
    [
        {"a": 1, "b": "${a}", "c": ["${a}", "x${a}/${b.no}"], "d": None, "e": "two words, µ-law", "f": 2**32 - 1},
        {"a": [1, "x"], "b": "${a}", "c": {"d": 1.5}, "e": "${c.d}", "f": True, "g": 1e300, "h": -(2**32) + 1},
        {"data": {"root": DATA_ROOT}, "a": "${a.b}" * 8},
        {1: 2, "b": "${1}"},
    ],
)
def test_plain_values(content):
    require_plain(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": DATA_ROOT}, "a='${oc.env:CVAE_DATA,data}': a saved config may refer to its own keys"),
        ({"data": {"root": DATA_ROOT + "x"}}, "data.root="),
        ({"a": {"b": ["${c:}"]}}, "a.b.0='${c:}': a saved config may refer"),
        ({"a": "${b[0]}"}, "a='${b[0]}'"),
        ({"a": "${.b}${ b}"}, "a="),
        ({"a": "$"}, "a='$'"),
        ({"a": "\\${b}$"}, "a="),
        ({"a": "${a}" * 9}, "a="),
        ({"a": "${b}", "b": {"c": 1}}, "a='${b}': b is no plain value"),
        ({"a": "${b}", "b": "${c}", "c": 1}, "a='${b}': b is no plain value"),
        ({"a": "${b}", "b": [[1]]}, "a='${b}': b is no plain value"),
        ({"a": "${b}", "b": [{}]}, "b is no plain value"),
        ({"a": "${b}", "b": ["${c}"]}, "b is no plain value"),
        ({"a\n": 1}, "'a\\n': '' has characters that can't be printed"),
        ({"a": "\x1b["}, "'a': '\\x1b[' has characters"),
        ({"a": 2**32}, "a: a saved config has no number of 2^32 or more"),
        ({"a": [-(2**32)]}, "a.0: a saved config has no number"),
        ({"a": 10**400}, "a: a saved config has no number"),
    ],
)
def test_what_is_not_plain(content, message):
    with pytest.raises(UserError) as error:
        require_plain(content)
    assert str(error.value).startswith(message) or message in str(error.value)
    assert str(error.value).endswith("If you trust whoever made the run, say --trust (in Python: trust=True)")


def test_walk_and_find():
    content = {"a": {"b": [1, {"c": 2}]}, 3: "d"}
    assert [key for key, _ in walk(content)] == ["a", "a.b", "a.b.0", "a.b.1", "a.b.1.c", "3"]
    assert dict(walk(content))["a.b.1.c"] == 2 and dict(walk([5], "x")) == {"x.0": 5}
    assert found(content, "a.b") == [1, {"c": 2}] and found(content, "a.x.y") is None and found(content, "3.1") is None
    assert is_plain("a") and is_plain(None) and is_plain([1, "a"]) and not is_plain("$") and not is_plain([[]])


@pytest.mark.parametrize("group", ["trainer", "callbacks", "logger"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_dir", "/home"), ("save_dir", "here"), ("default_root_dir", "${run_dir}/.."), ("run_dir", "${other}"),
        ("name", "a/b"), ("version", ".."), ("filename", "~"), ("prefix", "a\\b"), ("name", "${other}"), ("x", "s3://a"),
    ],
)  # fmt: skip
def test_what_writes_writes_into_the_run_directory(group, key, value):
    content = {"run_dir": "/runs/1", "other": "../x", group: {"a": [{key: value}]}}
    with pytest.raises(
        UserError, match=rf"^{group}.a.0.{key}='.*': what a saved config makes writes into .{{run_dir}} al"
    ):
        require_parts(content, group)
    if group != "trainer":
        return
    require_parts({"data": {key: value}}, "data")  # which reads
    for key, value in (
        ("run_dir", "${run_dir}"),
        ("name", "csv"),
        ("name", ""),
        ("monitor", "selection/bound"),
        ("n", 1),
    ):
        require_parts({"run_dir": "/runs/1", group: {key: value}}, group)


def test_links_that_lead_out_of_a_run_directory(tmp_path):
    """What is written into a folder of the run must not land elsewhere; what is read may be linked."""
    run, elsewhere = Run(tmp_path / "run"), tmp_path / "elsewhere"
    run.path.mkdir()
    run.save_config(OmegaConf.create({}))
    (elsewhere / "folder").mkdir(parents=True)
    (elsewhere / "last.ckpt").write_text("")
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").symlink_to(elsewhere / "last.ckpt")
    (run.checkpoints / "best.ckpt").symlink_to("last.ckpt")
    run.images.mkdir()
    (run.path / "pictures").symlink_to("images")
    run.config()
    for target in (elsewhere / "folder", elsewhere, elsewhere / "gone", ".."):
        run.evaluations.symlink_to(target)
        with pytest.raises(UserError, match=f"config.yaml: {run.evaluations} is a pipe, or a link that leads out of"):
            run.config()
        Run(run.path, trust=True).config()
        run.evaluations.unlink()
    require_inside(elsewhere, files=True)
    with pytest.raises(UserError, match=f"^{run.checkpoints}/(last|best).ckpt is a pipe, or a link that leads"):
        require_inside(run.path, files=True)  # for a training that would write on
    (run.checkpoints / "last.ckpt").unlink()
    (run.checkpoints / "best.ckpt").unlink()
    require_inside(run.path, files=True)  # the link to images/
    os.mkfifo(run.images / "pipe")
    with pytest.raises(UserError, match=f"{run.images}/pipe is a pipe"):
        run.config()


def test_a_file_that_goes_while_we_look(tmp_path, monkeypatch):
    """A training replaces its files."""
    monkeypatch.setattr(os, "walk", lambda folder: [(str(folder), [], [".last.ckpt.part"])])
    require_inside(tmp_path)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "it has a tag, an anchor or an alias of YAML in line 1"),
        ("a: 1\nb: *a", "is not valid YAML|alias of YAML in line 2"),
        ("a: 1\nb: !!python/object/apply:os.system ['touch CANARY']", "alias of YAML in line 2"),
        ("a: !!timestamp x", "alias of YAML in line 1"),
        ("a: !x {b: 1}", "alias of YAML in line 1"),
        ("a: " + "x" * CONFIG, f"it has {CONFIG + 3:,} bytes; such a file has at most {CONFIG:,}"),
        ("[" * 100_000, f"it has more than {VALUES:,} values, or 40 in each other, in line 1"),
        ("a: " + "[" * 100 + "]" * 100, "or 40 in each other, in line 1"),
        ("a: [" + "1," * VALUES + "]", f"it has more than {VALUES:,} values"),
        ("a: " + "9" * 5000, "it has a number of 5,000 signs in line 1"),
        ("a: " + "1:" * 5000 + "1", "it has a number of 10,001 signs in line 1"),
        ("a: 1\na: 2", "is not valid YAML"),
        ("a: ${b", "is not valid YAML"),
    ],
)
def test_what_is_more_than_yaml(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "run")
    run.config_file.parent.mkdir(parents=True)
    run.config_file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        run.config()
    assert str(error.value).startswith(str(run.config_file)) and not (tmp_path / "CANARY").exists()


def test_signs_of_yaml_in_text_are_fine(tmp_path):
    run = Run(tmp_path)
    run.save_config(OmegaConf.create({"a": "* & !", "b": "what? & why!"}))
    assert run.config().a == "* & !"


def test_a_run_that_is_trusted_may_say_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("WIDTH", "3")
    run, trusted = Run(tmp_path), Run(tmp_path, trust=True)
    run.config_file.parent.mkdir()
    run.config_file.write_text(
        "a: &a [1]\nb: *a\nprior: {_target_: builtins.dict, w: '${oc.env:WIDTH}', _convert_: all}"
    )
    with pytest.raises(UserError, match="alias of YAML"):
        run.config()
    assert make(trusted.config(), "prior") == {"w": "3"} and trusted.config().b == [1]
    run.config_file.write_text("prior: {_target_: builtins.dict, w: 3}")
    assert make(trusted.config(), "prior") == {"w": 3}
    with pytest.raises(UserError, match="^prior._target_='builtins.dict'"):
        make(run.config(), "prior")


def test_the_rule_stays_with_what_is_made_of_a_saved_config(tmp_path):
    """Changed, copied, merged, on either side: it is still somebody else's."""
    run = Run(tmp_path)
    run.save_config(OmegaConf.create({"prior": {"_target_": "builtins.dict"}, "seed": 1}))
    saved, own = run.config(), OmegaConf.create({"seed": 2, "prior": {"_target_": "builtins.dict"}})
    saved.seed = 4
    for cfg in (saved, saved.copy(), OmegaConf.merge(saved, own), OmegaConf.merge(own, saved)):
        with pytest.raises(UserError, match="^prior._target_='builtins.dict'"):
            make(cfg, "prior")
    assert make(own, "prior") == {}
