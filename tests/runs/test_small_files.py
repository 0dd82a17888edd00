"""Small files of a run that may be somebody else's: what is read of them, and how soon."""

import json
import os
import time

import pytest

from cvae.errors import UserError, printable
from cvae.runs.directory import Run
from cvae.runs.small_files import CONFIG, DEPTH, FIGURES, VALUES, read_bytes, read_json, read_yaml, yaml_text


@pytest.mark.parametrize("text", [None, "", "[1]", "{", "[" * 100_000, b"\xff", "3"])
def test_files_that_say_nothing(tmp_path, text):
    file = tmp_path / "status.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_json(file) == {}
    assert Run(tmp_path).state() == "interrupted"
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}


TOO_MUCH = {
    "brackets": "[" * 60_000,
    "pairs of brackets": "a: " + "[" * 60_000 + "]" * 60_000,
    "braces": "{a: " * 60_000 + "}" * 60_000,
    "dashes": "- " * 60_000,
    "question marks": "? " * 60_000,
    "a number of 400 digits": "a: " + "9" * 400,
    "a number to the base of 60": "a: " + "1:" * 60_000 + "1",
    "a number to the base of 16": "a: 0x" + "f" * 60_000,
    "many values": "a: [" + "1," * VALUES + "]",
    "a long text": "a: " + "x" * CONFIG,
    "an alias": "a: &a [1]\nb: *a",
    "an object": "a: !!python/object/apply:os.getpid []",
    "no UTF-8": "a: \udcff",
    "two documents": "--- 1\n--- 2",
    "a day that there is not": "a: 2001-99-99",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_yaml_that_no_run_writes(tmp_path, name):
    began = time.process_time()
    (tmp_path / "x.yaml").write_text(TOO_MUCH[name], errors="surrogateescape")
    assert read_yaml(tmp_path / "x.yaml") is None
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ' + "[" * 60_000 + "]" * 60_000 + "}",
        '{"a": ' + "[" * (DEPTH + 1) + "]" * (DEPTH + 1) + "}",
        '{"a": ' + "9" * 400 + "}",
        '{"a": ' + "9" * 40_000 + "}",
        '{"a": "' + "x" * FIGURES + '"}',
    ],
    ids=["brackets", "a few brackets", "400 digits", "40,000 digits", "a long text"],
)
def test_json_that_no_run_writes(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert read_json(tmp_path / "x.json") == {}


def test_what_a_run_writes_is_read_as_it_is(tmp_path):
    content = {"a": [1, -0.5, None, True, "ä · x"], "b": {"c": float("inf")}, "d": 2**64 - 1}
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "x.json") == content
    (tmp_path / "x.yaml").write_text("a: [1, -0.5, null, true, ä · x]\nb: {c: .inf}\n3: 2001-01-01\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": content["a"], "b": content["b"], "3": "2001-01-01"}


CLEAN = {
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",  # a terminal would take it as its title
    "a\x1b[2Jb": "a\\x1b[2Jb",
    "one\r\ntwo\u2028three": "one two three",
    "\u202eabc": "\\u202eabc",  # from right to left
    "\x9b31m": "\\x9b31m",
}


@pytest.mark.parametrize("text", CLEAN)
def test_text_is_fit_for_a_terminal(tmp_path, text):
    (tmp_path / "x.json").write_text(json.dumps({text: [text]}))
    (tmp_path / "x.yaml").write_text(f"- {json.dumps(text)}")
    assert read_json(tmp_path / "x.json") == {CLEAN[text]: [CLEAN[text]]}
    assert read_yaml(tmp_path / "x.yaml") == [CLEAN[text]]
    assert (
        printable(text) == str(UserError(text)) == CLEAN[text].replace("one two three", "one\\r\ntwo\\u2028three")
    )  # a message may have lines


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a link to a pipe", "a link to itself"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    file = tmp_path / "x"
    if kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a device":
        file.symlink_to("/dev/zero")
    elif kind == "a folder":
        file.mkdir()
    elif kind == "a link to itself":
        file.symlink_to(file)
    else:
        os.mkfifo(tmp_path / "pipe")
        file.symlink_to(tmp_path / "pipe")
    with pytest.raises((UserError, OSError), match="it is no regular file|Is a directory|Too many levels"):
        read_bytes(file, 10)
    assert read_json(file) == {} and read_yaml(file) is None
    with pytest.raises((UserError, OSError)):
        yaml_text(file)


def test_no_more_is_read_than_is_allowed(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    assert read_bytes(tmp_path / "x", 4) == b"1234"
    with pytest.raises(UserError, match="it has 4 bytes; such a file has at most 3"):
        read_bytes(tmp_path / "x", 3)
    os.truncate(tmp_path / "x", 2**40)  # a file of holes
    with pytest.raises(UserError, match="it has 1,099,511,627,776 bytes"):
        read_bytes(tmp_path / "x", 3)


def test_a_pipe_as_lock_is_not_waited_for(tmp_path):
    run = Run(tmp_path)
    os.mkfifo(run.lock_file)
    run.status_file.write_text('{"state": "running"}')
    assert not run.locked() and run.state() == "interrupted"
    run.lock_file.unlink()
    run.lock_file.symlink_to(run.lock_file)
    assert not run.locked()
