"""The command line: composing a config, readable errors, resuming."""
