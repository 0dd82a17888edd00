"""What knows Lightning: assembling a run, its loop, loggers and callbacks."""
