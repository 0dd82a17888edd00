"""Exported models: their files give what the model gives, for batches of any size."""

import logging
import re
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_commands import make_run, other_weights
from tiny import TINY

import cvae
from cvae.commands import export as module
from cvae.commands.exported import Part
from cvae.distributions import from_noise
from cvae.models.latent_paths import posterior_mean

NETWORKS = {
    "conv": ["model.filters=4", "model.base_channels=4"], "conv_keras_io": ["model.filters=4"],
    "conv_tfp": ["model.filters=4"], "mlp": ["model.hidden=[8]"],
    "resnet": ["model.width=8", "model.depth=1", "model.attention=[7]"],
}  # fmt: skip
PARTS = {  # what is made of other distributions than normal ones
    "vamp": ["prior=vamp", "prior.components=4", "posterior=full_gaussian"],
    "mixture": ["prior=mixture"], "flow": ["prior=flow", "prior.hidden=8"], "iaf": ["posterior=iaf", "prior=vamp"],
    "classes": ["conditional=true"],
    "colour": ["data.image_shape=[3,8,8]", "data.binarization=none", "likelihood=gaussian"],
    "logistics": ["data.binarization=none", "likelihood=mixture_of_logistics"],
}  # fmt: skip


def needed():
    for package in module.PACKAGES:
        pytest.importorskip(package, reason="the extra export is not installed")


def check(folder, size):
    """Compare the ONNX files with the model, on inputs of a test's own."""
    import onnxruntime

    vae = cvae.load(folder)
    (latent_dim,), shape = vae.shapes
    torch.manual_seed(size)
    x, z, choice = torch.rand(size, *shape).round(), torch.randn(size, latent_dim), torch.rand(size)
    y = torch.arange(size) % vae.num_classes if vae.num_classes else None
    with torch.no_grad():
        expected = {
            "encoder": ({"x": x}, posterior_mean(vae.encode(x, y))),
            "decoder": ({"z": z}, vae.decode(z, y).mean),
            "sampler": ({"noise": z, "choice": choice}, vae.decode(from_noise(vae.p_z(), z, choice), y).mean),
        }
    for name, (inputs, wanted) in expected.items():
        session = onnxruntime.InferenceSession(folder / "export" / f"{name}.onnx", providers=["CPUExecutionProvider"])
        given = {part.name for part in session.get_inputs()}
        assert given <= {*inputs, "y"} and ("y" in given) == bool(vae.num_classes)
        fed = {part: value.numpy() for part, value in ({**inputs, "y": y} if vae.num_classes else inputs).items()}
        (found,) = session.run(None, {part: value for part, value in fed.items() if part in given})
        assert np.allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)
        program = torch.export.load(folder / "export" / f"{name}.pt2").module()
        again = program(*(torch.from_numpy(fed[part.name]) for part in session.get_inputs()))
        torch.testing.assert_close(again, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_runs_elsewhere(network, tmp_path, call):
    needed()
    run = make_run(
        tmp_path / "run", f"model={network}", "model.latent_dim=3", *NETWORKS[network], base=["data=synthetic"]
    )
    code, printed = call("export", run)
    assert code == 0, printed
    assert {file.name for file in (run / "export").iterdir()} == {
        f"{name}.{ending}" for name in ("encoder", "decoder", "sampler") for ending in ("onnx", "pt2")
    }
    for name, inputs in (("encoder", "(x)"), ("decoder", "(z)"), ("sampler", "(noise)")):
        assert f"{run / 'export' / name}.onnx, .pt2: {inputs}, within " in printed
    for size in (1, 7):
        check(run, size)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_distribution_runs_elsewhere(part, tmp_path, call):
    needed()
    run = make_run(tmp_path / "run", *PARTS[part], base=TINY)
    code, printed = call("export", run)
    assert code == 0, printed
    assert ("(noise, choice" in printed) == (part in ("vamp", "mixture", "iaf"))
    for size in (1, 7):
        check(run, size)


@pytest.mark.slow
def test_the_checkpoint_that_is_asked_for_and_codes(tmp_path, call):
    needed()
    run = make_run(tmp_path / "run", base=TINY)
    other_weights(run)
    call("export", run, "--checkpoint", "best")
    z = torch.randn(3, 2)
    program = torch.export.load(run / "export" / "decoder.pt2").module()
    torch.testing.assert_close(program(z), cvae.load(run, "best").decode(z).mean, rtol=1e-5, atol=1e-5)
    codes = make_run(tmp_path / "codes", "posterior=categorical", "prior=uniform", base=TINY)
    code, printed = call("export", codes)
    assert code == 0 and "no sampler: the prior is not made of normal distributions" in printed
    assert {file.stem for file in (codes / "export").iterdir()} == {"encoder", "decoder"}


def test_what_differs_is_not_written(tmp_path, call, monkeypatch):
    needed()
    run = make_run(tmp_path / "run", base=TINY)
    given = []
    monkeypatch.setattr(torch.export, "export", lambda part, inputs, dynamic_shapes: given.append((part, inputs)))
    monkeypatch.setattr(torch.export, "save", lambda exported, file: file.write(b""))
    proto = SimpleNamespace(SerializeToString=lambda: b"")
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(model_proto=proto))
    differences = {1: 5e-6, 7: 2e-5}
    monkeypatch.setattr(module, "difference", lambda part, onnx, program, size: differences[size])
    code, printed = call("export", run)
    assert code == 1 and "the encoder as a file differs from the model by 2.0e-05, above 1e-05" in printed
    assert not (run / "export").exists() and list(given[0][1][0].shape) == [2, 1, 8, 8]
    differences[7] = float("nan")
    assert call("export", run)[0] == 1
    differences[7] = 9e-6
    code, printed = call("export", run)
    assert code == 0 and "within 9e-06 of the model" in printed and len(list((run / "export").iterdir())) == 6


