"""Files that are whole or absent."""

import os
from pathlib import Path


def save(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a full disk or Ctrl-C leaves no half of it under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
