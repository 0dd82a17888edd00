"""What a user may add of Lightning's: each callback and each key of the trainer works, or is refused by one line."""

import inspect
import re
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
from omegaconf import OmegaConf
from pytorch_lightning import callbacks as lightnings
from tiny import QUIET, tiny

import cvae
from cvae.errors import ConfigError, UserError
from cvae.training.added import lightnings_errors, refusal, require_figures
from cvae.training.options import require_an_image_each
from cvae.training.train import assemble, train

TENSORBOARD = [word for word in QUIET if "tensorboard" not in word]


def added(kind, **keys):
    words = ", ".join([f"_target_: pytorch_lightning.callbacks.{kind}", *(f"{key}: {keys[key]}" for key in keys)])
    return [f"+callbacks.own={{{words}}}"]


LEN = "{_target_: hydra.utils.get_method, path: builtins.len}"
NO_BAR = r"trainer: pytorch_lightning.Trainer does not take its values: .*enable_progress_bar=False.* found `{}`"
REFUSED = "callbacks.own: {} does not work here: "
FIGURES = "must be one of selection/bound, test/elbo, test/rate, "
CALLBACKS = {  # name: [(keys of the callback, other words, None where it works, or what is said)]
    "BackboneFinetuning": [({}, [], REFUSED + "it wants a module with a backbone")],
    "BaseFinetuning": [({}, [], "callbacks.own: {} does nothing by itself")],
    "BasePredictionWriter": [({}, [], None)],
    "BatchSizeFinder": [({}, [], REFUSED + "it trains before the run, .* Choose data.batch_size")],
    "Callback": [({}, [], None)],
    "Checkpoint": [({}, [], None)],
    "DeviceStatsMonitor": [
        ({}, [], "callbacks.own: {} needs a logger, as logger=tensorboard"),
        ({"cpu_stats": "false"}, TENSORBOARD, None),
    ],
    "EMAWeightAveraging": [({"update_starting_at_step": 0, "decay": 0.9}, [], None)],
    "EarlyStopping": [
        ({"monitor": "test/elbo", "mode": "max"}, [], None),
        ({"monitor": "train_epoch/elbo", "mode": "max"}, [], None),
        ({"monitor": "selection/bound", "mode": "max", "check_on_train_epoch_end": "false"}, [], None),
        ({"monitor": "validation/elbo", "mode": "max"}, ["data.validation_size=3"], None),
        ({"monitor": "val_loss"}, [], f"callbacks.own.monitor=val_loss: {FIGURES}.*, at an epoch's end"),
        ({"monitor": "val_loss", "strict": "false"}, [], None),
        ({"monitor": "test/elbo"}, ["data.validation_size=3"], "callbacks.own.monitor=test/elbo: must be one of sel"),
        ({"monitor": "train_epoch/elbo", "check_on_train_epoch_end": "false"}, [], f"callbacks.own.mon.*{FIGURES}"),
        ({"monitor": "test/elbo"}, ["trainer.check_val_every_n_epoch=2"], None),
        (
            {"monitor": "test/elbo", "check_on_train_epoch_end": "true"}, ["trainer.check_val_every_n_epoch=2"],
            "callbacks.own.monitor=test/elbo: must be one of train_epoch/elbo, ",
        ),
    ],
    "GradientAccumulationScheduler": [({"scheduling": "{0: 2}"}, [], None)],
    "LambdaCallback": [({}, [], None)],
    "LearningRateFinder": [({}, [], REFUSED + "it trains before the run, .* by python train.py -m optimizer.lr=")],
    "LearningRateMonitor": [
        ({}, [], "callbacks.own: {} needs a logger, as logger=tensorboard"),
        ({"logging_interval": "step"}, TENSORBOARD, None),
    ],
    "ModelCheckpoint": [
        ({"monitor": "test/elbo", "dirpath": "own"}, [], None),
        ({"monitor": "nonsense", "dirpath": "own"}, [], f"callbacks.own.monitor=nonsense: {FIGURES}"),
    ],
    "ModelPruning": [({"pruning_fn": "l1_unstructured"}, [], None)],
    "ModelSummary": [({}, [], None)],
    "OnExceptionCheckpoint": [({"dirpath": "own"}, [], None)],
    "ProgressBar": [({}, [], NO_BAR)],
    "RichModelSummary": [({}, [], None)],
    "RichProgressBar": [({}, [], NO_BAR), ({}, ["trainer.enable_progress_bar=true"], None)],
    "SpikeDetection": [({}, [], None)],
    "StochasticWeightAveraging": [({"swa_lrs": 0.1}, [], REFUSED + ".*averaging.decay=0.999 averages weights")],
    "TQDMProgressBar": [({}, [], NO_BAR), ({}, ["trainer.enable_progress_bar=true"], None)],
    "ThroughputMonitor": [
        ({"batch_size_fn": LEN}, [], "callbacks.own: {} needs a logger, as logger=tensorboard"),
        ({"batch_size_fn": LEN}, TENSORBOARD, None),
        ({"batch_size_fn": "null"}, TENSORBOARD, "pytorch_lightning.callbacks.throughput_monitor: TypeError"),
    ],
    "Timer": [({"duration": "00:01:00:00"}, [], None)],
    "WeightAveraging": [({}, [], None)],
}  # fmt: skip


