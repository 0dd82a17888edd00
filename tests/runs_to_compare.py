"""Run directories with small files only."""

import json

import pytest
import yaml


def make(folder, *overrides, elbo=None, state="finished", choices=None, tags=(), **config):
    """A run directory with small files only, as a run leaves it."""
    (folder / ".hydra").mkdir(parents=True)
    content = {
        "seed": 0,
        "model": {"latent_dim": 2, "filters": [32, 64]},
        "prior": {"_target_": "x"},
        "data": {"_target_": "y", "image_shape": [1, 8, 8], "binarization": "static"},
        "likelihood": {"_target_": "cvae.likelihoods.Bernoulli"},
        "tags": list(tags),
    }
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(content | config))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    hydra = {"hydra": {"runtime": {"choices": {"prior": "standard_normal"} | (choices or {})}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    if elbo is not None:
        metrics = {
            "test/elbo": elbo, "test/rate": 5.0, "test/distortion": -elbo - 5, "evaluation/nll": -elbo - 2,
            "evaluation/active_units": 2, "train/seconds_per_epoch": [1.5, 2.0],
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "status.json").write_text(json.dumps({"state": state, "reason": ""}))
    return folder


@pytest.fixture
def sweep(tmp_path):
    """Three latent dimensions with two seeds each, one of which has failed."""
    values = {(2, 0): -150.0, (2, 1): -152.0, (8, 0): -120.0, (8, 1): None, (32, 0): -121.0, (32, 1): -119.0}
    for number, ((latent_dim, seed), elbo) in enumerate(values.items()):
        words = ["data=mnist", f"model.latent_dim={latent_dim}", f"seed={seed}"]
        model = {"latent_dim": latent_dim, "filters": [32, 64]}
        state = "finished" if elbo else "failed"
        make(tmp_path / f"{number}_latent_dim={latent_dim},seed={seed}", *words, elbo=elbo, state=state, model=model,
             seed=seed)  # fmt: skip
    return tmp_path
