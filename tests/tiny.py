"""Runs that take a third of a second: a few 8x8 images, a network of four hidden units."""

from types import SimpleNamespace

from conftest import config
from pytorch_lightning.callbacks import timer

from cvae.training.module import VAEModule
from cvae.training.train import train

TINY = [
    "data=synthetic", "data.image_shape=[1,8,8]", "data.source.train_size=10", "data.source.test_size=7",
    "data.batch_size=4", "data.eval_batch_size=3", "model=mlp", "model.hidden=[4]", "model.latent_dim=2",
    "trainer=cpu", "trainer.max_epochs=2", "trainer.log_every_n_steps=2", "optimizer.lr=0.01", "evaluation.samples=0",
    "callbacks.pictures.num=4", "callbacks.pictures.manifold_steps=2",
]  # fmt: skip
QUIET = ["~callbacks.pictures", "~callbacks.progress", "~logger.tensorboard"]


def tiny(folder, *overrides):
    """The config of a tiny run into `folder`: 10 training images in batches of 4, 7 test images in batches of 3."""
    another = any(word.startswith("model=") for word in overrides)
    base = [word for word in TINY if not (another and word.startswith("model."))]
    return config(*base, f"run_dir={folder}", *overrides)


def trained(folder, *overrides):
    """(config, what train returned) of a tiny run."""
    cfg = tiny(folder, *overrides)
    return cfg, train(cfg)


def a_second_a_step(monkeypatch):
    """For trainer.max_time a second goes by in each minibatch, and no time else."""
    gone, before_step = [0], VAEModule.before_step

    def counted(self, *given):
        gone[0] += 1
        return before_step(self, *given)

    monkeypatch.setattr(VAEModule, "before_step", counted)
    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: gone[0]))
