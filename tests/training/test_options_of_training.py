"""Rules for values that go straight to libraries: each key with values that are taken and values that are not."""

import copy
import re

import pytest
from omegaconf import OmegaConf
from tiny import tiny

from cvae.build import build_data
from cvae.errors import ConfigError, UserError
from cvae.training.options import RULES, check, require_batches

NAN, INF = float("nan"), float("inf")
FLAG = ([True, False], [1, 0, None, "no-way"], "one of False, True")
BATCHES = (
    [1, 7, 0.5, 1.0, 0.001],
    [0, -1, 0.0, -0.5, 1.5, True, None, "few"],
    "a positive integer (batches) or a number above 0 and at most 1 (a share of them)",
)
WHOLE = ([1, 100], [0, -1, 2.5, True, None, "few"], "a positive integer")
ABOVE_0 = ([0.3, 2, 1e-8], [0, 0.0, -0.1, NAN, INF, True, None, "few"], "a finite number above 0")
AT_LEAST_0 = ([0, 0.0, 0.3, 2], [-0.1, NAN, INF, True, None, "few"], "a finite number of at least 0")

FLAG_OR_NULL = ([True, False, None], [1, 0, "no-way"], "one of False, True")
WHOLE_OR_NULL = ([1, 100, None], [0, -1, 2.5, True, "few"], "a positive integer")

CASES = {  # key: values that are taken, values that are not, what is said of these
    "seed": ([0, 7, 4294967295], [-1, 4294967296, 1.5, True, None], "an integer from 0 to 4294967295"),
    "conditional": FLAG,
    "averaging.decay": ([None, 0, 0.5, 0.9999], [1, -0.1, True, "half"], "a number of at least 0 and below 1"),
    "trainer.accelerator": (["auto", "cpu"], [None, "abacus", "tpu"], "a device of this machine: one of auto, cpu"),
    "trainer.compile": FLAG,
    "trainer.cuda_graphs": FLAG,
    "trainer.max_time": (
        [None, "00:08:30:00", "7:00:00:59"],
        ["08:30:00", 9, 1.5, True, "00:08:30:00:00", "00:8:30:00", "x"],
        "days:hours:minutes:seconds, as 00:08:30:00; or null for no limit",
    ),
    "trainer.gradient_clip_val": ([None, *ABOVE_0[0]], [v for v in ABOVE_0[1] if v is not None], ABOVE_0[2]),
    "trainer.skip_above": ([None, *ABOVE_0[0]], [v for v in ABOVE_0[1] if v is not None], ABOVE_0[2]),
    "trainer.gradient_clip_algorithm": (["norm", "value", None], ["NORM", "inf", 2], "one of norm, value, None"),
    "trainer.precision": (
        ["32-true", "bf16-mixed", "16-mixed", 32, "32", "bf16", 16, None],
        ["64-true", "bf16-true", "16-true", 64, "transformer-engine", True, 32.0, "few"],
        "one of 32-true, bf16-mixed, 16-mixed: weights stay in float32",
    ),
    "trainer.strategy": (
        ["auto", "ddp", "ddp_find_unused_parameters_true"],
        ["fsdp", "deepspeed", "ddp_spawn", None, True],
        "auto or ddp (trainer.devices with a copy of the model each)",
    ),
    "trainer.max_epochs": WHOLE,
    "trainer.min_epochs": WHOLE_OR_NULL,
    "trainer.min_steps": WHOLE_OR_NULL,
    "trainer.accumulate_grad_batches": WHOLE,
    "trainer.check_val_every_n_epoch": WHOLE_OR_NULL,
    "trainer.val_check_interval": (
        [1, 100, 0.25, 1.0, "00:00:01:00", None],
        [0, -1, 0.0, 1.5, True],
        "a positive integer (minibatches), a number above 0 and at most 1 (of an epoch), or a time",
    ),
    "trainer.num_sanity_val_steps": ([0, 3, -1, None], [-2, 1.5, True, "few"], "an integer of at least -1"),
    "trainer.enable_progress_bar": FLAG_OR_NULL,
    "trainer.enable_model_summary": FLAG_OR_NULL,
    "trainer.detect_anomaly": FLAG,
    "trainer.inference_mode": FLAG,
    "trainer.sync_batchnorm": FLAG,
    "trainer.use_distributed_sampler": FLAG,
    "trainer.deterministic": ([False, True, "warn", None], [1, 0, "no-way"], "one of False, True, warn, None"),
    "trainer.max_steps": ([1, 100, -1], [0, -2, 2.5, True, None, "few"], "a positive integer, or -1 for no limit"),
    "trainer.log_every_n_steps": WHOLE,
    "trainer.limit_train_batches": BATCHES,
    "trainer.limit_val_batches": BATCHES,
    "trainer.limit_test_batches": BATCHES,
    "optimizer.lr": ([1e-9, 3], [0, -1, NAN, INF, True, None, "fast"], "a finite number above 0"),
    "optimizer.eps": ABOVE_0,
    "optimizer.weight_decay": AT_LEAST_0,
    "optimizer.betas": (
        [[0.0, 0.5], [0.9, 0.999], [0.5, 0.0]],
        [[0.9], [0.9, 1], [1, 0.9], [-0.1, 0.9], [0.1, 0.2, 0.3], 0.9, [True, 0.9], ["a", "b"], None],
        "two numbers, each at least 0 and below 1",
    ),
    "optimizer.fused": FLAG,
    "scheduler.T_max": WHOLE_OR_NULL,
    "scheduler.interval": (["epoch", "step"], ["batch", None, 1, True], "one of epoch, step"),
    "scheduler.warmup_steps": ([0, 7], [-1, 1.5, True, None, "few"], "an integer of at least 0"),
    "scheduler.total_steps": ([50, None], [0, -1, 2.5, True, "few"], "a positive integer"),
    "scheduler.max_lr": ABOVE_0,
    "scheduler.pct_start": ([0.3, 0.9], [0, 1, 1.0, 0.0, -0.1, True, None, "few"], "a number above 0 and below 1"),
    "scheduler.div_factor": ABOVE_0,
    "scheduler.final_div_factor": ABOVE_0,
    "scheduler.eta_min": AT_LEAST_0,
    "scheduler.step_size": WHOLE,
    "scheduler.gamma": ABOVE_0,
}


