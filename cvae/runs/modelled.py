"""A run's model and data in words, and any use of its test images before the test. Needs no torch.

An ELBO ranks runs only where they model the same: the same images, seen in the same way, by likelihoods of one kind.
"""

import re
from typing import Any

from cvae.runs.directory import AVERAGED, BEST, RAW
from cvae.runs.trust import found

UNKNOWN = "not known, as the config cannot be read"
PROBABILITIES = {"Bernoulli", "DiscretizedLogistic", "MixtureOfLogistics"}  # likelihoods by the names of their classes
DENSITIES = {"Gaussian", "ContinuousBernoulli"}
ONE_CODE = {"VQ", "FSQ"}  # posteriors that are a single code
NAMED = {"ImageData", ""}  # data whose images the source alone tells, wherever they are
READ = {
    "fit": "crop",
    "transparent": "white",
    "white": None,
    "first": None,
}  # how a user's own files are read, and what is usual
BESIDE = ("dataset", "image_shape", "train_size")  # keys of a source that are said otherwise, or not about test images


def modelled(config: dict) -> str:
    """In words, as in "MNIST 1x28x28, binarization=static; probabilities": runs with the same words can be ranked.

    config: of a run, as it stands in its file
    """
    data = config.get("data")
    if not isinstance(data, dict) or not isinstance(config.get("likelihood"), dict):
        return UNKNOWN
    source: dict = data["source"] if isinstance(data.get("source"), dict) else {}
    kind = last_name(data)
    name = str(source.get("dataset") or last_name(source) or kind)
    options = {key: value for key, value in source.items() if not key.startswith("_") and key not in BESIDE}
    if kind not in NAMED or not str(source.get("_target_", "cvae.")).startswith("cvae."):
        known = data.get("fingerprint")  # the same images are the same wherever they are
        options |= {"root": data.get("root")} if known is None else {"images": known}
        options |= {key: data[key] for key, usual in READ.items() if data.get(key, usual) != usual}
    options |= {key: data[key] for key in ("test_size", "binarization") if key in data}
    options |= {"invert": "true"} if data.get("invert") else {}
    if (batches := found(config, "trainer.limit_test_batches")) not in (None, 1.0):
        options["limit_test_batches"] = batches
    options = {key: resolved(config, value) for key, value in options.items() if value is not None}
    words = [f"{name} {shape(config)}".strip(), *(f"{key}={value}" for key, value in options.items())]
    words += ["given the class"] if config.get("conditional") is True else []
    words += ["trained on the test images, too (data.train_on=all)"] if trained_on(config) else []
    return f"{', '.join(words)}; {measure(config['likelihood'])}"


def measure(likelihood: dict) -> str:
    """The kind of log p(x|z): of probabilities or of densities, which cannot be compared."""
    name = last_name(likelihood)
    if name == "Bernoulli" and likelihood.get("soft") is True:
        return "cross-entropies, no log p(x)"
    kinds = {"probabilities": PROBABILITIES, "densities": DENSITIES}
    return next((kind for kind, names in kinds.items() if name in names), f"likelihood {name}")


def shape(config: dict) -> str:
    """1x28x28, or nothing where it is not known."""
    sizes = found(config, "data.image_shape")
    return "x".join(str(resolved(config, size)) for size in sizes) if isinstance(sizes, list) else ""


def resolved(config: dict, value: Any) -> Any:
    """A value, or of a reference ${key} the value of that key."""
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return found(config, reference[1]) if reference else value


def last_name(part: Any) -> str:
    """The name of a part's class or function, without its module."""
    return str(part.get("_target_", "") if isinstance(part, dict) else "").rpartition(".")[2]


def one_code(config: dict) -> bool:
    """Whether q(z|x) is a single code: its NLL is a bound that no number of samples makes tight."""
    return last_name(config.get("posterior")) in ONE_CODE


def trained_on(config: dict) -> bool:
    """Whether the test images were trained on, too."""
    return found(config, "data.train_on") == "all"


def chosen_by(config: Any) -> bool:
    """Whether what is chosen in a run, as its best epoch, is chosen by the test images."""
    monitor = found(config, "callbacks.checkpoint.monitor")
    return not found(config, "data.validation_size") and monitor != "train_epoch/elbo"


def weights_of(config: dict) -> str:
    """Whether the figures of a run are of averaged or of raw weights, unless they say so themselves."""
    return RAW if found(config, "averaging.decay") is None else AVERAGED


def remarks(config: dict, checkpoint: str = "", weights: str | None = None) -> list[str]:
    """What must be said beside a figure of the test images; nothing where they were held out, of weights as they are.

    Args:
        checkpoint: the file of the model that was measured
        weights: of it, averaged or raw; None: those that a training measures
    """
    said = ["the test images were trained on, too (data.train_on=all)"] if trained_on(config) else []
    if (init := config.get("init")) is not None:
        said.append(f"the weights began as those of {init!s:.200} (init): what that run was trained on counts, too")
    kept = checkpoint.startswith("epoch=") and found(config, "callbacks.checkpoint.keep_best")
    if (checkpoint == BEST or kept) and chosen_by(config):
        said.append(f"{checkpoint} was chosen by the test images (data.validation_size=0)")
    if weights_of(config) == AVERAGED:
        decay = found(config, "averaging.decay")
        averaged = f"of averaged weights (averaging.decay={decay!s:.9})"
        said.append("of the raw weights, not of their averages" if weights == RAW else averaged)
    return said
