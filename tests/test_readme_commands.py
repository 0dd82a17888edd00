"""Every command of README.md and docs/ as a reader types it; behind its words come those that make it small."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import PLUGINS, ROOT
from explorer.browser import free_port
from pages import PAGES, prose
from PIL import Image

from cvae.runs.directory import Run

ELSEWHERE = {  # a command that is not run here: why
    "pip install -c constraints.txt -e .": ".ci/run runs the next line, which installs this and more",
    "pip install -c constraints.txt -e .[test]": ".ci/run runs it",
    "pytest": ".ci/run runs it",
    "pip install -c constraints.txt -e .[sweep]": ".ci/run installs all extras at once",
    "pip install -c constraints.txt -e .[explore]": ".ci/run installs all extras at once",
    "pip install -c constraints.txt -e .[explore,maps]": ".ci/run installs all extras at once",
    "pip install -c constraints.txt -e .[psis]": ".ci/run installs all extras at once",
    "pip install -c constraints.txt -e .[hdf5]": ".ci/run installs all extras at once",
    "python train.py data=shapes3d experiment=own_images": "tests/data/test_published.py reads a file of this form",
    "pip install -c constraints.txt -e .[measures]": ".ci/run installs all extras at once",
    "pip install -c constraints.txt -e .[huggingface]": ".ci/run installs all extras at once",
    "tensorboard --logdir outputs": "tests/training/test_tensorboard_server.py starts it, and reads its pages",
    "python tests/two_machines.py": "needs root; tests/test_ends.py makes two machines of groups of processes",
    "python tests/soak.py": "takes an hour; tests/test_kills.py runs its trainings with fewer kills",
    "python -m benchmarks.processes": "needs MNIST and an idle machine; tests/test_benchmarks.py runs its parts",
    "python -m benchmarks.scores": "needs disent and disentanglement_lib; tests/test_benchmarks.py runs its parts",
    "python -m benchmarks.reading": "how the commands of that benchmark begin",
    "python -m benchmarks.steps": "needs MNIST and an idle machine; tests/test_benchmarks.py runs what it is made of",
    "python -m benchmarks.runs": "takes half an hour of an idle machine",
    "python -m benchmarks.memory trainer=cpu": "takes an hour; tests/test_benchmarks.py runs its parts",
    "bash benchmarks/table.sh": "takes two hours of MNIST; tests/test_words.py takes a step of each of its rows",
    "python -m benchmarks.nll": "needs MNIST and an idle machine",
    "python -m benchmarks.scaling trainer=cpu": "needs MNIST and an idle machine",
    "bash benchmarks/gpu.sh": "needs a GPU; tests/test_benchmarks.py parses its commands",
    "bash benchmarks/gpu_goals.sh": "needs a GPU",
    **{
        f"MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 NODE_RANK={machine} python train.py trainer=ddp trainer.num_nodes=2 "
        "hydra.run.dir=outputs/mine": "needs two machines, of which tests/test_ends.py makes some"
        for machine in (0, 1)
    },
    "python -m cvae features mnist": "needs MNIST; tests/commands/test_evaluate_quality.py trains such classifiers",
    "python -m cvae features DATA": "how that command begins",
    "python -m cvae evaluate RUN --quality": "tests/commands/test_evaluate_quality.py runs it, with a classifier",
    "python -m cvae evaluate RUN --quality --lpips vgg16:FILE": "tests/commands/test_evaluate_quality.py has weights",
    **{
        f"python train.py {words} data.binarization=static trainer.max_epochs=5{more}": "minutes; tests/test_pairs.py"
        for words, more in (
            ("-m experiment=resnet_mnist model.width=16 model.latent_dim=16", " prior=standard_normal,flow"),
            ("experiment=resnet_mnist model.width=16 model.latent_dim=16", " prior=vamp prior.components=100"),
            ("experiment=ladder_mnist model.width=16", ""),
            ("experiment=vq_mnist model.width=16", ""),
        )
    },
    "python -m cvae fit-prior NORMAL prior=gmm --rounds 15": "tests/commands/test_fit_prior.py fits each prior",
    "python -m cvae fit-prior NORMAL prior=flow --rounds 15": "the same",
    "python -m cvae fit-prior VQ prior=autoregressive prior.hidden=64 --rounds 8": "the same",
    "python -m cvae evaluate RUN --samples 100 --images 2000": "tests/commands/test_commands.py evaluates a run",
    "python -m cvae data /my/images": "tests/data/test_survey.py looks at folders and arrays",
    "python -m cvae encode RUN /my/images": "tests/commands/test_use_latents.py encodes a folder",
    **{
        f"python train.py -m experiment=iwae objective=elbo {words} trainer.max_epochs=15 evaluation.samples=500 "
        "evaluation.images=2000": "eight trainings; tests/test_sphere.py trains one"
        for words in (
            "posterior=power_spherical prior=uniform_sphere model.latent_dim=3,6,11,21",
            "posterior=diagonal_gaussian prior=standard_normal model.latent_dim=2,5,10,20",
        )
    },
    "python train.py -m --config-dir benchmarks/factors seed=0,1,2 experiment=glob(factors_*)": "takes two hours; "
    "tests/test_words.py takes a step of each of its rows",
    "python -m cvae": "how the commands after a run begin",
    "python -m cvae fit-prior": "how that command begins",
}
TYPED = {"seed=S": "seed=3", "S": "4", "N": "7", "data.root=/my/images": "data.root=SUBSET"}  # what a word stands for
LESS = {  # a word of a command: what makes the command small
    "data=sprites": ["data.source.train_size=100", "data.source.test_size=400"],
    "search=lr_latent_dim": ["hydra.sweeper.n_trials=2"],
    "data.validation_size=45000": ["data.validation_size=10"],
    "data.validation_size=10000": ["data.validation_size=10"],
    "trainer=ddp": ["trainer.accelerator=cpu", "trainer.devices=2"],
    "evaluate": ["--samples", "4"],
    "--until": ["--until", "0.5", "--images", "1", "--memory", "0.001"],  # one image, in a block of its own
    "--quality": ["--samples", "20"],
    "fit-prior": ["--rounds", "1"],
}


def commands(text):
    """Each command once, without its comment: the lines of code blocks, and what begins like one between backticks."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    shown = [block for language, block in blocks if not language and not block.startswith("outputs/")]
    lines = [line for block in shown for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]
    lines += [span for span in spans if re.match(r"(python|pip|bash|pytest|tensorboard|torchrun|srun) ", span)]
    lines += re.findall(r"tensorboard --logdir \w+", text)  # in the middle of a line
    parts = [part for line in lines for part in line.split(" && ")]
    return list(dict.fromkeys(" ".join(map(quoted, shlex.split(part, comments=True))) for part in parts))


