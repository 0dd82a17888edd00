"""A run on disk: its directory, checkpoints, what its files may say, and many runs side by side."""
