"""python -m cvae export RUN: the model as files that run without cvae."""

import argparse
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cvae.commands.inputs import model_of, said, watched
from cvae.errors import UserError
from cvae.runs.directory import Run
from cvae.runs.storage import save

if TYPE_CHECKING:
    from cvae.commands.exported import Part

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CLOSE = 1e-5  # how near a file's results must be to the model's, absolute up to 1 and relative above
SIZES = (1, 7)  # of the batches that this is checked with; the files take any


def add(commands: argparse._SubParsersAction, run: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export",
        parents=[run],
        help="export the model as ONNX and as torch.export programs",
        description="Write encoder (x -> z, the posterior mean), decoder (z -> x, the mean of p(x|z)) and sampler "
        "(noise -> x) into RUN/export, as ONNX and as torch.export programs (.pt2). They take batches of any size. "
        "The sampler turns normal noise (B, D) into draws of the prior; with several groups of latents, their noise "
        "stands side by side, and mixtures also take choice (B), uniform in [0, 1). A conditional model also takes "
        "the label y (B). Each file is compared with the model before it is written.",
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
    from cvae.commands.exported import parts_of

    vae = model_of(args).vae
    parts, folder = parts_of(vae), Run(args.run).export
    for part in watched(parts, "exporting", len(parts)):
        onnx, program, furthest = exported(part)
        save(folder / f"{part.name}.onnx", onnx)
        save(folder / f"{part.name}.pt2", program)
        said(f"{folder / part.name}.onnx, .pt2: ({', '.join(part.inputs)}), within {furthest:.0e} of the model")
    if len(parts) < 3:
        said("no sampler: the prior is not made of normal distributions")


def exported(part: "Part") -> tuple[bytes, bytes, float]:
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


def difference(part: "Part", onnx: bytes, program: bytes, size: int) -> float:
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
