"""Gradients that are averaged over processes and unscaled; two processes that train one model, to the last bit."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
import torch.distributed as dist
from command_line import train_py
from same_run import last
from tiny import QUIET, TINY, tiny

from cvae.build import build_data, build_vae, make
from cvae.runtime.noise import seed_step
from cvae.training import gradients
from cvae.training.module import VAEModule
from cvae.training.train import train


@pytest.fixture
def other(monkeypatch):
    """Another process, that gives the numbers in this list to each sum."""
    values = []
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return values


def test_gradients_are_means_over_the_processes_in_their_own_places(other):
    one, two = torch.zeros(2, 3).T.requires_grad_(), torch.zeros(2, requires_grad=True)
    frozen, unused = torch.zeros(1), torch.zeros(1, requires_grad=True)
    one.grad, two.grad = torch.arange(6.0).view(2, 3).T, torch.tensor([10.0, 20.0])
    place = one.grad.data_ptr()
    other[:] = [0, 30, 10, 40, 20, 50, 0, 0, 8]  # as `one` is read, row by row
    optimizer = torch.optim.SGD([{"params": [one, frozen, two]}, {"params": [unused]}])
    gradients.average(optimizer, lambda flat: flat.add_(torch.tensor(other)))
    assert one.grad.tolist() == [[0, 16.5], [5.5, 22], [11, 27.5]] and one.grad.data_ptr() == place
    assert two.grad.tolist() == [5, 10] and unused.grad.tolist() == [4] and frozen.grad is None


class Scaled(L.Callback):
    """float16's scaler, which Lightning has only on GPUs."""

    scaler: torch.amp.GradScaler

    def setup(self, trainer, module, stage):
        trainer.precision_plugin.scaler = self.scaler


