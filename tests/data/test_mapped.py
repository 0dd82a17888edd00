"""Images on disk: the same as in memory, by value, and nothing read that is not asked for."""

import os
import threading
import time

import numpy as np
import pytest
import torch

from cvae.data.images import Images
from cvae.data.mapped import Mapped, Part, Unchanged, mapped, one_ahead
from cvae.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def on_disk(tmp_path):
    """uint8 (N, C, H, W) in two files, as Mapped and as a tensor."""

    def make(*counts, shape=(2, 3, 4)):
        parts, arrays = [], []
        for number, count in enumerate(counts):
            array = RNG.integers(0, 256, (count, *shape)).astype(np.uint8)
            array.tofile(tmp_path / f"{number}.bin")
            parts.append(Part(mapped(tmp_path / f"{number}.bin", 0, array.shape, array.dtype)))
            arrays.append(array)
        return Mapped(parts, shape), torch.from_numpy(np.concatenate(arrays))

    return make


@pytest.mark.parametrize("counts", [(11,), (5, 6), (1, 9, 1)])
@pytest.mark.parametrize(
    "index", [[3, 0, 3, 10], torch.tensor([10, 9, 0]), slice(2, 9, 3), slice(None), np.array([4, 1]), range(3, 6), []]
)
def test_what_is_taken_is_what_a_tensor_gives(on_disk, counts, index):
    x, expected = on_disk(*counts)
    taken = expected[list(index) if isinstance(index, range) else index]
    assert torch.equal(x[index], taken) and x[index].dtype == torch.uint8 and x[index].is_contiguous()
    assert torch.equal(x.take(index)[slice(None)], taken) and len(x.take(index)) == len(taken)
    assert torch.equal(x[4], expected[4]) and torch.equal(x.take([2, 7])[1], expected[7])


def test_what_is_used_of_a_tensor(on_disk):
    x, expected = on_disk(5, 6)
    assert x.shape == expected.shape and len(x) == 11 and x.nbytes == expected.nbytes
    assert x.device == expected.device and x.dtype == expected.dtype
    for block, other in zip(x.split(4), expected.split(4), strict=True):
        assert torch.equal(block, other)
    assert x.to("cpu") is x and x.to("meta").shape == expected.shape


def test_changes_are_made_when_images_are_read(on_disk):
    x, expected = on_disk(5, 6)
    both = x.then(lambda x: 255 - x).then(lambda x: x // 2)
    assert torch.equal(both[[9, 2]], (255 - expected[[9, 2]]) // 2) and torch.equal(x[[9, 2]], expected[[9, 2]])


def test_joined_sets_keep_their_changes(on_disk):
    x, expected = on_disk(5, 6)
    inverted = x.take([10, 3]).then(lambda x: 255 - x)
    both = Mapped.joined([Mapped.joined([inverted, x.take([1])]), Mapped.of(expected[:2])])
    assert torch.equal(both[slice(None)], torch.cat([255 - expected[[10, 3]], expected[[1]], expected[:2]]))


def test_images_of_both_kinds_have_the_same_methods(on_disk):
    x, expected = on_disk(11)
    here, there = Images(expected, torch.arange(11)), Images(x, torch.arange(11))
    for one, two in ((here, there), (here.take([4, 2]), there.take([4, 2])), (here.join(here), there.join(there))):
        assert torch.equal(one.x, two.x[slice(None)]) and torch.equal(one.y, two.y)
    assert isinstance(there.take([4, 2]).x, Mapped) and isinstance(here.join(there).x, Mapped)
    assert torch.equal(here.join(there).x[slice(None)], torch.cat([expected, expected]))


def test_rows_are_read_in_the_order_of_the_disk(on_disk, monkeypatch):
    read = []
    monkeypatch.setattr(Part, "read", lambda self, rows: read.append(rows.tolist()) or np.zeros((len(rows), 2, 3, 4)))
    x, _ = on_disk(5, 6)
    _ = x[[9, 2, 10, 0, 2]]
    assert read == [[0, 2, 2], [4, 5]]


def test_a_map_is_read_only(on_disk):
    x, _ = on_disk(5)
    with pytest.raises(ValueError, match="read-only"):
        x.parts[0].array[0] = 1


def test_one_batch_is_made_ahead_and_no_more():
    made, used = [], []

    def batches():
        for number in range(5):
            made.append((number, threading.current_thread() is threading.main_thread()))
            yield number

    for number in one_ahead(batches()):
        until = time.monotonic() + 5
        while len(made) < min(number + 2, 5):  # the next is made while this one is used
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(made) == min(number + 2, 5)
        used.append(number)
    assert used == list(range(5)) and not any(main for _, main in made)


def test_an_error_in_the_thread_is_raised_and_an_early_end_is_fine():
    def broken():
        yield 1
        raise OSError("gone")

    ahead = one_ahead(broken())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="gone"):
        next(ahead)
    ahead = one_ahead(iter(range(9)))
    next(ahead)
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_file_that_has_changed_in_any_way_is_read_no_more(tmp_path):
    """By its time, its size, or another one in its place that has both; before anything of it is read."""

    def file(content=b"abc", time=10**9):
        new = tmp_path / "new"
        new.write_bytes(content)
        os.utime(new, ns=(time, time))
        return new

    kept = file().rename(tmp_path / "kept")
    check = Unchanged(kept)
    check()
    os.utime(kept, ns=(5, 5))
    with pytest.raises(DataError, match="kept was changed while its images are used"):
        check()
    os.utime(kept, ns=(10**9, 10**9))
    check()
    kept.write_bytes(b"abcd")
    os.utime(kept, ns=(10**9, 10**9))
    with pytest.raises(DataError, match="was changed"):
        check()
    kept.write_bytes(b"abc")
    os.utime(kept, ns=(10**9, 10**9))
    check()
    file().replace(kept)
    with pytest.raises(DataError, match="was changed"):
        Mapped([Part(np.zeros((2, 1, 1, 1), np.uint8), check=check)], (1, 1, 1))[[0]]