@pytest.fixture(scope="module")
def bases():
    return [tiny("nowhere", f"scheduler={name}") for name in ("cosine", "step", "one_cycle")]


def cases(which):
    return [(key, value) for key, case in CASES.items() for value in case[which]]


def configured(bases, key, value):
    """With the scheduler that has the key."""
    group, _, name = key.rpartition(".")
    cfg = copy.deepcopy(next((base for base in bases if name in base.get(group or "data", {})), bases[0]))
    OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


def test_every_rule_has_cases():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize(("key", "value"), cases(0))
def test_what_is_taken(bases, key, value):
    check(configured(bases, key, value))


@pytest.mark.parametrize(("key", "value"), cases(1))
def test_what_is_not_taken_is_said_with_its_key(bases, key, value):
    said = re.escape(CASES[key][2])
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}=.*: must be {said}"):
        check(configured(bases, key, value))


def test_keys_that_a_config_lacks_are_not_asked_for():
    check(tiny("nowhere", "~optimizer.eps", "~optimizer.betas", "~optimizer.fused", "scheduler=constant"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+optimizer.maximise=true"], "optimizer: torch.optim.Adam does not take its values: .*maximise"),
        (
            ["+optimizer.foreach=true"],
            "optimizer: torch.optim.Adam does not take its values: .*",
        ),
        (["scheduler.factor=-1"], "scheduler: torch.optim.lr_scheduler.ConstantLR does not take its values: "),
    ],
)
def test_what_the_library_refuses_names_the_group(words, message):
    with pytest.raises(UserError, match=f"^{message}"):
        check(tiny("nowhere", *words))


def test_values_that_a_scheduler_looks_at_only_when_it_steps():
    cfg = tiny("nowhere")
    cfg.scheduler = {
        "_target_": "torch.optim.lr_scheduler.CyclicLR", "_partial_": True, "base_lr": 0.1, "max_lr": 1.0,
        "step_size_up": 0, "step_size_down": 0, "cycle_momentum": False,
    }  # fmt: skip
    with pytest.raises(
        UserError, match="^scheduler: torch.optim.lr_scheduler.CyclicLR does not take its values: .*division"
    ):
        check(cfg)


@pytest.mark.parametrize(("name", "count"), [("train", 3), ("val", 2), ("test", 4)])
def test_a_share_of_the_batches_that_leaves_none_is_refused(name, count, tmp_path):
    """Before the training, also where it would be felt only at its end."""
    small = ["data.source.test_size=10", "data.source.train_size=16", "data.validation_size=4"]
    key = f"trainer.limit_{name}_batches"
    cfg = tiny(tmp_path, *small, f"+{key}={0.99 / count}")
    data = build_data(cfg)
    data.setup()
    least = f"{1 / count:.3g}"
    with pytest.raises(ConfigError, match=f"^{key}=.*: must be at least {least}: there are {count} batches$"):
        require_batches(cfg, data)
    cfg.trainer[key.partition(".")[2]] = 1 / count + 1e-9
    require_batches(cfg, data)
    cfg.trainer[key.partition(".")[2]] = 1
    require_batches(cfg, data)
