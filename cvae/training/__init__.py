"""The training loop on PyTorch Lightning: assemble a run, take its steps, log, draw, save."""
