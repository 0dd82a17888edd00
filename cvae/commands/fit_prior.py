"""python -m cvae fit-prior RUN prior=NAME: the same model with a prior that is fitted after training."""

import argparse
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from cvae.checks import positive_int, seed_number
from cvae.commands.fitted_prior import KINDS, ROUNDS, of_size, part_of, posterior_draws, say_what_was_kept, unfitted
from cvae.commands.inputs import add_device, data_of, device_of, model_of, said, watched
from cvae.errors import ConfigError, UserError
from cvae.runs.directory import LAST, Run
from cvae.runs.names import suffix
from cvae.runs.small_files import CONFIG, read_bytes, read_config, read_json
from cvae.runs.storage import new_folder, save
from cvae.version import VERSION

if TYPE_CHECKING:
    from cvae.data import ImageData
    from cvae.evaluation import Settings
    from cvae.models.vae import VAE


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    fit_prior = commands.add_parser(
        "fit-prior",
        parents=[run],
        help="keep the encoder and the decoder, and fit another prior to the aggregate posterior",
        description="Fit a prior to one draw of q(z|x) for each training image (Ghosh et al. 2020; for codes van den "
        "Oord et al. 2017), and make a new run with the same encoder and decoder and this prior. You can use it like "
        "any other run. With several groups of latents only the top group's prior is fitted. A tenth of the draws is "
        "held out for early stopping and to choose how many components a gmm keeps; another tenth gives the figure "
        "that is printed.",
        epilog="example: python -m cvae fit-prior outputs/vq_mnist/2026-01-31_12-00-00 prior=autoregressive",
    )
    fit_prior.set_defaults(call=make_run)
    fit_prior.add_argument(
        "words",
        metavar="prior=NAME",
        nargs="+",
        help="gmm, flow or two_stage (a second VAE), or for codes autoregressive, with its keys: prior=gmm "
        "prior.components=100",
    )
    fit_prior.add_argument(
        "--rounds", type=int, default=ROUNDS, help="passes through the draws, at most (default: %(default)s)"
    )
    fit_prior.add_argument(
        "--samples", type=int, default=10, help="importance samples per test image, at the end (default: %(default)s)"
    )
    add_device(fit_prior)
    fit_prior.add_argument("--data-root", metavar="DIR", help="the folder of the data, if it has moved")
    fit_prior.add_argument("--out", metavar="DIR", help="a new folder for the run (default: beside RUN)")


def make_run(args: argparse.Namespace) -> None:
    """Fit a prior, and write the model with it as a run, with its figures on the test images.

    Raises:
        UserError: a word, an option, the run or its data are wrong.
    """
    kind, keys = prior_of(args.words)
    positive_int("--rounds", args.rounds)
    positive_int("--samples", args.samples)
    seed_number("--seed", args.seed)
    if args.out and Path(args.out).exists():
        raise ConfigError("--out", args.out, "a folder that is not there yet")
    import torch

    from cvae.evaluation import Settings
    from cvae.evaluation.fit import fit, nll, split
    from cvae.runtime.devices import keep_freed_memory, tell_torch_of_no_gpu
    from cvae.runtime.noise import fixed_noise

    keep_freed_memory()
    tell_torch_of_no_gpu()
    old = Run(args.run, args.trust)
    device = device_of(args)
    vae, step, kept = model_of(args, device)
    part = with_keys(part_of(kind, vae, "prior"), keys)
    data = data_of(args)
    with fixed_noise(args.seed, torch.device(device)):
        prior = unfitted(part, vae).to(device)
        z = posterior_draws(vae, data)
        before = nll(vae.prior(vae.infer), split(z)[-1])
        after = fit(prior, z, watched(range(args.rounds), f"fitting {kind}", args.rounds))
    vae.prior = prior.eval()
    new = Run(new_folder(Path(args.out or beside(old, args.words))))
    with new.writing():
        write(new, old, of_size(part, prior.state_dict()), args.words, vae, step, kept)
        measure(new, old, vae, data, Settings(args.samples, seed=args.seed), step, kept)
    by_old = f"{before:.2f} nats by the prior of {old}, " if math.isfinite(before) else "no prior before, "
    said(f"-log p(z) of posterior draws held out: {by_old}{after:.2f} by the new one")
    say_what_was_kept(part, prior, vae)
    said(f"The run is in {new}")


def prior_of(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The name and the keys of prior=NAME prior.KEY=VALUE …

    Raises:
        UserError: a word is none of these.
    """
    names = [word.removeprefix("prior=") for word in words if word.startswith("prior=")]
    keys = [word.removeprefix("prior.") for word in words if word.startswith("prior.") and "=" in word]
    if len(names) != 1 or len(keys) != len(words) - 1 or names[0] not in KINDS:
        raise UserError(f"{' '.join(words)}: must be prior={'|'.join(KINDS)}, and keys of it as in prior.hidden=256")
    return names[0], {str(key): value for key, value in OmegaConf.from_dotlist(keys).items()}


def with_keys(part: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """The part with keys of the user's; those of a flow stand inside."""
    return {**part, "prior": part["prior"] | keys} if "prior" in part else part | keys


def beside(old: Run, words: Sequence[str]) -> Path:
    """A folder for the new run, with the words in its name."""
    folder, added = old.path.resolve(), suffix(None, words)
    return folder.with_name(folder.name + (added if old.name == folder.name else f",{added[1:]}"))


def write(new: Run, old: Run, part: dict[str, Any], words: Sequence[str], vae: "VAE", step: int, kept: str) -> None:
    """Write the files of the new run: config, overrides and checkpoint."""
    import torch

    from cvae.build import saved_config
    from cvae.runs.checkpoint import FORMAT

    cfg = saved_config(old)
    cfg.prior, cfg.run_dir = part, str(new)
    new.save_config(cfg)
    new.save_overrides([*(word for word in old.overrides() if not word.startswith(("prior=", "prior."))), *words])
    if read_config(old.hydra_file):
        save(new.hydra_file, read_bytes(old.hydra_file, CONFIG))
    weights = {f"vae.{name}": value for name, value in vae.state_dict().items()}
    content = io.BytesIO()
    about = {"format": FORMAT, "version": VERSION, "weights": kept}
    torch.save({"state_dict": weights, "global_step": step, "cvae": about}, content)
    save(new.checkpoints / LAST, content.getvalue())


def measure(new: Run, old: Run, vae: "VAE", data: "ImageData", settings: "Settings", step: int, weights: str) -> None:
    """Measure the new run, and save its figures under the names that a training gives them."""
    from cvae.commands.evaluate import into_run
    from cvae.evaluation.report import scalars

    figures = into_run(vae, data, new, settings, LAST, step, weights)
    measured = {f"test/{name}": figures[name].value for name in ("elbo", "rate", "distortion") if name in figures}
    bound = {"test/bound": measured["test/elbo"]} if "test/elbo" in measured else {}
    before = read_json(old.metrics)
    kept = {key: before[key] for key in ("train/seconds_per_epoch", "epochs", "steps") if key in before}
    parameters = {"parameters": sum(p.numel() for p in vae.parameters())}
    new.save_metrics(measured | bound | kept | parameters | scalars(figures))
