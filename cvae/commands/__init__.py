"""The commands of `python -m cvae`, one file each.

Each has `add(commands, run)`, which adds its arguments, and the function that they are handed to. Whatever is slow to
import is imported inside that function, so that --help is instant.
"""
