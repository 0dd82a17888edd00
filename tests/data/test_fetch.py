"""Downloads leave whole files or nothing; files are known by their hash."""

import logging
from functools import partial
from http.client import IncompleteRead

import pytest
from data_files import below, md5, serving, sha256

from cvae.data.fetch import damaged, download, fetch, verified, verify
from cvae.errors import DataError


def writes(*names, then=None):
    """A way that writes files, and raises an error afterwards if one is given."""

    def get(folder):
        assert folder.is_dir() and not list(folder.iterdir())
        for name in names:
            (folder / name).write_text(f"content of {name}")
        (folder / "scrap").write_text("not among the files that are wanted")
        if then is not None:
            raise then
        return [folder / name for name in names]

    return get


def never(folder):
    pytest.fail("tried, though an earlier way worked")


def test_the_first_way_that_works_is_taken(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    ways = [("one", writes("a", then=OSError("no route"))), ("two", writes("a", "b")), ("three", never)]
    fetch("The set", tmp_path / "not" / "there", ways, "advice")
    assert below(tmp_path / "not" / "there") == ["a", "b"]
    assert (tmp_path / "not" / "there" / "b").read_text() == "content of b"
    where = tmp_path / "not" / "there"
    assert caplog.messages == [f"The set is not in {where}: fetching it from {way}" for way in ("one", "two")]


def test_downloads_go_into_a_hidden_folder_beside_the_files(tmp_path):
    """On the same file system, so that a move is one step."""
    seen = []

    def get(folder):
        seen.append(folder)
        return []

    fetch("The set", tmp_path, [("one", get)], "advice")
    assert seen[0].parent == tmp_path and seen[0].name.startswith(".download-")


def test_files_that_are_there_are_replaced(tmp_path):
    (tmp_path / "a").write_text("old")
    fetch("The set", tmp_path, [("one", writes("a"))], "advice")
    assert (tmp_path / "a").read_text() == "content of a"


def test_when_no_way_works_each_reason_is_given(tmp_path):
    failures = (OSError("no\n  route"), RuntimeError("wrong sum"), IncompleteRead(b"12"), DataError("damaged"))
    ways = [(f"way {i}", writes("a", then=error)) for i, error in enumerate(failures)]
    with pytest.raises(DataError) as error:
        fetch("The set", tmp_path, ways, "Put it\nthere.")
    assert str(error.value).splitlines() == [
        f"The set is not in {tmp_path} and could not be fetched:",
        "  way 0: no route",
        "  way 1: wrong sum",
        f"  way 2: {failures[2]}",
        "  way 3: damaged",
        "Put it",
        "there.",
    ]
    assert below(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_download_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        fetch("The set", tmp_path, [("one", writes("a", "b", then=error())), ("two", never)], "advice")
    assert below(tmp_path) == []


SUMS = md5(b"content"), sha256(b"content")


def test_download(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "file.gz").write_bytes(b"content")
    (tmp_path / "to").mkdir()
    with serving(tmp_path) as address:
        assert download(address + "file.gz", *SUMS, tmp_path / "to") == [tmp_path / "to" / "file.gz"]
    assert (tmp_path / "to" / "file.gz").read_bytes() == b"content"


def test_a_download_with_the_right_md5_and_another_content_is_refused(tmp_path, monkeypatch):
    """Two contents of one MD5 sum can be made; here the sum that is asked for is simply that of the other one."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "file.gz").write_bytes(b"another")
    with serving(tmp_path) as address, pytest.raises(DataError, match=r"file.gz is damaged .its sha256 is"):
        ways = [("one", partial(download, address + "file.gz", md5(b"another"), SUMS[1]))]
        fetch("The set", tmp_path / "to", ways, "advice")
    assert below(tmp_path / "to") == []


def test_failed_downloads_are_failures_of_their_way(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "altered.gz").write_bytes(b"content!")
    reasons = r"altered.gz: File not found or corrupted(.|\n)*missing.gz: .*404"
    with serving(tmp_path) as address, pytest.raises(DataError, match=reasons):
        ways = [(name, partial(download, address + name, *SUMS)) for name in ("altered.gz", "missing.gz")]
        fetch("The set", tmp_path / "to", ways, "advice")
    assert below(tmp_path / "to") == []


def test_verified(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(DataError) as error:
        verified(path, md5(b"content"))
    assert str(error.value) == f"{path} is missing"
    path.write_bytes(b"content")
    assert verified(path, md5(b"content")) == b"content"
    with pytest.raises(DataError, match=f"file is damaged .its md5 is {md5(b'content')}, not {md5(b'other')}"):
        verified(path, md5(b"other"))


def test_verify_by_another_hash(tmp_path):
    verify(tmp_path, b"content", SUMS[1])
    with pytest.raises(DataError, match="its sha256 is"):
        verify(tmp_path, b"content ", SUMS[1])


def test_damaged_says_what_to_do(tmp_path):
    expected = f"{tmp_path} is damaged (too short). Delete it, and the next run fetches it again."
    assert str(damaged(tmp_path, "too short")) == expected
