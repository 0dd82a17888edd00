"""What `python -m cvae` does with a run directory: one file a command, with a function of its name."""
