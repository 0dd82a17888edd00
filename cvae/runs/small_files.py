"""Small files of a run, which may come from somebody else: regular, bounded, shallow, and fit for a terminal."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from cvae.errors import UserError, printable
from cvae.runs.trust import TRUST

CONFIG, FIGURES = 2**18, 2**22  # bytes at most: of a file in YAML, where ours have about 5,000; of one in JSON
VALUES = 5_000  # in a file in YAML at most: ours have about 300, and OmegaConf takes a second for these
DEPTH = 40  # lists and dictionaries in each other
BITS = 64  # of an integer
NUMBER = re.compile(r"[-+.:_0-9a-fobxA-F]{100,}")  # a number that could take seconds to read
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
# Waits for no writer of a pipe and makes no terminal this process's own, which Windows does not know; it knows text.
READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"))


def read_bytes(file: Path, most: int) -> bytes:
    """The bytes of a file. A pipe, a device or a file of more than `most` bytes is refused.

    Raises:
        UserError: it is one of these; the message says what it has instead of a name, which the caller knows.
        OSError: it cannot be read.
    """
    descriptor = os.open(file, READ)
    with open(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise UserError("it is no regular file")
        content = stream.read(min(about.st_size, most) + 1)
        if (size := max(len(content), about.st_size)) > most:
            raise UserError(f"it has {size:,} bytes; such a file has at most {most:,}. {TRUST}")
        return content


def read_text(file: Path, most: int) -> str:
    """The same as text. Raises ValueError, too, where it is not UTF-8."""
    return read_bytes(file, most).decode("utf-8")


def read_json(file: Path) -> dict:
    """The content of a JSON file; {} if it cannot be read, has no keys, or is none that a run writes."""
    try:
        content = plain(json.loads(read_text(file, FIGURES)))
    except (OSError, ValueError, RecursionError, UserError):
        return {}
    return content if isinstance(content, dict) else {}


def read_yaml(file: Path) -> Any:
    """The content of a YAML file as plain data, nothing resolved. None if it is missing, damaged or no plain data."""
    try:
        return plain(yaml.load(yaml_text(file), Loader))
    except (OSError, ValueError, UserError, yaml.YAMLError):
        return None


def read_config(file: Path) -> dict:
    """A config, nothing resolved; {} if it is missing or damaged."""
    config = read_yaml(file)
    return config if isinstance(config, dict) else {}


def yaml_text(file: Path) -> str:
    """The text of a file in YAML, if it is no more than data, and no more than a run has.

    Raises:
        UserError: it is no regular file, or very long, deep or wide; or it has what YAML can do besides data: tags make
            objects, aliases multiply.
        OSError, ValueError, YAMLError: it cannot be read.
    """
    text = read_text(file, CONFIG)
    depth = values = 0
    for event in yaml.parse(text, Loader):  # step by step, so no depth takes the stack of the parser in C
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) or getattr(event, "anchor", None):
            raise UserError(f"it has a tag, an anchor or an alias of YAML in line {line}. {TRUST}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        values += isinstance(event, yaml.NodeEvent)
        if depth > DEPTH or values > VALUES:
            raise UserError(f"it has more than {VALUES:,} values, or {DEPTH} in each other, in line {line}. {TRUST}")
        if isinstance(event, yaml.ScalarEvent) and NUMBER.fullmatch(event.value):
            raise UserError(f"it has a number of {len(event.value):,} signs in line {line}. {TRUST}")
    return text


def plain(content: Any, depth: int = 0) -> Any:
    """Data as they were read, with text that a terminal can show. What is no number, list or dictionary becomes text.

    Raises:
        ValueError: they are deeper, or a number is larger, than a run has.
    """
    if depth > DEPTH:
        raise ValueError(f"more than {DEPTH} in each other")
    if isinstance(content, dict):
        return {one_line(str(key)): plain(value, depth + 1) for key, value in content.items()}
    if isinstance(content, list):
        return [plain(value, depth + 1) for value in content]
    if isinstance(content, int) and content.bit_length() > BITS:
        raise ValueError(f"a number of more than {BITS} bits")
    return content if content is None or isinstance(content, (int, float)) else one_line(str(content))


def one_line(text: str) -> str:
    """Text in one line that a terminal shows as it is."""
    return printable(" ".join(text.splitlines()))
