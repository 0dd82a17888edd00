"""Measures of codes against known factors, ours and peers', of the same codes: python -m benchmarks.scores --help."""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import driver
from cvae.evaluation.known_factors import measure, of_arrays
from cvae.evaluation.measure import Figure

SIZES, COPIES = (4, 5, 6, 3), 60  # a grid of 360 cells, each with so many images, which differ by noise
PYTHON = str(driver.ROOT / "benchmarks/.venv/disent/bin/python")
CASES = ("factors", "rotated", "noise", "doubled", "mixed", "constant")


def codes(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes (cells, COPIES, D) of the grid's images, and the cells' factors (cells, F)."""
    rng = np.random.default_rng(0)
    factors = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), 1)
    exact = np.repeat(((factors - factors.mean(0)) / factors.std(0))[:, None], COPIES, 1)

    def noise(scale: float, latents: int = len(SIZES)) -> np.ndarray:
        return scale * rng.normal(size=(len(factors), COPIES, latents))

    z, turn = exact + noise(0.1), np.eye(len(SIZES))
    turn[:2, :2] = np.array([[1, -1], [1, 1]]) / 2**0.5
    mixture = rng.normal(size=(len(SIZES), 6))
    found = {
        "factors": z,
        "rotated": z @ turn,
        "noise": noise(1),
        "doubled": np.concatenate([z, exact + noise(0.1)], 2),
        "mixed": exact @ mixture + noise(0.5, 6),
        "constant": np.concatenate([z, np.zeros_like(z[..., :1])], 2),
    }
    return found[case], factors


def theirs(python: str, z: np.ndarray, seeds: int, images: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "codes.npz"
        np.savez(file, codes=z, sizes=SIZES)
        command = [python, "-W", "ignore", "-m", "benchmarks.peers.disent", str(file), str(seeds), str(images)]
        return json.loads(subprocess.run(command, cwd=driver.ROOT, check=True, stdout=subprocess.PIPE).stdout)


def compared(figure: Figure, values: list[float]) -> list[str]:
    """Ours, the peer's mean over seeds with their deviation, and how many standard errors ours is above."""
    row = [figure.meaning, f"{figure.value:.3f} ± {figure.standard_error:.3f}"]
    if not values:
        return row
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    error = np.hypot(figure.standard_error or 0, deviation / len(values) ** 0.5)
    return [*row, f"{mean:.3f} ± {deviation:.3f}", f"{(figure.value - mean) / max(error, 1e-9):.1f}"]


def main(argv: list[str] | None = None) -> None:
    about = "Codes of a grid of factors, measured by ours, by disent and by disentanglement_lib."
    options = argparse.ArgumentParser("python -m benchmarks.scores", description=about)
    options.add_argument("--cases", default=",".join(CASES), help="which codes (default: %(default)s)")
    options.add_argument("--images", type=int, default=2000, help="for ours, of 21,600 (default: %(default)s)")
    options.add_argument("--seeds", type=int, default=3, help="of the peers, 2 or more (default: %(default)s)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options.add_argument("--disent", metavar="PYTHON", default=PYTHON, help="that has both (default: %(default)s)")
    args = options.parse_args(argv)
    content = {}
    for case in args.cases.split(","):
        z, factors = codes(case)
        rows = np.random.default_rng(1).choice(z.shape[0] * z.shape[1], args.images, replace=False)
        known = of_arrays(z.reshape(-1, z.shape[2])[rows], np.repeat(factors, COPIES, 0)[rows], ("a", "b", "c", "d"))
        ours = measure(known, 0).figures
        peers = theirs(args.disent, z, args.seeds, args.images) if driver.has("disent", args.disent) else {}
        columns = ["", "ours ± error", "peer ± deviation", "apart, in errors"]
        table = [compared(figure, peers.get(name, [])) for name, figure in ours.items()]
        driver.show(f"{case}: {args.images} images", columns, table)
        content[case] = {"ours": {name: figure[:2] for name, figure in ours.items()}, "peers": peers}
    driver.save(args.json, {"scores": content})


if __name__ == "__main__":
    main()
