"""python -m cvae evaluate RUN --quality: how good samples and reconstructions are."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from cvae.commands.inputs import device_of, levels_of, model_of, said, watched
from cvae.errors import ConfigError
from cvae.runs.directory import Run
from cvae.runs.modelled import remarks
from cvae.runs.small_files import read_config
from cvae.runs.storage import save
from cvae.runtime.console import console

if TYPE_CHECKING:
    from numpy import ndarray
    from rich.table import Table

    from cvae.data import ImageData
    from cvae.evaluation.measure import Figure
    from cvae.evaluation.quality import Measured

BESIDE = "train_"  # figures of a column of their own


def add_options(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument(
        "--quality",
        action="store_true",
        help="measure samples and reconstructions in place of log p(x): Fréchet distance, KID, precision and recall, "
        "density and coverage, Vendi score, PSNR, SSIM, and how near samples are to training images",
    )
    evaluate.add_argument(
        "--features",
        metavar="NAME",
        help="with --quality: the features of images: classifier, trained by python -m cvae features (default); "
        "pixels; or a network of torchvision, such as inception_v3, or inception_v3:FILE with the file of its weights",
    )
    evaluate.add_argument(
        "--lpips",
        metavar="NETWORK",
        help="with --quality: LPIPS of reconstructions, by alexnet, squeezenet1_1 or vgg16, or as vgg16:FILE with the "
        "file of its weights, which are never downloaded",
    )


def measure(args: argparse.Namespace) -> None:
    """Measure samples and reconstructions: writes a file and a picture into the run, and prints a table.

    Raises:
        UserError: an option, the run, its data or the features are wrong, or the model has no prior.
    """
    from cvae import pictures
    from cvae.build import choose, load_data, saved_config
    from cvae.evaluation.lpips import named_lpips
    from cvae.evaluation.quality import QualitySettings, quality
    from cvae.evaluation.real import chosen, real_features
    from cvae.runtime.devices import keep_freed_memory

    if args.until is not None:
        raise ConfigError("--until", args.until, "left out with --quality")
    if args.draw is not None:
        raise ConfigError("--draw", args.draw, "left out with --quality")
    wanted = {} if args.samples is None else {"samples": args.samples}
    try:
        settings = QualitySettings(**wanted, images=args.images, seed=args.seed)
    except ConfigError as error:
        raise ConfigError("--" + error.key, error.value, error.allowed) from error
    keep_freed_memory()
    run, device = Run(args.run, args.trust), device_of(args)
    vae, step, weights = model_of(args, device)
    data = load_data(run, args.data_root)

    def levels() -> "ImageData":
        cfg = saved_config(run)
        if args.data_root:
            choose(cfg, "root", args.data_root)
        return levels_of(cfg)

    lpips = None if args.lpips is None else named_lpips(args.lpips, data.image_shape).to(device)
    features, accuracy = chosen(args.features or "classifier", data, levels)
    real = real_features(data, features.to(device), settings, watched)
    measured = quality(vae, data, features, real, settings, watched, lpips)
    about = asdict(settings) | {
        "images": len(real.test), "features": features.name, "accuracy": accuracy, "training_images": len(real.train),
        "checkpoint": run.checkpoint(args.checkpoint).name, "step": step, "split": "test",
        "binarization": data.binarization, "device": device, "weights": weights,
    } | ({} if lpips is None else {"lpips": lpips.name})  # fmt: skip
    run.save_evaluation({name: figure._asdict() for name, figure in measured.figures.items()} | {"settings": about})
    said_of_images = remarks(read_config(run.config_file), about["checkpoint"], weights)
    console.print(table(measured.figures, about, said_of_images))
    save(run.nearest, pictures.png(picture(measured, data, features.name)))
    said(f"The samples that are nearest to training images, with these: {run.nearest}")


def table(figures: "dict[str, Figure]", about: dict, said_of_images: list[str]) -> "Table":
    """The figures for the terminal: of samples beside those of training images in their place, then the others."""
    from rich.table import Table

    accuracy = "" if about["accuracy"] is None else f" (test accuracy {about['accuracy']:.2%})"
    title = f"{about['samples']:,} samples, {about['images']:,} test images, {about['checkpoint']}"
    caption = [
        f"features: {about['features']}{accuracy}; binarization: {about['binarization']}; seed: {about['seed']}",
        "training: of as many training images in place of the samples, or of all: the best to hope for",
        *([f"LPIPS by {about['lpips']}"] if "lpips" in about else []),
        *said_of_images,
    ]
    shown = Table(title=title, caption="\n".join(caption))
    shown.add_column("")
    for heading in ("", "± std. error", "training"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    for name, figure in figures.items():
        if not name.startswith(BESIDE):
            beside = figures.get(f"{BESIDE}{name}")
            best = None if beside is None else beside.value
            shown.add_row(
                figure.meaning, digits(figure.value), digits(figure.standard_error), digits(best), figure.unit
            )
    return shown


def digits(value: float | None) -> str:
    """With three decimals, of small numbers with three digits; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def picture(measured: "Measured", data: "ImageData", name: str) -> "ndarray":
    """The samples that are nearest to training images, these beside them, and all distances as histograms."""
    import torch

    from cvae import pictures
    from cvae.evaluation.real import blocks

    nearest, shape = measured.nearest, measured.nearest.training.shape
    training = torch.cat(list(blocks(data, "train", nearest.training.flatten(), 0))).unflatten(0, shape)
    rows = torch.cat([measured.drawn.cpu()[:, None], training], 1)  # (8, 6, C, H, W)
    distance = nearest.samples[nearest.closest].tolist()
    return pictures.neighbours(rows, distance, nearest.samples.numpy(), nearest.test.numpy(), name)