def test_a_part_that_cannot_be_exported(tmp_path, call, monkeypatch):
    needed()
    run = make_run(tmp_path / "run", base=TINY)

    def fails(*_, **__):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(torch.export, "export", fails)
    code, printed = call("export", run)
    assert code == 1 and "the encoder of this model cannot be exported: no such operator" in printed
    assert not (run / "export").exists()


@pytest.mark.slow
def test_a_full_temporary_folder_is_not_needed_and_a_full_disk_is_one_line(tmp_path):
    """torch's writer of programs ends the process where it writes to a full disk."""
    needed()
    run = make_run(tmp_path / "run", base=TINY)
    (tmp_path / "small").mkdir()
    files = {"TMPDIR": f"mount -t tmpfs -o size=4k none {tmp_path}/small; head -c 4k /dev/zero > {tmp_path}/small/x"}
    files["disk"] = f"mkdir {run}/export; mount -t tmpfs -o size=20k none {run}/export"
    said = {}
    for place, command in files.items():
        line = f"set -e; {command}; TMPDIR={tmp_path}/small {sys.executable} -m cvae export {run}; ls {run}/export"
        done = subprocess.run(["unshare", "-rm", "sh", "-c", line], capture_output=True, text=True, timeout=600)
        if re.search("unshare|mount:|not permitted", done.stderr):
            pytest.skip(f"no file system can be made here: {done.stderr}")
        said[place] = done.returncode, done.stdout.split()[-6:], done.stderr.strip().splitlines()[-1:]
        shutil.rmtree(run / "export", ignore_errors=True)
    names = sorted(f"{part}.{kind}" for part in ("encoder", "decoder", "sampler") for kind in ("onnx", "pt2"))
    assert said["TMPDIR"] == (0, names, [])
    assert said["disk"][0] == 1 and re.fullmatch(
        rf"Error: \[Errno 28\] No space left on device: '{run}/export/encoder\.(onnx|pt2)'", said["disk"][2][0]
    )


def test_packages_that_are_missing(tmp_path, call, monkeypatch):
    run = make_run(tmp_path / "run", base=TINY)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name != "onnx" else "there")
    code, printed = call("export", run)
    assert code == 1 and "export needs onnxscript, onnxruntime: pip install -e '.[export]'" in printed


