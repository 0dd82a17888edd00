"""python -m cvae export RUN: the model as files that run without cvae."""

import argparse
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from cvae.commands.inputs import model_of, said, watched
from cvae.errors import ConfigError, UserError
from cvae.runs.directory import Run
from cvae.runs.storage import save

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cvae.models.vae import VAE

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CLOSE = 1e-5  # how near a file's results must be to the model's, absolute up to 1 and relative above
SIZES = (1, 7)  # of the batches that this is checked with; the files take any


class Part(NamedTuple):
    """A function of a model that becomes a file, with the names and examples of its inputs."""

    name: str
    module: "nn.Module"
    inputs: "dict[str, Tensor]"  # batches of 2


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export",
        parents=[run],
        help="write the model as ONNX and as programs of torch.export",
        description="Write encoder (x -> z, the posterior mean), decoder (z -> x, the mean of p(x|z)) and sampler "
        "(noise -> x) into RUN/export, as ONNX and as programs of torch.export (.pt2). They take batches of any size. "
        "The sampler makes draws of the prior from normal noise (B, D), that of several groups of latents side by "
        "side, and, for mixtures, from choice (B), uniform in [0, 1). A model that is conditioned on the class takes "
        "the label y (B), too. Each file is compared with the model before it is written.",
        epilog="example: python -m cvae export outputs/tf_tutorial/2026-01-31_12-00-00",
    )
    export.set_defaults(call=write)


def write(args: argparse.Namespace) -> None:
    """Write the files, each only if it gives what the model gives.

    Raises:
        UserError: the run is wrong, packages are missing, or a part of this model cannot be exported.
    """
    if missing := [package for package in PACKAGES if not find_spec(package)]:
        raise UserError(f"export needs {', '.join(missing)}: pip install -e '.[export]'")
    vae = model_of(args).vae
    parts, folder = parts_of(vae), Run(args.run).export
    for part in watched(parts, "exporting", len(parts)):
        onnx, program, furthest = exported(part)
        save(folder / f"{part.name}.onnx", onnx)
        save(folder / f"{part.name}.pt2", program)
        said(f"{folder / part.name}.onnx, .pt2: ({', '.join(part.inputs)}), within {furthest:.0e} of the model")
    if len(parts) < 3:
        said("no sampler: the prior is not made of normal distributions")


def parts_of(vae: "VAE") -> list[Part]:
    """Encoder, decoder and, where draws of the prior are a function of noise, sampler."""
    import torch
    from torch import nn
    from torch.distributions import MixtureSameFamily

    from cvae.distributions import from_noise
    from cvae.models.ladder import Ladder
    from cvae.models.latent_paths import posterior_mean

    class Model(nn.Module):
        """The checks of the model's own methods are left out: they would be part of the program."""

        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

    class Encoder(Model):
        def forward(self, x: "Tensor", y: "Tensor | None" = None) -> "Tensor":
            return posterior_mean(self.vae.infer(self.vae.labelled(x, y)))

    class Decoder(Model):
        def forward(self, z: "Tensor", y: "Tensor | None" = None) -> "Tensor":
            return self.vae.likelihood_of(z, y).mean

    def sampled(vae: "VAE", noise: "Tensor", choice: "Tensor", y: "Tensor | None") -> "Tensor":
        top, *others = noise.split([*z, *below], 1)
        top = from_noise(vae.p_z(), top, choice)
        if isinstance(vae, Ladder):
            return vae.decode_noise(top, y, others).mean
        return vae.likelihood_of(top, y).mean

    class MixtureSampler(Model):
        def forward(self, noise: "Tensor", choice: "Tensor", y: "Tensor | None" = None) -> "Tensor":
            return sampled(self.vae, noise, choice, y)

    class Sampler(Model):
        def forward(self, noise: "Tensor", y: "Tensor | None" = None) -> "Tensor":
            return sampled(self.vae, noise, noise[:, 0], y)  # no choice is needed

    (z, x), p, below = vae.shapes, vae.p_z(), sizes_below(vae)
    label = {"y": torch.arange(2) % vae.num_classes} if vae.num_classes else {}
    noise = {"noise": torch.randn(2, sum([*z, *below]))}
    parts = [
        Part("encoder", Encoder(), {"x": torch.rand(2, *x), **label}),
        Part("decoder", Decoder(), {"z": torch.randn(2, *z), **label}),
    ]
    try:
        from_noise(p, noise["noise"][:, : z[0]], torch.rand(2))
    except ConfigError:
        return parts
    if isinstance(p, MixtureSameFamily):
        return [*parts, Part("sampler", MixtureSampler(), noise | {"choice": torch.rand(2)} | label)]
    return [*parts, Part("sampler", Sampler(), noise | label)]


def sizes_below(vae: "VAE") -> list[int]:
    """The number of latents in each group below the top one."""
    import torch

    y = torch.zeros(1, dtype=torch.long) if vae.num_classes else None
    with torch.no_grad():
        return [latent.z.shape[-1] for latent in vae(torch.zeros(1, *vae.shapes[1]), y).latents[1:]]


def exported(part: Part) -> tuple[bytes, bytes, float]:
    """A part as ONNX and as a program of torch.export, and how far their results are from the model's, at most.

    Made in memory: where a disk is full, torch's writer of programs ends the process.

    Raises:
        UserError: torch cannot export it, or the results differ by more than CLOSE.
    """
    import torch

    module = part.module.eval()
    batches = tuple({0: torch.export.Dim.DYNAMIC} for _ in part.inputs)
    with torch.no_grad(), quiet():
        try:
            traced = torch.export.export(module, tuple(part.inputs.values()), dynamic_shapes=batches)
            torch.export.save(traced, file := io.BytesIO())
            program = file.getvalue()
            made: Any = torch.onnx.export(traced, dynamo=True, verbose=False)
            onnx = made.model_proto.SerializeToString()
            differences = torch.tensor([difference(part, onnx, program, size) for size in SIZES])
        except Exception as error:  # what exporters and onnxruntime raise has no common class
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"the {part.name} of this model cannot be exported: {reason}") from error
    furthest = differences.max().item()  # NaN if one is
    if not furthest <= CLOSE:
        raise UserError(f"the {part.name} as a file differs from the model by {furthest:.1e}, above {CLOSE:g}")
    return onnx, program, furthest


def difference(part: Part, onnx: bytes, program: bytes, size: int) -> float:
    """The largest difference between the files' results and the model's for a batch of this size: absolute up to 1,
    relative above.
    """
    import onnxruntime
    import torch

    inputs = [torch.cat([value] * size)[torch.randperm(2 * size)[:size]] for value in part.inputs.values()]
    expected = part.module(*inputs)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(part.inputs, inputs, strict=True)})
    results = torch.stack([torch.from_numpy(found), torch.export.load(io.BytesIO(program)).module()(*inputs)])
    return ((results - expected).abs() / expected.abs().clamp(min=1)).max().item()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' own log lines and warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
