"""python -m cvae evaluate RUN --factors: latents against the known factors of the images."""

import argparse
import json
from typing import TYPE_CHECKING

from cvae.checks import positive_int
from cvae.commands.inputs import device_of, model_of, said, watched
from cvae.errors import ConfigError
from cvae.runs.directory import Run
from cvae.runs.modelled import remarks
from cvae.runs.small_files import read_config
from cvae.runs.storage import save
from cvae.runtime.console import console

if TYPE_CHECKING:
    from rich.table import Table

    from cvae.evaluation.measure import Figure


def add_options(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument(
        "--factors",
        action="store_true",
        help="measure the latents against the known factors of the images in place of log p(x): MIG, SAP, DCI, the "
        "scores of beta-VAE and FactorVAE, modularity, explicitness. All but MIG, modularity and FactorVAE's score "
        "need scikit-learn (pip install -e '.[measures]')",
    )


def measure(args: argparse.Namespace) -> None:
    """Measure the means of q(z|x) of the test images: writes a file and a picture into the run, and prints a table.

    Raises:
        UserError: an option, the run or its data are wrong, the model is of codes, or there are no factors.
    """
    if args.until is not None:
        raise ConfigError("--until", args.until, "left out with --factors")
    if args.draw is not None:
        raise ConfigError("--draw", args.draw, "left out with --factors")
    if args.images is not None:
        positive_int("--images", args.images)
    import torch

    from cvae import pictures
    from cvae.build import load_data
    from cvae.evaluation.known_factors import coded
    from cvae.evaluation.known_factors import measure as measured
    from cvae.evaluation.report import test_batches

    run, device = Run(args.run, args.trust), torch.device(device_of(args))
    vae, step, weights = model_of(args, str(device))
    data = load_data(run, args.data_root)
    count = min(args.images or len(data.test), len(data.test))
    rows = range(count)
    known = coded(vae, test_batches(vae, data, rows, device), data.test.images, rows, args.seed)
    found = measured(known, args.seed, lambda rows: watched(rows, "measuring", len(rows)))
    about = {
        "images": count, "seed": args.seed, "factors": list(known.names), "latents": known.z.shape[1],
        "checkpoint": run.checkpoint(args.checkpoint).name, "step": step, "split": "test", "weights": weights,
    }  # fmt: skip
    content = {name: figure._asdict() for name, figure in found.figures.items()} | {"settings": about}
    file = run.factor_measures(about["checkpoint"], weights, count, args.seed)
    save(file, json.dumps(content, indent=2).encode())
    console.print(table(found.figures, about, remarks(read_config(run.config_file), about["checkpoint"], weights)))
    save(run.factors, pictures.png(pictures.factors(known.z, known.factors, found.told, known.names)))
    said(f"What each latent tells of each factor: {run.factors}")


def table(figures: "dict[str, Figure]", about: dict, said_of_images: list[str]) -> "Table":
    """The figures for the terminal."""
    from rich.table import Table

    caption = [
        f"{about['latents']} latents; factors: {', '.join(about['factors'])}; seed: {about['seed']}",
        "± is the deviation over draws of half of the images",
        *said_of_images,
    ]
    shown = Table(title=f"{about['images']:,} test images, {about['checkpoint']}", caption="\n".join(caption))
    shown.add_column("")
    shown.add_column("", justify="right")
    shown.add_column("± std. error", justify="right")
    for value, error, _, meaning in figures.values():
        shown.add_row(meaning, f"{value:.3f}", f"{error:.3f}")
    return shown
