"""A file of weights that somebody else's config may name: data alone, and no more memory than the file."""

import os
import pickle
import resource
import time
import zipfile

import pytest
import torch
from vgg import checksum, vgg_file

from cvae.errors import ConfigError
from cvae.runs import vgg
from cvae.runs.vgg import vgg16

CALL = b"c%s\n(J\x00\x00\x00\x7ftR."  # name(2,130,706,432)
BOMBS = {"bytearray": CALL % b"__builtin__\nbytearray", "a tensor": CALL % b"torch\nFloatTensor"}


def saved(file, content=None, pickled=None, old=False):
    """A file of torch's, in its form before 1.6 or since, with another pickle in it if there is one."""
    torch.save(content or {"features.0.weight": torch.ones(3)}, file, _use_new_zipfile_serialization=not old)
    if pickled and old:
        head = b"".join(pickle.dumps(part, 2) for part in (torch.serialization.MAGIC_NUMBER, 1001, {}))
        file.write_bytes(head + b"\x80\x02" + pickled + pickle.dumps([], 2))
    elif pickled:
        with zipfile.ZipFile(file) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, part in entries.items():
                archive.writestr(name, b"\x80\x02" + pickled if name.endswith("data.pkl") else part)


def refused(file, said):
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ConfigError, match=f"^weights=.*: must be a file.*{said}") as error:
        vgg16(str(file))
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000, "kilobytes"
    assert time.process_time() - began < 20  # on a busy machine


@pytest.mark.parametrize("old", [False, True])
def test_weights_in_both_of_torchs_forms(tmp_path, old):
    expected = torch.load(vgg_file(), weights_only=True)
    saved(tmp_path / "vgg.pth", expected, old=old)
    found = vgg16(str(tmp_path / "vgg.pth")).state_dict()
    assert all(torch.equal(found[name.removeprefix("features.")], part) for name, part in expected.items())
    assert zipfile.is_zipfile(tmp_path / "vgg.pth") != old


def test_weights_of_torchs_first_years(tmp_path, monkeypatch):
    """As those of torchvision's VGG16, of 2017: tensors were rebuilt by another name, and saved from a GPU."""
    expected = torch.load(vgg_file(), weights_only=True)

    def reduced(tensor, protocol):
        _, (storage, offset, size, stride, *_) = tensor._reduce_ex_internal(protocol)
        return torch._utils._rebuild_tensor, (storage, offset, size, stride)

    monkeypatch.setattr(torch.Tensor, "__reduce_ex__", reduced)
    saved(tmp_path / "vgg.pth", dict(expected), old=True)
    monkeypatch.undo()
    content = (tmp_path / "vgg.pth").read_bytes()
    assert b"_rebuild_tensor\n" in content and b"_v2" not in content
    (tmp_path / "gpu.pth").write_bytes(content.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage"))
    for name in ("vgg.pth", "gpu.pth"):
        found = vgg16(str(tmp_path / name)).state_dict()
        assert all(torch.equal(found[key.removeprefix("features.")], part) for key, part in expected.items())


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", BOMBS)
def test_what_is_pickled_takes_no_more_than_the_file(tmp_path, name, old):
    saved(tmp_path / "bomb.pth", pickled=BOMBS[name], old=old)
    refused(tmp_path / "bomb.pth", r"it has a (__builtin__\.bytearray|torch\.FloatTensor)")


@pytest.mark.parametrize("old", [False, True])
def test_tensors_are_no_larger_than_the_file(tmp_path, old):
    saved(tmp_path / "wide.pth", {"features.0.weight": torch.ones(1).expand(10**10)}, old=old)
    refused(tmp_path / "wide.pth", "it has a tensor that is larger than its numbers")


def test_a_file_that_would_unpack_to_more(tmp_path):
    saved(tmp_path / "packed.pth", {"features.0.weight": torch.zeros(2**22)})
    with zipfile.ZipFile(tmp_path / "packed.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in entries.items():
            archive.writestr(name, part)
    refused(tmp_path / "packed.pth", "it would unpack to more than its size")


def test_a_file_without_an_end_and_one_without_a_size(tmp_path):
    with (tmp_path / "holes.pth").open("wb") as stream:
        stream.truncate(2**40)
    refused(tmp_path / "holes.pth", "of at most 1,073,741,824 bytes, it has 1,099,511,627,776")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "")
    refused("/dev/zero", "")


def test_the_checksum_is_read_after_the_size(monkeypatch):
    monkeypatch.setattr(vgg, "LARGEST", vgg_file().stat().st_size)
    vgg16(str(vgg_file()), checksum()[:8])
    monkeypatch.setattr(vgg, "LARGEST", vgg_file().stat().st_size - 1)
    with pytest.raises(ConfigError, match="^weights=.*: must be a file of at most"):
        vgg16(str(vgg_file()), "00000000")
