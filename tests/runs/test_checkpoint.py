"""Checkpoints as they are read: whole, data alone, of a known format; and models no larger than they."""

import pickle
import zipfile

import pytest
import torch
from torch import nn

from cvae.errors import UserError
from cvae.runs.checkpoint import FORMAT, LEAST, SMALL, Budget, read_checkpoint


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"a": torch.arange(1000.0)}, "global_step": 4}, file)
    return file


def test_a_checkpoint_by_value(file):
    content = read_checkpoint(file)
    assert content["global_step"] == 4 and torch.equal(content["state_dict"]["a"], torch.arange(1000.0))


def test_a_file_that_was_cut_off_or_changed(file):
    whole = file.read_bytes()
    place = whole.index(torch.arange(1000.0).numpy().tobytes())
    changed = bytearray(whole)
    changed[place + 2001] ^= 1  # one bit of one weight
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"text", bytes(changed)):
        file.write_bytes(content)
        with pytest.raises(UserError, match="last.ckpt is damaged or no checkpoint: ") as error:
            read_checkpoint(file)
    assert "the checksum of last/data/0 is wrong" in str(error.value)


def packed(file, compression):
    """The same archive with its entries compressed."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_an_archive_that_unpacks_to_more_than_it_is(file):
    torch.save({"state_dict": {"a": torch.zeros(10**6)}}, file)
    packed(file, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 20_000
    with pytest.raises(UserError, match="no checkpoint: it would unpack to more than its size"):
        read_checkpoint(file)


def test_what_is_no_archive_of_torch(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(UserError, match="is damaged or no checkpoint"):
        read_checkpoint(file)
    torch.save({"state_dict": {}}, file, _use_new_zipfile_serialization=False)  # torch before 1.6
    with pytest.raises(UserError, match="is damaged or no checkpoint: BadZipFile"):
        read_checkpoint(file)
    file.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(UserError, match="is damaged or no checkpoint: BadZipFile"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (
            {"format": FORMAT + 1, "version": "9.9"},
            rf"has format {FORMAT + 1}, of cvae '9.9'; this cvae reads",
        ),
        ({"format": -1}, "has format -1, of cvae None"),
        ({"format": "1"}, "has format '1', of cvae None"),
        ({}, "is damaged or no checkpoint: KeyError: 'format'"),
        (3, "is damaged or no checkpoint: TypeError"),
    ],
)
def test_formats_that_are_not_known(file, about, message):
    torch.save({"cvae": about}, file)
    with pytest.raises(UserError, match=message):
        read_checkpoint(file)


def test_formats_that_are_known(file):
    for number in (0, FORMAT):
        torch.save({"cvae": {"format": number, "version": "0.1.0"}, "a": 1}, file)
        assert read_checkpoint(file)["a"] == 1
    torch.save([1], file)
    with pytest.raises(UserError, match="is damaged or no checkpoint: AttributeError"):
        read_checkpoint(file)


def budget(tmp_path, size):
    (tmp_path / "file").write_bytes(b"0" * size)
    return Budget([tmp_path / "file"])


def test_a_budget_counts_what_is_made(tmp_path):
    """Ten times the file, and a little: tensors of their bytes, but a KiB at least; no views, nothing in place."""
    left = budget(tmp_path, 1000)
    assert left.left == 10_000 + SMALL
    with left:
        a = torch.zeros(2000)  # 8,000 bytes
        a.add_(1)
        a[:1000].view(10, 100)
        torch.zeros(1)
        torch.cat([a, a])
    assert left.left == 10_000 + SMALL - 8_000 - LEAST - 16_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(10**12), lambda: torch.randn(10**6, 10**6), lambda: nn.Linear(10**6, 10**6),
        lambda: torch.arange(10**12), lambda: torch.ones(10**5)[:, None] * torch.ones(10**5),
        lambda: torch.zeros(1).expand(10**12).clone(), lambda: torch.eye(10**6), lambda: torch.zeros(1).repeat(10**12),
        lambda: [nn.Linear(1, 1) for _ in range(10**9)],
    ],
)  # fmt: skip
def test_what_exceeds_it_is_not_made(tmp_path, make):
    with (
        pytest.raises(UserError, match="the model is larger than its checkpoint, which should hold it"),
        budget(tmp_path, 10),
    ):
        make()


def test_what_is_made_within_it_is_as_ever(tmp_path):
    """The same numbers from the same generator, and sizes that depend on values."""
    torch.manual_seed(3)
    expected = nn.Linear(5, 4).weight
    torch.manual_seed(3)
    with budget(tmp_path, 10):
        found = nn.Linear(5, 4).weight
        assert (
            torch.equal(torch.unique(torch.tensor([2, 1, 2])), torch.tensor([1, 2])) and torch.ones(2).sum().item() == 2
        )
        assert torch.ones(3)[torch.tensor([True, False, True])].shape == (2,)
    assert torch.equal(found, expected) and found.device.type == "cpu"