def test_differences_are_absolute_up_to_one_and_relative_above(tmp_path, monkeypatch):
    needed()
    import onnxruntime

    class Session:
        def __init__(self, file, providers):
            assert file == b"onnx" and providers == ["CPUExecutionProvider"]

        def run(self, outputs, inputs):
            assert inputs["x"].shape == (5, 2)
            return [10 * inputs["x"] * (1 + 2e-3)]

    class Ten(torch.nn.Module):
        def forward(self, x):
            return 10 * x

    program = type("Program", (), {"module": lambda self: lambda x: 10 * x + 1e-3})()
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(torch.export, "load", lambda file: program)
    for value, expected in ((1.0, 2e-3), (0.01, 1e-3)):  # the one by a factor, the other by a constant
        part = Part("", Ten(), {"x": torch.full((2, 2), value)})
        assert module.difference(part, b"onnx", b"program", 5) == pytest.approx(expected, rel=1e-3)


LADDERS = {  # with groups of two sizes; dense, of a class and with a mixture as prior of the top group
    "maps": ["model.groups=[4x1,8x2]", "model.width=4", "model.channels=2"],
    "dense": ["model.groups=[1x2]", "model.width=8", "model.channels=3", "prior=mixture", "conditional=true"],
}


def drawn_from(vae, y, noise, choice):
    """The model's own samples, at temperature 0.5, whose noise is this."""
    parts = list(noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_: parts.pop(0))
        patch.setattr(torch, "rand", lambda *_: choice)
        patch.setattr(torch, "randn_like", lambda mean: parts.pop(0).view_as(mean))
        images = vae.sample(len(choice), y, temperature=0.5)
    assert not parts
    return images


@pytest.mark.slow
@pytest.mark.parametrize("network", LADDERS)
def test_a_ladder_runs_elsewhere_with_the_noise_of_all_its_groups(network, tmp_path, call):
    """The sampler gives what the model's own samples are for the same noise, of all groups side by side."""
    needed()
    import onnxruntime

    words = [word for word in TINY if not word.startswith("model")]
    run = make_run(tmp_path / "run", "model=ladder", "model.latent_dim=3", *LADDERS[network], base=words)
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for value in weights["state_dict"].values():
        value.add_(0.3 * torch.randn_like(value))  # at its start the noise of a group changes hardly anything
    torch.save(weights, run / "checkpoints" / "last.ckpt")
    code, printed = call("export", run)
    assert code == 0, printed
    vae = cvae.load(run)
    below = [2 * 16, 2 * 64, 2 * 64] if network == "maps" else [3, 3]
    for size in (1, 7):
        noise, choice = torch.randn(size, 3 + sum(below)), torch.rand(size)
        y = torch.arange(size) % 10 if network == "dense" else None
        expected = drawn_from(vae, y, noise.split([3, *below], 1), choice)
        assert size == 1 or (expected[0] - expected[1]).abs().max() > 0.01
        session = onnxruntime.InferenceSession(run / "export" / "sampler.onnx", providers=["CPUExecutionProvider"])
        given = {"noise": noise / 2, "choice": choice, "y": y}
        given = {part.name: given[part.name].numpy() for part in session.get_inputs()}
        assert set(given) == ({"noise", "choice", "y"} if network == "dense" else {"noise"})
        assert np.allclose(session.run(None, given)[0], expected.numpy(), rtol=1e-5, atol=1e-5)
        z, x = torch.randn(size, 3), torch.rand(size, 1, 8, 8).round()
        with torch.no_grad():
            wanted = {"decoder": ("z", z, vae.decode(z, y).mean), "encoder": ("x", x, vae.encode(x, y).mean)}
        for name, (key, value, result) in wanted.items():
            session = onnxruntime.InferenceSession(run / "export" / f"{name}.onnx", providers=["CPUExecutionProvider"])
            given = {key: value.numpy()} | ({} if y is None else {"y": y.numpy()})
            assert np.allclose(session.run(None, given)[0], result.numpy(), rtol=1e-5, atol=1e-5)


def test_exporters_are_quiet_and_the_rest_is_not(caplog, recwarn):
    before = logging.root.manager.disable
    with module.quiet():
        logging.getLogger("theirs").warning("a hint")
        logging.getLogger("theirs").error("a fault")
        warnings.warn("a hint", stacklevel=1)
    with pytest.raises(KeyError), module.quiet():
        raise KeyError
    logging.getLogger("theirs").warning("ours")
    assert caplog.messages == ["a fault", "ours"] and not recwarn.list and logging.root.manager.disable == before
