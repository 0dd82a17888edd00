"""Side-by-side timings: ours and peers on the same data and model, in one run, in turn and repeated (README.md)."""
