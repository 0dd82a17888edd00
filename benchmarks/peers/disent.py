"""disent 0.8.0 and disentanglement_lib 1.5: their measures of codes against factors, the codes drawn in their own way.

By hand: python -m benchmarks.peers.disent CODES.npz SEEDS IMAGES > scores.json
"""

import json
import logging
import sys
from collections.abc import Callable

import gin
import numpy as np
import torch
from disent.dataset import DisentDataset
from disent.dataset.data import GroundTruthData
from disent.metrics import metric_dci, metric_factor_vae, metric_mig, metric_sap

logging.getLogger().setLevel(logging.ERROR)  # gin says that one of its words is old
sys.modules["gin.tf"] = gin  # it loads TensorFlow, which the measures do not use
from disentanglement_lib.data.ground_truth import ground_truth_data  # noqa: E402
from disentanglement_lib.evaluation.metrics import beta_vae, modularity_explicitness, utils  # noqa: E402

POINTS, DRAWN = 5000, 64  # as ours

Score = Callable[[], dict]


class Cells(GroundTruthData):
    """A grid of factors for disent, in which an image is its cell's number."""

    img_shape = 1, 1, 1

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        super().__init__()

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        return tuple(self.sizes)

    @property
    def factor_names(self) -> tuple[str, ...]:
        return tuple(f"factor {f}" for f in range(len(self.sizes)))

    def _get_observation(self, idx: int) -> int:
        return idx


class Drawn(DisentDataset):
    """A sample of more images than there are cells is possible, since a cell has many images."""

    def dataset_sample_batch(self, num_samples: int, mode: str) -> torch.Tensor:
        return super().dataset_sample_batch(num_samples, mode, replace=True)


class Numbers(ground_truth_data.GroundTruthData):
    """The same for disentanglement_lib."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    @property
    def num_factors(self) -> int:
        return len(self.sizes)

    def sample_factors(self, num: int, random_state: np.random.RandomState) -> np.ndarray:
        return random_state.randint(0, self.sizes, (num, len(self.sizes)))

    def sample_observations_from_factors(self, factors: np.ndarray, random_state: object) -> np.ndarray:
        return np.ravel_multi_index(tuple(factors.T), self.sizes)


def measures(codes: np.ndarray, sizes: list[int], images: int, seed: int) -> dict[str, Score]:
    """Codes (cells, copies, D): an image of a cell has one of its copies, drawn at random."""
    np.random.seed(seed)  # disent's
    state, half = np.random.RandomState(seed), {"num_train": images // 2, "num_test": images // 2}
    cells, numbers = Drawn(Cells(sizes)), Numbers(sizes)

    def of(cell: np.ndarray | torch.Tensor) -> np.ndarray:
        cell = np.asarray(cell)
        return codes[cell, state.randint(codes.shape[1], size=len(cell))]

    points = {"num_train": POINTS, "num_eval": POINTS // 2, "batch_size": DRAWN}
    told = modularity_explicitness.compute_modularity_explicitness
    return {
        "mig": lambda: metric_mig(cells, of, num_train=images),
        "modularity": lambda: told(numbers, of, state, num_train=images, num_test=images),
        "factor_vae": lambda: metric_factor_vae(cells, of, **points),
        "beta_vae": lambda: beta_vae.compute_beta_vae_sklearn(numbers, of, state, **points),
        "sap_of_lines": lambda: metric_sap(cells, of, **half, continuous_factors=True),
        "sap": lambda: metric_sap(cells, of, **half),
        "explicitness": lambda: told(numbers, of, state, **half),
        "dci": lambda: metric_dci(cells, of, **half),
    }


NAMES = {
    "mig": {"mig.discrete_score": "mig"},
    "modularity": {"modularity_score": "modularity"},
    "factor_vae": {"factor_vae.eval_accuracy": "factor_vae_score"},
    "beta_vae": {"eval_accuracy": "beta_vae_score"},
    "sap_of_lines": {"sap.score": "sap_of_lines"},
    "sap": {"sap.score": "sap"},
    "explicitness": {"explicitness_score_test": "explicitness"},
    "dci": {
        "dci.disentanglement": "dci_disentanglement",
        "dci.completeness": "dci_completeness",
        "dci.informativeness_test": "dci_informativeness",
    },
}  # theirs -> as ours calls it


def main(file: str, seeds: str, images: str) -> None:
    gin.bind_parameter("discretizer.discretizer_fn", utils._histogram_discretize)
    gin.bind_parameter("discretizer.num_bins", 20)
    found: dict[str, list[float]] = {}
    with np.load(file) as arrays:
        codes, sizes = arrays["codes"], arrays["sizes"].tolist()
    for seed in range(int(seeds)):
        for name, score in measures(codes, sizes, int(images), seed).items():
            try:
                scores = score()
            except ValueError as error:  # of a constant latent
                print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            for theirs, ours in NAMES[name].items():
                found.setdefault(ours, []).append(float(scores[theirs]))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
