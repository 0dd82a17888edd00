"""Which epoch each checkpoint is of, and that a checkpoint is whole."""

import os

import pytest
import pytorch_lightning as L
import torch
from tiny import QUIET, tiny, trained

import cvae
from cvae.build import build_data, build_vae, make
from cvae.objectives import Objective, Terms
from cvae.training.checkpoints import WholeCheckpoints
from cvae.training.module import VAEModule

BOUNDS = [1.0, 3.0, 2.0]  # after each epoch of three steps, at evaluation
ELBOS = [-1.0, -2.0, -0.5]


class Told(Objective):
    """Its bound and ELBO are what the lists above say: the best epoch is neither the first nor the last."""

    def forward(self, vae, x, y=None, step=0):
        ones = torch.ones(len(x))
        epoch = step // 3 if torch.is_grad_enabled() else step // 3 - 1
        loss = ones * vae.decoder[0].weight.sum()
        return Terms(loss, BOUNDS[epoch] * ones, 0 * ones, -ELBOS[epoch] * ones, {})


def fitted(folder, *overrides):
    cfg = tiny(folder, *QUIET, *overrides)
    module = VAEModule(build_vae(cfg), Told(), make(cfg, "optimizer"), make(cfg, "scheduler"))
    callbacks = list(make(cfg, "callbacks").values())
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=callbacks, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, plugins=[WholeCheckpoints()],
    )  # fmt: skip
    trainer.fit(module, datamodule=build_data(cfg))
    return {path.name: torch.load(path, weights_only=True) for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize(("monitor", "steps"), [([], 6), (["callbacks.checkpoint.monitor=train_epoch/elbo"], 9)])
def test_best_is_the_epoch_with_the_highest_figure(tmp_path, monitor, steps):
    """By default the bound at evaluation, not the ELBO; or that of the training images."""
    saved = fitted(tmp_path, *monitor)
    assert sorted(saved) == ["best.ckpt", "last.ckpt"]
    assert saved["best.ckpt"]["global_step"] == steps


def test_last_is_the_last_epoch_also_where_another_was_best(tmp_path):
    assert fitted(tmp_path)["last.ckpt"]["global_step"] == 9


def test_last_is_written_after_each_epoch(tmp_path, monkeypatch):
    """Also after one that is not evaluated."""
    saved, save = [], WholeCheckpoints.save_checkpoint

    def noted(self, checkpoint, path, *rest, **more):
        saved.append((path.name if hasattr(path, "name") else os.path.basename(path), checkpoint["global_step"]))
        save(self, checkpoint, path, *rest, **more)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", noted)
    trained(tmp_path, *QUIET, "+trainer.check_val_every_n_epoch=2")
    assert [step for name, step in saved if name == "last.ckpt"] == [3, 6]


@pytest.mark.parametrize("monitor", ["test/elbo", "train_epoch/rate", "null"])
def test_nothing_else_is_monitored(tmp_path, monitor):
    with pytest.raises(
        ValueError, match=r"callbacks.checkpoint.monitor=.*: must be one of selection/bound, train_epoch/elbo"
    ):
        make(tiny(tmp_path, f"callbacks.checkpoint.monitor={monitor}"), "callbacks")


def test_a_full_disk_leaves_the_checkpoint_of_the_epoch_before(tmp_path, monkeypatch):
    file = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"a": torch.ones(2)}, str(file))

    def full(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        WholeCheckpoints().save_checkpoint({"a": torch.zeros(2)}, file)
    assert torch.equal(torch.load(file, weights_only=True)["a"], torch.ones(2))
    assert [path.name for path in file.parent.iterdir()] == ["last.ckpt"]


def test_load_reads_last_by_default_and_best_by_name(tmp_path):
    trained(tmp_path, *QUIET)
    (tmp_path / ".hydra").mkdir(exist_ok=True)
    for name, factor in (("last", 2.0), ("best", 3.0)):
        file = tmp_path / "checkpoints" / f"{name}.ckpt"
        content = torch.load(file, weights_only=True)
        content["state_dict"]["vae.decoder.0.weight"] = torch.full_like(
            content["state_dict"]["vae.decoder.0.weight"], factor
        )
        torch.save(content, file)
    assert cvae.load(tmp_path).decoder[0].weight[0, 0] == cvae.load(tmp_path, "last").decoder[0].weight[0, 0] == 2
    assert cvae.load(str(tmp_path), checkpoint="best.ckpt").decoder[0].weight[0, 0] == 3
