"""What is timed. A module is a worker: python -m benchmarks.peers.NAME IMAGES.npy …, then a line on stdin per turn."""