def quoted(word):
    """A word so that a shell reads it as it is, with quotes only where it needs them."""
    return word if shlex.split(word) == [word] else shlex.quote(word)


OWN_PARTS = "docs/own_parts.md"  # tests/test_own_parts.py runs its commands
COMMANDS = commands("\n".join(text for page, text in PAGES.items() if page != OWN_PARTS))
TRAININGS = [command for command in COMMANDS if re.match(r"python train\.py(?!.*(resume|init)=)", command)]
TRAININGS = [command for command in TRAININGS if command not in ELSEWHERE]
RESUMED = [command for command in COMMANDS if re.match(r"python train\.py.*resume=", command)]
BEGUN = [command for command in COMMANDS if re.match(r"python train\.py.*init=", command)]
SERVED = ["python -m cvae explore RUN"]
AFTER = [command for command in COMMANDS if command.startswith("python -m cvae ") and command not in ELSEWHERE]
AFTER = [command for command in AFTER if command not in SERVED]


def test_commands_are_found():
    text = (
        "```\npip install . && python train.py\npython train.py a=1  # why\nmake\n```\nor\n`python train.py -m b=1,2\n"
    )
    text += "c=3`, `python`, `a=1`.\n```python\nx = 1\n```\n```\noutputs/x\n  y  z: tensorboard --logdir outputs\n```\n"
    text += "```\npython train.py 'd={e: null, f: [1]}' 'g={h:1}'\n```\n"
    assert commands(text) == [
        "pip install .", "python train.py", "python train.py a=1", "make",
        "python train.py 'd={e: null, f: [1]}' g={h:1}", "python train.py -m b=1,2 c=3", "tensorboard --logdir outputs",
    ]  # fmt: skip
    assert words_of("python train.py 'd={e: null, f: [1]}' seed=S") == [
        "python", "train.py", "d={e: null, f: [1]}", "seed=3",
    ]  # fmt: skip