@pytest.mark.parametrize("fused", ["true", "false"])
@pytest.mark.parametrize("words", [[], ["trainer.gradient_clip_val=3", "+trainer.accumulate_grad_batches=2"]])
def test_a_scaler_changes_no_step(words, fused, tmp_path):
    """Powers of 2 are exact: gradients are clipped, and hooks see them, as they are without it."""
    words = [*QUIET, f"optimizer.fused={fused}", *words]
    train(tiny(tmp_path / "plain", *words))
    Scaled.scaler = scaler = torch.amp.GradScaler("cpu", 2.0**12, growth_interval=2)
    train(tiny(tmp_path / "scaled", *words, "+callbacks.own._target_=test_gradients.Scaled"))
    assert scaler.get_scale() == 2.0 ** (12 + last(tmp_path / "scaled")["global_step"] // 2)
    torch.testing.assert_close(
        last(tmp_path / "scaled")["state_dict"], last(tmp_path / "plain")["state_dict"], rtol=0, atol=0
    )


@pytest.mark.parametrize("fused", ["true", "false"])
def test_a_step_whose_gradients_overflow_is_left_out_and_counted(fused, tmp_path, monkeypatch):
    Scaled.scaler = torch.amp.GradScaler("cpu", 2.0**12)
    seen, step, loss = [], VAEModule.optimize, VAEModule.loss

    def noted(self, pixels, y, number):
        seen.append([p.detach().clone() for p in self.parameters()])
        return step(self, pixels, y, number)

    def large(self, pixels, y, number):
        mean, terms = loss(self, pixels, y, number)
        return mean * 1e38 if number == 2 else mean, terms

    monkeypatch.setattr(VAEModule, "optimize", noted)
    monkeypatch.setattr(VAEModule, "loss", large)
    train(tiny(tmp_path, *QUIET, f"optimizer.fused={fused}", "+callbacks.own._target_=test_gradients.Scaled"))
    same = [all(map(torch.equal, before, after)) for before, after in pairwise(seen)]
    assert same == [False, False, True, False, False] and last(tmp_path)["global_step"] == 6
    assert Scaled.scaler.get_scale() == 2.0**11


OWN = """
import os
import torch
from pytorch_lightning import Callback
from torch import nn
from cvae.objectives import ELBO

class Keep(Callback):
    steps_are_enough = True

    def on_train_epoch_end(self, trainer, module):
        kept = {"weights": module.state_dict(), "optimizer": module.optimizers().optimizer.state_dict()}
        torch.save(kept, f"{trainer.current_epoch}_{trainer.global_rank}.pt")

class Watching(Keep):
    steps_are_enough = False

    def on_before_optimizer_step(self, trainer, module, optimizer):
        pass

class Odd(ELBO):
    def __init__(self, **keys):
        super().__init__(**keys)
        self.unused, self.once, self.of_one = (nn.Parameter(torch.ones(2)) for _ in range(3))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, vae, x, y=None, step=0):
        terms = super().forward(vae, x, y, step)
        extra = self.norm(x.flatten(1)[:, 27:30]).sum()
        if step % 2:
            extra = extra + self.once.sum()
        if os.environ.get('LOCAL_RANK') == '1':
            extra = extra + self.of_one.square().sum()
        return terms._replace(loss=terms.loss + extra)
"""
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.source.train_size=34", "data.batch_size=3"]
EPOCHS = 3  # of 6 minibatches in each process, the last one smaller
BY_HAND = ["optimizer=sgd", "optimizer.momentum=0"]
CASES = {
    "a step a minibatch": BY_HAND,
    "accumulated and clipped": ["+trainer.accumulate_grad_batches=4", "trainer.gradient_clip_val=5", *BY_HAND],
    "a critic, watched": ["objective=factor_vae", "callbacks.keep._target_=own.Watching"],
    "a codebook": ["posterior=vq", "posterior.codes=5", "prior=uniform", "trainer.precision=bf16-mixed"],
    "parameters without a gradient, batch norm": [
        "objective._target_=own.Odd", "+trainer.val_check_interval=2", "+trainer.accumulate_grad_batches=3", *BY_HAND
    ],
}  # fmt: skip


def by_hand(cfg, share, bound):
    """The weights after plain descent with the mean gradients of two processes with `share` minibatches each."""
    torch.manual_seed(cfg.seed)
    vae, data, step = build_vae(cfg), build_data(cfg), 0
    data.setup()
    objective, parameters = make(cfg, "objective"), list(vae.parameters())
    for epoch in range(EPOCHS):
        batches = []
        for rank in range(2):
            data.trainer = SimpleNamespace(
                world_size=2, global_rank=rank, strategy=SimpleNamespace(root_device=torch.device("cpu"))
            )
            loader = data.train_dataloader()
            loader.sampler.set_epoch(epoch)
            batches.append(list(loader))
        for first in range(0, len(batches[0]), share):
            sums = [torch.zeros_like(p) for p in parameters]
            for number in range(first, min(first + share, len(batches[0]))):
                for rank in range(2):
                    seed_step(cfg.seed, rank, epoch, number, device=torch.device("cpu"))
                    x, y = data.as_seen(batches[rank][number])
                    loss = objective(vae, x, vae.labels(y), step).loss.mean() / share / 2
                    sums = [s + g for s, g in zip(sums, torch.autograd.grad(loss, parameters), strict=True)]
            norm = torch.cat([s.flatten() for s in sums]).norm()
            with torch.no_grad():
                for p, s in zip(parameters, sums, strict=True):
                    p -= cfg.optimizer.lr * s * min(1, bound / (norm + 1e-6))
            step += 1
    return {f"vae.{name}": value for name, value in vae.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_same_weights_to_the_last_bit(name, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.py").write_text(OWN)
    keep = [] if any("keep" in word for word in CASES[name]) else ["callbacks.keep._target_=own.Keep"]
    words = [*TINY, *QUIET, *TWO, f"trainer.max_epochs={EPOCHS}", *CASES[name], *keep]
    words = [f"+{word}" if word.startswith("callbacks.keep") else word for word in words]
    done = train_py("--config-dir", "own", *words, "hydra.run.dir=run", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    kept = [[torch.load(tmp_path / f"{epoch}_{rank}.pt") for rank in range(2)] for epoch in range(EPOCHS)]
    for one, two in kept:
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    weights = kept[-1][0]["weights"]
    assert not torch.equal(weights["vae.encoder.1.weight"], kept[0][0]["weights"]["vae.encoder.1.weight"])
    if BY_HAND[0] in CASES[name] and "Odd" not in str(CASES[name]):
        share, bound = (4, 5) if "clipped" in name else (1, torch.inf)
        torch.testing.assert_close(
            weights,
            by_hand(tiny(tmp_path, *words[len(TINY) :], f"run_dir={tmp_path}"), share, bound),
            rtol=1e-5,
            atol=1e-6,
        )
    if "Odd" in str(CASES[name]):
        lr, steps = 0.01, 2 * EPOCHS
        assert weights["objective.unused"].tolist() == [1, 1]
        assert weights["objective.once"].tolist() == pytest.approx([1 - lr * steps / 2] * 2)
        assert weights["objective.of_one"].tolist() == pytest.approx(
            [(1 - lr) ** steps] * 2
        )  # half of 2 w in each step
        assert weights["objective.norm.running_mean"].abs().sum() > 0


def test_the_first_process_gives_its_weights_and_buffers_to_all(monkeypatch):
    """Also to tensors that do not lie one number after the other."""
    model = torch.nn.BatchNorm2d(2)
    model.weight.data = torch.zeros(2, 2).T[0]
    model.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
    seen = []

    def broadcast(values, source):
        assert values.is_contiguous()
        seen.append(source)
        values.fill_(5)

    monkeypatch.setattr(gradients, "several_processes", lambda: True)
    monkeypatch.setattr(gradients.dist, "broadcast", broadcast)
    strategy = SimpleNamespace(model=model)
    gradients.without_wrapper(strategy)
    strategy.configure_ddp()
    tensors = [*model.parameters(), *model.buffers()]
    assert seen == [0] * 6 and all((tensor == 5).all() for tensor in tensors)