def test_every_callback_of_lightnings_is_in_the_table():
    assert set(CALLBACKS) == set(lightnings.__all__)


@pytest.mark.parametrize(
    ("kind", "keys", "words", "said"),
    [pytest.param(kind, *case, id=f"{kind}-{n}") for kind, cases in CALLBACKS.items() for n, case in enumerate(cases)],
)
def test_a_callback_works_or_is_refused_by_a_line(kind, keys, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet = words if words is TENSORBOARD else [*QUIET, *words]
    epochs = [] if "trainer.check_val_every_n_epoch=2" in words else ["trainer.max_epochs=1"]
    cfg = tiny(tmp_path / "run", *quiet, *epochs, *added(kind, **keys))
    if said is None:
        train(cfg)
        cvae.load(tmp_path / "run")
        return
    with pytest.raises(UserError, match=f"^{said.format(kind)}") as refused:
        train(cfg)
    assert "\n" not in str(refused.value) and not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


KEYS = {  # of the trainer: values that work, {value that does not: what is said}
    "accelerator": (["cpu"], {"abacus": "trainer.accelerator=abacus: must be"}),
    "strategy": (["auto"], dict.fromkeys(
        ["fsdp", "deepspeed", "deepspeed_stage_3", "ddp_spawn", "ddp_notebook", "x", "null", 3],
        "trainer.strategy=.*: must be auto or ddp",
    )),
    "devices": ([1, "auto"], {0: "trainer: ", "x": "trainer: ", "null": "trainer: "}),
    "num_nodes": ([1], {0: "trainer: .*num_nodes"}),
    "precision": (
        ["32-true", "bf16-mixed", "null", 32],
        dict.fromkeys(
            ["64-true", "bf16-true", "16-true", "64", "transformer-engine", "[1]", "x"],
            "trainer.precision=.* one of 32-true, bf16-mixed, 16-mixed",
        ),
    ),
    "logger": (["false"], {}),  # ours are in the group of that name
    "callbacks": (["null"], {}),
    "fast_dev_run": (["true", 2], {"x": "trainer: "}),
    "max_epochs": ([1], {0: "trainer.max_epochs=0", -1: "trainer.max_epochs=-1"}),
    "min_epochs": ([1, "null"], {0: "trainer.min_epochs=0", "x": "trainer.min_epochs=x"}),
    "max_steps": ([3, -1], {0: "trainer.max_steps=0"}),
    "min_steps": ([3, "null"], {-4: "trainer.min_steps=-4", "x": "trainer.min_steps=x"}),
    "max_time": (["00:00:01:00", "{hours: 1}"], {"x": "trainer.max_time=x: must be days:hours:min"}),
    "limit_train_batches": ([2], {0: "trainer.limit_train_batches=0"}),
    "limit_val_batches": ([2], {0: "trainer.limit_val_batches=0"}),
    "limit_test_batches": ([2], {0: "trainer.limit_test_batches=0"}),
    "limit_predict_batches": ([2], {-1: "trainer: .*limit_predict_batches"}),
    "overfit_batches": ([1, 0.5], {-1: "trainer: .*overfit_batches"}),
    "val_check_interval": (
        [1, 0.5, "00:00:01:00"],
        {
            0: "trainer.val_check_interval=0", 100: "trainer.val_check_interval=100: must be at most 3, the mini",
            "x": "trainer: ", 1.5: "trainer.val_check_interval=1.5", -1: "trainer.val_check_interval=-1",
        },
    ),
    "check_val_every_n_epoch": ([2, "null"], {0: "trainer.check_val_every_n_epoch=0", -1: "trainer.check_val"}),
    "num_sanity_val_steps": ([2, -1], {"x": "trainer.num_sanity_val_steps=x: must be an integer of at least -1"}),
    "log_every_n_steps": ([1], {0: "trainer.log_every_n_steps=0"}),
    "enable_checkpointing": (["false", "true"], {}),
    "enable_progress_bar": (["true"], {"x": "trainer.enable_progress_bar=x"}),
    "enable_model_summary": (["true"], {"x": "trainer.enable_model_summary=x"}),
    "accumulate_grad_batches": ([2], {0: "trainer.accumulate_grad_batches=0: must be a positive integer"}),
    "gradient_clip_val": ([1], {-1: "trainer.gradient_clip_val=-1"}),
    "gradient_clip_algorithm": (["value"], {"x": "trainer.gradient_clip_algorithm=x"}),
    "deterministic": (["true", "warn"], {"x": "trainer.deterministic=x"}),
    "benchmark": (["true"], {"x": "trainer: "}),
    "inference_mode": (["false"], {"x": "trainer.inference_mode=x"}),
    "use_distributed_sampler": (["true"], {"x": "trainer.use_distributed_sampler=x"}),
    "profiler": (["simple"], {"x": "trainer: .*profiler"}),
    "detect_anomaly": (["true"], {"x": "trainer.detect_anomaly=x"}),
    "barebones": (["false"], {"true": "trainer: .*barebones"}),
    "plugins": (["null", "[]"], {"x": "trainer: "}),
    "sync_batchnorm": (["true"], {"x": "trainer.sync_batchnorm=x"}),
    "reload_dataloaders_every_n_epochs": ([1], {-1: "trainer: .*reload_dataloaders_every_n_epochs"}),
    "default_root_dir": (["root"], {}),
    "enable_autolog_hparams": (["false"], {}),
    "model_registry": (["null"], {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_before():
    """`deterministic` and `benchmark` are settings of the process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


def test_every_key_of_the_trainer_is_in_the_table():
    assert set(KEYS) == set(inspect.signature(L.Trainer).parameters)


ALONE = ("fast_dev_run", "overfit_batches", "val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches")
TOGETHER = [
    [f"++trainer.{key}={works[number]}" for key, (works, _) in KEYS.items() if key not in ALONE and number < len(works)]
    for number in range(max(len(works) for works, _ in KEYS.values()))
]


@pytest.mark.parametrize(
    "words", [*([f"++trainer.{key}={value}"] for key in ALONE for value in KEYS[key][0]), *TOGETHER]
)
def test_what_works(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tiny(tmp_path / "run", *QUIET, "trainer.max_epochs=1", *words))


@pytest.mark.parametrize(
    ("key", "value", "said"), [(key, *pair) for key, (_, refused) in KEYS.items() for pair in refused.items()]
)
def test_what_is_refused(key, value, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = tiny(tmp_path / "run", *QUIET, f"++trainer.{key}={value}")
    with pytest.raises(UserError, match=f"^{said}"):
        assemble(cfg) if value != 100 else train(cfg)


def test_a_scheduler_that_follows_a_figure_or_ends_before_the_run():
    made = "scheduler={{_target_: torch.optim.lr_scheduler.{}, _partial_: true, {}}}"
    for name, keys, said in (
        ("ReduceLROnPlateau", "factor: 0.5", "scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau follows a figure"),
        ("OneCycleLR", "max_lr: 0.1, total_steps: 3", "scheduler.total_steps=3: must be null, or at least 9"),
    ):
        cfg = tiny("nowhere", "trainer.max_epochs=9", "~scheduler", "+" + made.format(name, keys))
        with pytest.raises(UserError, match=f"^{said}"):
            assemble(cfg)


def test_fewer_images_than_processes(tmp_path):
    cfg = tiny(tmp_path, "data.source.test_size=2", "trainer.devices=3")
    data = assemble(tiny(tmp_path, "data.source.test_size=2")).data
    data.setup()
    require_an_image_each(cfg, data, 2)
    said = "trainer.devices=3: must be at most 2 in all: there are 2 test images, and each process needs one"
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        require_an_image_each(cfg, data, 3)


class Wrong(L.Callback):
    """A user's own, with an error in it."""

    def on_train_start(self, trainer, module):
        trainer.nonsense()


def test_errors_of_other_code_keep_their_trace(tmp_path):
    cfg = tiny(tmp_path / "run", *QUIET, "+callbacks.own={_target_: test_added.Wrong}")
    with pytest.raises(AttributeError, match="nonsense") as found:
        train(cfg)
    assert not refusal(found.value)
    train(tiny(tmp_path / "other", *QUIET, "trainer.max_epochs=1"))
    cfg.run_dir = str(tmp_path / "other")
    with pytest.raises(AttributeError, match="nonsense"):  # nor is its checkpoint to blame
        train(cfg, resume=True)


def calls(*modules, kind=ValueError):
    """A function of the first of these modules that calls one of the next, and so on; the last raises an error."""
    inner = None
    for module in reversed(modules):
        space = {"__name__": module, "inner": inner, "kind": kind}
        exec("def call(): " + ("inner()" if inner else "raise kind('too\\n  large')"), space)
        inner = space["call"]
    return inner


THROUGH = ("pytorch_lightning.utilities.rank_zero", "lightning_utilities.core", "lightning_fabric.utilities.types")


@pytest.mark.parametrize(
    ("modules", "place"),
    [
        (["cvae.training.train", "pytorch_lightning.callbacks.timer"], "pytorch_lightning.callbacks.timer"),
        (["pytorch_lightning.trainer.a", *THROUGH, "torch.optim", "json.decoder"], "pytorch_lightning.trainer.a"),
        (["pytorch_lightning.trainer.a", "pytorch_lightning.tuner.b"], "pytorch_lightning.tuner.b"),
        (["pytorch_lightning.loops.a", "cvae.training.module"], ""), (["cvae.training.train", "torch.nn"], ""),
        (["pytorch_lightning.loops.a", "cvae.training.module", "torch.nn"], ""),
        (["pytorch_lightning.loops.a", "pytorch_lightning.strategies.ddp"], ""),
        (["pytorch_lightning.loops.a", "lightning_fabric.plugins.b"], ""),
    ],
)  # fmt: skip
def test_whose_error_it_is(modules, place):
    """Lightning's own, through what it calls of torch, Python's library and its utilities; else it stays as it is."""
    kind, said = (UserError, f"^{place}: ValueError: too large .HYDRA_FULL_ERROR=1 shows where.$")
    with pytest.raises(kind if place else ValueError, match=said if place else "large") as found, lightnings_errors():
        calls(*modules)()
    assert type(found.value) is (UserError if place else ValueError)
    for other in (OSError, UserError):
        with pytest.raises(other, match="^too\n  large$"), lightnings_errors():
            calls(*modules, kind=other)()


EPOCH, BOTH, CODES = "train_epoch/elbo", "pytorch_lightning.callbacks.ModelCheckpoint", "test/perplexity"
SAME = "pytorch_lightning.callbacks.early_stopping.EarlyStopping"
AFTER = ", after an evaluation (check_on_train_epoch_end: false)"


@pytest.mark.parametrize(
    ("monitor", "changed", "said"),
    [
        (EPOCH, {}, None), ("test/elbo", {}, None), ("test/bound", {}, None), ("selection/bound", {}, None),
        (EPOCH, {"interval": 0.5}, AFTER), (EPOCH, {"interval": 0.5, "kind": SAME}, AFTER),
        ("test/elbo", {"interval": 0.5}, None), (EPOCH, {"every": 2}, AFTER),
        (EPOCH, {"interval": 0.5, "at_end": True}, None), (EPOCH, {"every": 2, "at_end": True}, None),
        (EPOCH, {"interval": 0.5, "kind": BOTH}, None), ("elbo", {"kind": BOTH}, ""),
        (CODES, {"codes": 8}, None), (CODES, {}, ", at an epoch's end"), ("train_epoch/perplexity", {"codes": 8}, ""),
        ("validation/elbo", {"split": "validation"}, None), ("test/elbo", {"split": "validation"}, ""),
        (EPOCH, {"relaxed": True}, ""), ("train_epoch/relaxed_elbo", {"relaxed": True}, None),
        ("test/elbo", {"relaxed": True}, None), ("elbo", {"kind": "cvae.training.checkpoints.Checkpoints"}, None),
    ],
)  # fmt: skip
def test_which_figures_can_be_monitored_when(monitor, changed, said):
    """An EarlyStopping looks at an epoch's end where there is one evaluation an epoch, or where it is told so."""
    given = {
        "interval": 1.0, "every": 1, "at_end": None, "codes": None, "relaxed": False, "split": "test",
        "kind": "pytorch_lightning.callbacks.EarlyStopping",
    } | changed  # fmt: skip
    own = {"_target_": given["kind"], "monitor": monitor, "check_on_train_epoch_end": given["at_end"]}
    cfg = OmegaConf.create({"callbacks": {"left_out": None, "own": own}})
    trainer = SimpleNamespace(check_val_every_n_epoch=given["every"], val_check_interval=given["interval"])
    vae = SimpleNamespace(posterior=SimpleNamespace(num_codes=given["codes"], relaxed=given["relaxed"]))
    module = SimpleNamespace(names=("elbo", "bound", "rate"), vae=vae)
    if said is None:
        require_figures(cfg, trainer, module, given["split"])
        return
    with pytest.raises(ConfigError, match=f"^callbacks.own.monitor={monitor}: must be one of selec") as refused:
        require_figures(cfg, trainer, module, given["split"])
    assert str(refused.value).endswith(said)
