"""Files that are whole or absent, new folders, and locks between real processes."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from cvae.runs import storage
from cvae.runs.storage import lock, locked, new_folder, save, unlock


def test_save_makes_the_folder_and_leaves_nothing_else(tmp_path):
    save(tmp_path / "a" / "b", b"one")
    save(tmp_path / "a" / "b", b"two")
    assert (tmp_path / "a" / "b").read_bytes() == b"two" and os.listdir(tmp_path / "a") == ["b"]


def test_an_error_names_the_file_itself_and_a_deleted_folder_stays_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path, number in ((tmp_path / "gone" / "deep" / "b", errno.ENOENT), (tmp_path / "file" / "b", errno.EEXIST)):
        with pytest.raises(OSError) as error:
            save(path, b"one")
        assert (error.value.filename, error.value.errno) == (str(path), number)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_changes_nothing(tmp_path, monkeypatch, where):
    save(tmp_path / "a", b"first")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")  # as the system says it: without a name

    monkeypatch.setattr(os, where, full)
    with pytest.raises(OSError) as error:
        save(tmp_path / "a", b"second")
    assert str(error.value) == f"[Errno 28] No space left on device: '{tmp_path}/a'"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


def test_half_of_a_file_is_no_file(tmp_path):
    """The system allows no more than three bytes."""
    save(tmp_path / "a", b"first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3, before[1]))
        with pytest.raises(OSError) as error:
            save(tmp_path / "a", b"second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, f"{tmp_path}/a")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


def test_what_a_check_refuses_is_not_saved_and_what_was_before_is_kept(tmp_path, monkeypatch):
    """It is given the whole file, which is on the disk then, under the name that it has until then."""
    path, previous, seen = tmp_path / "a", tmp_path / "before", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.fstat(descriptor).st_size))

    def check(file):
        seen.append((file.name, file.read_bytes(), path.exists() and path.read_bytes()))
        if file.read_bytes() == b"bad":
            raise ValueError("bad")

    save(path, b"one", previous, check)
    assert os.listdir(tmp_path) == ["a"]
    save(path, b"two", previous, check)
    with pytest.raises(ValueError, match="bad"):
        save(path, b"bad", previous, check)
    assert seen[::2] == [3, 3, 3]
    assert [given[1:] for given in seen[1::2]] == [(b"one", False), (b"two", b"one"), (b"bad", b"two")]
    assert all(re.fullmatch(r"\.a\.[0-9a-f]{8}\.part", given[0]) for given in seen[1::2])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"two", "before": b"one"}


def test_a_new_folder_is_never_an_old_one(tmp_path):
    made = [new_folder(tmp_path / "deep" / "run") for _ in range(3)]
    assert [path.name for path in made] == ["run", "run_2", "run_3"]
    assert sorted(path for path in (tmp_path / "deep").iterdir() if path.is_dir()) == made
    (tmp_path / "file").write_text("")
    assert new_folder(tmp_path / "file") == tmp_path / "file_2"


@pytest.fixture
def other(tmp_path):
    """Another process that runs code, says when it is through, and waits."""
    started = []

    def start(code):
        code = f"import os, time; from pathlib import Path; from cvae.runs.storage import *; {code}; print(flush=True)"
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code}; time.sleep(60)"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_lock_lasts_until_it_is_unlocked(tmp_path, monkeypatch):
    file = tmp_path / "lock"
    assert not locked(file) and not file.exists()
    assert lock(file) and locked(file) and lock(file)
    monkeypatch.chdir(tmp_path)
    assert locked(file.relative_to(tmp_path)) and lock(file.relative_to(tmp_path))  # by another name
    unlock(file)
    unlock(file)
    assert not locked(file) and file.exists() and file.resolve() not in storage.HELD
    assert lock(file)
    unlock(file)


def test_the_lock_of_another_process_ends_with_it(tmp_path, other):
    """Also by SIGKILL, while a child of it, made by fork, lives on."""
    file = tmp_path / "lock"
    code = (
        f"print(lock(Path({str(file)!r})), end=' '); child = os.fork(); child or time.sleep(60); print(child, end='')"
    )
    process, said = other(code)
    taken, child = said.split()
    try:
        assert taken == "True"
        assert locked(file) and not lock(file)
        assert locked(file) and file.resolve() not in storage.HELD  # asking and failing have changed nothing
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20  # the child closes the lock that it was born with, and lives on for a minute
        while locked(file) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not locked(file) and lock(file)
        unlock(file)
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_lock_that_another_has_keeps_no_file_open(tmp_path, monkeypatch):
    begin, end, opened, closed = os.open, os.close, [], []
    monkeypatch.setattr(os, "open", lambda *given: opened.append(begin(*given)) or opened[-1])
    monkeypatch.setattr(os, "close", lambda descriptor: closed.append(descriptor) or end(descriptor))
    monkeypatch.setattr(storage, "take", lambda *_, **__: False)
    assert not lock(tmp_path / "lock") and locked(tmp_path / "lock")
    assert len(opened) == 2 and closed == opened


def test_who_asks_does_not_disturb_who_asks(tmp_path, other):
    file = tmp_path / "lock"
    file.touch()
    other(f"take(os.open({str(file)!r}, os.O_RDONLY), shared=True)")
    assert not locked(file)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(descriptor, kind):
        raise OSError("no locks")

    monkeypatch.setattr("fcntl.flock", none)
    assert lock(tmp_path / "lock")
    unlock(tmp_path / "lock")
    assert not locked(tmp_path / "lock")


def test_a_link_does_not_lead_what_is_saved_elsewhere(tmp_path, monkeypatch):
    """Neither the file's own name, nor the one that it has until it is whole."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "mine")
    save(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text() == "new" and not (tmp_path / "a").is_symlink()
    monkeypatch.setattr(storage.secrets, "token_hex", lambda bytes: "guessed")
    (tmp_path / ".a.guessed.part").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        save(tmp_path / "a", b"newer")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "a").read_text() == "new"


