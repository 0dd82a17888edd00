"""init=RUN: which weights of another run a training begins with, what is said of it, and what is refused."""

import logging
import shutil
from socket import gethostname

import pytest
import torch
from same_run import last, require_equal_checkpoints
from tiny import QUIET, TINY, tiny

import cvae
import cvae.training.initial
import cvae.training.train
from cvae.build import build_vae
from cvae.cli.resume import run_to_resume
from cvae.cli.train import for_hydra
from cvae.errors import ConfigError, Stopped, UserError
from cvae.runs.directory import Run
from cvae.runs.modelled import remarks
from cvae.training.initial import SHOWN, listed, taken_over
from cvae.training.train import train

STILL = "optimizer.lr=1e-30"  # no step changes a weight


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A run with averages, in a folder as runs are called."""
    folder = tmp_path_factory.mktemp("runs") / "12-00-00_latent_dim=2,seed=1 'mine'"
    cfg = tiny("here", *QUIET, "averaging.decay=0.7", "prior=vamp", "prior.components=3")
    cfg.run_dir = str(folder)
    train(cfg)
    Run(folder).save_overrides(["experiment=theirs", "model.hidden=[4]"])
    return folder


def beginning(folder, init, *words):
    """The config of a run that begins with the weights of another."""
    cfg = tiny(folder, *QUIET, *words)
    cfg.init = str(init)
    return cfg


@pytest.fixture
def copy(old, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(old, tmp_path / "old")


def change(folder, name, value):
    """Another value of a weight in a checkpoint."""
    content = last(folder)
    content["state_dict"][f"vae.{name}"] = content["cvae"]["averages"][name] = value
    torch.save(content, folder / "checkpoints" / "last.ckpt")


def said(caplog):
    return [record.getMessage()[6:] for record in caplog.records if record.getMessage().startswith("init: ")]


def test_all_weights_of_the_same_model_are_its_averages(old, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(beginning(tmp_path, old, "prior=vamp", "prior.components=3", STILL, "seed=5"))
    averages = last(old)["cvae"]["averages"]
    new = last(tmp_path)
    assert averages.keys() == {name[4:] for name in new["state_dict"]}
    for name, value in averages.items():
        torch.testing.assert_close(new["state_dict"][f"vae.{name}"], value, rtol=0, atol=0)
        assert not torch.equal(value, last(old)["state_dict"][f"vae.{name}"])
    count = sum(value.numel() for value in averages.values())
    (line,) = said(caplog)
    assert line == (
        f"9 of 9 tensors ({count:,} numbers) are those of {old}/checkpoints/last.ckpt, step 6, averaged weights"
    )
    assert new["global_step"] == 6  # of its own, as the optimizer's states are
    assert {float(state["step"]) for state in new["optimizer_states"][0]["state"].values()} == {6}


def test_what_fits_is_taken_and_what_does_not_is_said_with_both_shapes(old):
    vae = build_vae(tiny("nowhere", "model.latent_dim=3", "prior=mixture", "prior.components=5"))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    first, *lines = taken_over(Run(old), vae)
    averages = last(old)["cvae"]["averages"]
    taken = [name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])]
    assert taken == ["encoder.1.weight", "encoder.1.bias", "decoder.0.bias", "decoder.2.weight", "decoder.2.bias"]
    for name, value in vae.state_dict().items():
        alike = name in averages and averages[name].shape == value.shape
        torch.testing.assert_close(value, averages[name] if alike else before[name], rtol=0, atol=0)
    assert first.startswith("5 of 11 tensors (")
    assert lines == [
        "another shape, so not taken: encoder.3.weight [4, 4] there, [6, 4] here; encoder.3.bias [4] there, [6] here; "
        "decoder.0.weight [4, 2] there, [4, 3] here",
        "only in this model, new: prior.logits [5]; prior.mean [5, 3]; prior.logvar [5, 3]",
        "only in that run: prior.pseudo_inputs [3, 1, 8, 8]",
    ]


def test_raw_weights_of_a_run_without_averages(tmp_path):
    train(tiny(tmp_path, *QUIET))
    vae = build_vae(tiny("nowhere"))
    (line,) = taken_over(Run(tmp_path), vae)
    assert line.endswith("step 6, raw weights")
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(value, last(tmp_path)["state_dict"][f"vae.{name}"], rtol=0, atol=0)


def test_a_long_list_is_cut(old):
    vae = build_vae(tiny("nowhere", "model.hidden=[4,4,4,4,4,4,4]", "model.latent_dim=2"))
    line = next(line for line in taken_over(Run(old), vae) if line.startswith("only in this model"))
    assert line.count("; ") == SHOWN and line.endswith("; … (24 in all)")


def test_nothing_fits(old):
    vae = build_vae(tiny("nowhere", "model.hidden=[5]", "data.image_shape=[1,4,4]", "model.latent_dim=7"))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(ConfigError, match=r"^init=.*: must be a run whose model has .*\(experiment=theirs model.hid"):
        taken_over(Run(old), vae)
    torch.testing.assert_close(vae.state_dict(), before)


def test_a_wrong_run_is_said_before_data_are_read(old, copy, tmp_path, monkeypatch):
    def unread(*_):
        raise AssertionError("data are read")

    monkeypatch.setattr(cvae.training.train, "read_images", unread)
    (copy / "checkpoints" / "last.ckpt").unlink()
    damaged = shutil.copytree(old, tmp_path / "damaged")
    (damaged / "checkpoints" / "last.ckpt").write_bytes(b"no checkpoint")
    for init, message in (
        (tmp_path / "nowhere", "is not a run directory"),
        (copy, "has no checkpoint last.ckpt"),
        (damaged, "is damaged or no checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            train(beginning(tmp_path / "new", init))


def test_what_somebody_else_can_have_written(copy, tmp_path):
    """Links out of the run, numbers that are none, names with escapes: refused, or harmless."""
    vae = build_vae(tiny("nowhere"))
    change(copy, "decoder.0.bias", torch.full((4,), torch.nan))
    with pytest.raises(UserError, match="no finite numbers: decoder.0.bias$"):
        taken_over(Run(copy), vae)
    change(copy, "decoder.0.bias", torch.zeros(4, dtype=torch.float64))
    change(copy, "\x1b[2J" + "x" * 200, torch.zeros(1))
    _, other, alone = taken_over(Run(copy), vae)
    assert other == "another shape, so not taken: decoder.0.bias [4] there, [4] here"
    assert alone.startswith("only in that run: prior.pseudo_inputs [3, 1, 8, 8]; \\x1b[2Jxxx") and len(alone) < 200
    (copy / "images").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a link that leads out of the run"):
        taken_over(Run(copy), vae)


def test_its_config_is_not_used(copy):
    """Whatever it names is not called: the run need not be trusted."""
    (copy / ".hydra" / "config.yaml").write_text("model: {_target_: os.abort}\n")
    assert taken_over(Run(copy), build_vae(tiny("nowhere")))[0].startswith("8 of 8 tensors")


def test_a_run_that_goes_on_does_not_load_again(copy, tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(beginning(whole, copy))
    train(beginning(parted, copy, "trainer.max_epochs=1"))
    shutil.rmtree(copy)
    for how in ("whole", "damaged", "gone"):
        if how != "whole":
            (parted / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
        if how == "gone":
            (parted / "checkpoints" / "last.ckpt").unlink()
        train(beginning(parted, copy), resume=True)
        require_equal_checkpoints(last(parted), last(whole))


def test_a_run_that_was_stopped_before_its_first_checkpoint_loads_again(old, tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(beginning(whole, old))
    train(beginning(parted, old, "trainer.max_epochs=1"))
    for name in ("last.ckpt", "previous.ckpt"):
        (parted / "checkpoints" / name).unlink(missing_ok=True)
    assert (parted / "checkpoints" / "best.ckpt").exists()
    train(beginning(parted, old), resume=True)
    require_equal_checkpoints(last(parted), last(whole))


def test_only_the_user_names_it(old, tmp_path):
    """Of a run of somebody else that has saved nothing yet, `init` could name any file."""
    cfg = beginning(tmp_path, old)
    cfg._set_flag("foreign", True)
    with pytest.raises(UserError, match="a saved config may not name a run to begin with. If you trust"):
        cvae.training.initial.begin_with(cfg, build_vae(tiny("nowhere")), resume=True)


def test_not_together_with_resume(old):
    run = cvae.open_run(old)
    with pytest.raises(UserError, match=r"^init=x: a run that goes on takes only "):
        cvae.train(f"resume={run.path}", "init=x")
    assert run_to_resume(["init=x"]) is None


def test_a_folder_with_any_signs_is_one_word(old, tmp_path, monkeypatch):
    monkeypatch.chdir(old.parent)
    signs = old.name.replace("'", "\\'")
    assert for_hydra(["-m", f"init={old.name}", "seed=1"]) == ["-m", f"init='{signs}'", "seed=1"]
    assert for_hydra(["init=a,b", "init=null"]) == ["init=a,b", "init=null"]  # a sweep over runs; none
    run = cvae.train(*TINY, *QUIET, f"init={old.name}", STILL, f"hydra.run.dir={tmp_path}")
    assert run.config.init == old.name
    averages = last(old)["cvae"]["averages"]
    torch.testing.assert_close(last(tmp_path)["state_dict"]["vae.decoder.0.weight"], averages["decoder.0.weight"])


def test_figures_say_it():
    assert remarks({"init": "outputs/a"}) == [
        "the weights began as those of outputs/a (init): what that run was trained on counts, too"
    ]
    assert remarks({"init": None}) == []


def test_the_averages_of_a_new_run_begin_with_them(old, tmp_path, monkeypatch):
    monkeypatch.setattr(cvae.training.module.VAEModule, "training_step", stop)
    seen = []
    monkeypatch.setattr(
        cvae.training.module.VAEModule, "on_train_start", lambda self: seen.append(self.averages.of_checkpoint()[0])
    )
    with pytest.raises(Stopped):
        train(beginning(tmp_path, old, "averaging.decay=0.9"))
    expected = last(old)["cvae"]["averages"]
    for name, value in seen[0].items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def stop(*_):
    raise Stopped(2)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_run_that_another_machine_lacks_is_said_with_its_name(nodes, tmp_path):
    cfg = beginning(tmp_path / "new", tmp_path / "gone", f"+trainer.num_nodes={nodes}")
    here = f"{tmp_path / 'gone'} is not a run directory"
    said = f"{here} on the machine {gethostname()}. Each of the 2" if nodes == 2 else f"{here}: it has no .hydra"
    with pytest.raises(UserError, match=f"^init={tmp_path / 'gone'}: {said}"):
        cvae.training.initial.begin_with(cfg, build_vae(tiny("nowhere")), resume=False)


def test_a_list_that_is_just_short_enough_is_whole():
    names = [str(number) for number in range(SHOWN + 1)]
    assert listed(names[:-1]) == "; ".join(names[:-1]) and listed(names).endswith(f"; … ({SHOWN + 1} in all)")