def test_each_command_is_run_here_or_elsewhere():
    assert [
        command for command in COMMANDS if command not in [*TRAININGS, *RESUMED, *BEGUN, *AFTER, *SERVED, *ELSEWHERE]
    ] == []
    assert [command for command in [*SERVED, *ELSEWHERE] if command not in COMMANDS] == []  # what a page had once


def test_every_extra_is_installed_by_the_checks():
    installed = re.search(r'^pip install -c constraints.txt -e "\.\[(.*)\]"$', (ROOT / ".ci/run").read_text(), re.M)
    extras = re.findall(r"^pip install .*\[([\w,]+)\]", "\n".join(COMMANDS), re.M)
    assert {extra for names in extras for extra in names.split(",")} <= {*installed[1].split(","), "test"}


def words_of(command):
    """What is typed: the page's words, then those that make the command small."""
    words = [TYPED.get(word, word) for word in shlex.split(command)]
    return words + [more for word in words for more in LESS.get(word, [])]


def start(command, folder, *more):
    """A process in a folder that has what a checkout has."""
    for name in ("train.py", "conf", "cvae"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HYDRA_", "CVAE_", "PYTEST_"))
    }
    words = [sys.executable, *words_of(command)[1:], *more]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}, **pipe)


def finish(process):
    """What it said. Raises AssertionError if it says an unexpected error."""
    said, _ = process.communicate(timeout=900)
    assert "Traceback" not in said, said
    return said


def train(command, folder, *more):
    """Its exit code, what it said, and the runs it has left."""
    for beginning, plugin in PLUGINS.items():
        if beginning in command:
            pytest.importorskip(plugin, reason="the extra sweep is not installed")
    small = ["trainer.max_epochs=1", "callbacks.pictures.manifold_steps=2"]
    if " data=" not in command:
        small += ["data=synthetic", "data.source.train_size=40", "data.source.test_size=20"]
    process = start(command, folder, *(() if "--help" in command else small), *more)
    said = finish(process)
    return process.returncode, said, [Run(file.parents[1]) for file in folder.glob("outputs/**/.hydra/config.yaml")]


def own_images(folder, count):
    """A reader's images: files in SUBSET/ and arrays in images.npz."""
    x = np.random.default_rng(0).integers(0, 256, (count, 40, 32, 3)).astype(np.uint8)
    np.savez(folder / "images.npz", x=x)
    (folder / "SUBSET").mkdir()
    for number, levels in enumerate(x):
        Image.fromarray(levels).save(folder / "SUBSET" / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAININGS)