def test_two_calls_that_save_the_same_file_do_not_disturb_each_other(tmp_path):
    """The second comes when the first has written, and is not yet done with it."""
    path = tmp_path / "a"
    save(path, b"first", check=lambda part: (save(path, b"second"), part.read_bytes() == b"first" or 1 / 0))
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]


def test_two_processes_that_save_the_same_file_at_once(tmp_path):
    """Each as often as it can for a while; a reader finds one content or the other, whole."""
    path, long = tmp_path / "a", 200_000
    code = (
        "import sys; from pathlib import Path; from cvae.runs.storage import save; "
        f"[save(Path(sys.argv[1]), sys.argv[2].encode() * {long}) for _ in range(50)]"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, path, letter], cwd=ROOT) for letter in "xy"]
    found = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            found |= {(content[:1], content == content[:1] * long)}
    assert [writer.returncode for writer in writers] == [0, 0]
    assert found <= {(b"x", True), (b"y", True)} and os.listdir(tmp_path) == ["a"]


def test_what_a_killed_process_left_goes_after_an_hour(tmp_path):
    """Of the file that is saved alone, by the time that the disk has, also under the name of earlier versions."""
    hour = ["a.11111111", "a", "a*.33333333", "b.22222222", "ab.11111111"]
    for name in [*hour, "a.22222222", "a.33333333"]:
        (tmp_path / f".{name}.part").write_bytes(b"half")
    now = (tmp_path / ".b.22222222.part").stat().st_mtime
    for name, seconds in [*((name, 3700) for name in hour), ("a.22222222", 3000)]:
        os.utime(tmp_path / f".{name}.part", (now, now - seconds))
    save(tmp_path / "a", b"whole")
    left = {".a.22222222.part", ".a.33333333.part", ".a*.33333333.part", ".b.22222222.part", ".ab.11111111.part"}
    assert set(os.listdir(tmp_path)) == {"a", *left}
    save(tmp_path / "a*", b"whole")
    assert set(os.listdir(tmp_path)) == {"a", "a*", *left} - {".a*.33333333.part"}


def test_one_process_after_the_other(tmp_path, caplog):
    """Who waits says so; a disk without locks is an error where the lock is needed."""
    caplog.set_level("INFO")
    path, order = tmp_path / "lock", []

    def work(name):
        with storage.waiting_for(path, "waits"):
            order.append(name)
            time.sleep(0.1)
            order.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order in (["a", "a", "b", "b"], ["b", "b", "a", "a"]) and caplog.messages == ["waits"]


def test_a_lock_that_is_needed_on_a_disk_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(OSError, match="No locks available"), storage.waiting_for(tmp_path / "lock", ""):
        pass
    assert storage.lock(tmp_path / "lock")  # where it is not, all have theirs
    storage.unlock(tmp_path / "lock")
