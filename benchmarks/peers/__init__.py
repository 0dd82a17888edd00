"""What is timed. Most are workers: python -m benchmarks.peers.NAME IMAGES.npy …, then a line on stdin per turn."""