def test_a_training(command, tmp_path):
    own_images(tmp_path, 20)
    code, said, runs = train(command, tmp_path)
    if "--help" in command:
        assert code == 0 and "Groups (choose with GROUP=NAME" in said
        return
    too_large = [run for run in runs if run.state() == "failed" and run.name == "lr=10"]  # as a table shows
    assert code == (1 if too_large else 0), said
    assert {run.state() for run in runs if run not in too_large} == {"finished"}, said
    members = re.search(r"-m .*=([\w.-]+(?:,[\w.-]+)+)", command)
    assert len(runs) == (len(members[1].split(",")) if members else 2 if "search=" in command else 1)
    kind = re.search(r"experiment=(\w+)", command)
    own = " data=image_folder" in command or " data=npz" in command
    experiment = kind[1] if kind else "own_images" if own else "tf_tutorial"
    assert all(run.path.relative_to(tmp_path).parts[1] == experiment for run in runs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A reader's folder: a run of the tutorial as RUN, a sweep as SWEEP and below outputs/, and an image."""
    folder = tmp_path_factory.mktemp("reader")
    code, said, runs = train("python train.py -m seed=0,1", folder)
    assert code == 0, said
    shutil.copytree(runs[0].path, folder / "RUN")
    shutil.copytree(runs[0].path.parent, folder / "SWEEP")
    Image.new("RGB", (40, 30), "white").save(folder / "mine.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", RESUMED)
def test_a_run_that_goes_on(command, trained, tmp_path):
    shutil.copytree(trained / "RUN", tmp_path / "RUN")
    process = start(command, tmp_path, "trainer.max_epochs=2")
    said = finish(process)
    assert process.returncode == 0 and Run(tmp_path / "RUN").state() == "finished", said
    assert "Goes on from RUN/checkpoints/last.ckpt" in said and "Epoch 2" in said


@pytest.mark.slow
@pytest.mark.parametrize("command", BEGUN)
def test_a_run_that_begins_with_the_weights_of_another(command, trained, tmp_path):
    if "experiment=iwae_fast" in command:  # it has the network of this one
        (tmp_path / "first").mkdir()
        _, _, (run,) = train("python train.py experiment=mlp_fast", tmp_path / "first")
    else:
        run = Run(trained / "RUN")
    shutil.copytree(run.path, tmp_path / "RUN")
    code, said, runs = train(command, tmp_path)
    assert code == 0 and [run.state() for run in runs] == ["finished"], said
    assert "are those of RUN/checkpoints/last.ckpt" in said


@pytest.fixture(scope="module")
def of_codes(tmp_path_factory):
    """A reader's folder with a run of codes as RUN."""
    folder = tmp_path_factory.mktemp("codes")
    code, said, (run,) = train("python train.py experiment=vq_mnist", folder)
    assert code == 0, said
    shutil.move(run.path, folder / "RUN")
    return folder


@pytest.fixture(scope="module")
def of_factors(tmp_path_factory):
    """A reader's folder with a run of sprites as RUN."""
    folder = tmp_path_factory.mktemp("factors")
    code, said, (run,) = train("python train.py data=sprites experiment=beta_vae", folder)
    assert code == 0, said
    shutil.move(run.path, folder / "RUN")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", AFTER)
def test_a_command_after_a_run(command, request, monkeypatch, call):
    kinds = {"prior=autoregressive": "of_codes", "--factors": "of_factors"}  # words that need a run of their own
    folder = request.getfixturevalue(next((kinds[word] for word in kinds if word in command), "trained"))
    monkeypatch.chdir(folder)
    if " export " in command:
        pytest.importorskip("onnxscript", reason="the extra export is not installed")
    code, printed = call(*words_of(command)[3:])
    assert code == 0 and printed, printed
    for out in re.findall(r"--(?:out|plot|html) (\S+)", command):
        assert (folder / out).stat().st_size > 500


@pytest.mark.slow
@pytest.mark.parametrize("command", SERVED)
def test_a_page_that_is_ended_by_ctrl_c(command, trained):
    pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
    process = start(command, trained, "--no-browser", "--port", str(free_port()))
    first = next((line for line in process.stdout if "shows RUN" in line), None)
    process.send_signal(signal.SIGINT)
    assert first and "Stopped." in finish(process) and process.returncode == 0
