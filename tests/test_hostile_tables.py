"""Runs of others in a table: `compare` opens many, and each may have been made to do harm to who only looks."""

import json
import os
import re
import resource
import time
from pathlib import Path

import pytest
from runs_to_compare import make
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from cvae.__main__ import main
from cvae.cli.hydra_callbacks import unfinished

ESCAPE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202e"
DEEP = "[" * 60_000
YAML = ("config", "overrides", "hydra")


def yaml_files(run):
    return [run / ".hydra" / f"{name}.yaml" for name in YAML]


def small_files(run):
    (run / "evaluation").mkdir(exist_ok=True)
    return [*yaml_files(run), run / "metrics.json", run / "status.json", run / "evaluation" / "last_samples=1.json"]


def in_place_of(files, put):
    for file in files:
        file.unlink(missing_ok=True)
        put(file)


def write(text):
    return lambda file: file.write_text(text)


def link(target):
    return lambda file: file.symlink_to(target)


def holes(file):
    file.touch()
    os.truncate(file, 2**36)


def metrics(run, **figures):
    """Figures in place of the run's own, as text in JSON."""
    known = {"elbo": "test/elbo", "rate": "test/rate", "distortion": "test/distortion", "nll": "evaluation/nll"}
    pairs = [f'"{known.get(name, name)}": {text}' for name, text in figures.items()]
    (run / "metrics.json").write_text("{" + ", ".join(pairs) + "}")


def everything_escapes(run):
    """Control characters in the name, the words, the values, the tags, the state and the evaluation of a run."""
    text = json.dumps(ESCAPE)
    (run / ".hydra" / "overrides.yaml").write_text(f"- {json.dumps('name=' + ESCAPE)}\n- {json.dumps(ESCAPE + '=1')}")
    (run / ".hydra" / "config.yaml").write_text(
        f"name: {text}\ntags: [{text}]\ndata: {{_target_: {text}, root: {text}, binarization: {text}}}\n"
        f"likelihood: {{_target_: {text}}}\n"
    )
    (run / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{choices: {{prior: {text}}}}}}}")
    (run / "status.json").write_text(json.dumps({"state": "failed", "reason": ESCAPE}))
    run.rename(run.with_name(f"run{ESCAPE}$\\frac$|x"))


def events(content):
    def put(run):
        (run / "test").mkdir()
        content(run / "test" / "events.out.tfevents.1")

    return put


def records(*contents):
    def put(file):
        with open(file, "wb") as stream:
            for content in contents:
                RecordWriter(stream).write(content)

    return put


def points(*values):
    summaries = [Summary(value=[Summary.Value(tag="bound/ELBO", simple_value=value)]) for value in values]
    return records(*(Event(step=step, summary=each).SerializeToString() for step, each in enumerate(summaries)))


class Length(bytes):
    """A record whose header says another length."""

    def __len__(self):
        return 2**40


HOSTILE = {
    "nested brackets": lambda run: in_place_of(small_files(run), write(DEEP)),
    "closed brackets": lambda run: in_place_of(small_files(run), write("a: " + DEEP + DEEP.replace("[", "]"))),
    "pipes": lambda run: in_place_of([*small_files(run), run / ".lock"], os.mkfifo),
    "a pipe as config": lambda run: in_place_of([run / ".hydra" / "config.yaml"], os.mkfifo),
    "devices": lambda run: in_place_of(small_files(run), link("/dev/zero")),
    "links to themselves": lambda run: in_place_of([*small_files(run), run / ".lock"], lambda file: link(file)(file)),
    "files of holes": lambda run: in_place_of(small_files(run), holes),
    "a number of 400 digits": lambda run: metrics(run, elbo="-" + "9" * 400, rate="9" * 400, seconds="9" * 400),
    "a setting of 400 digits": lambda run: in_place_of([run / ".hydra" / "config.yaml"], write("seed: " + "9" * 400)),
    "numbers that overflow": lambda run: metrics(run, elbo="-1e308", rate="1e308", distortion="1e999", nll="NaN"),
    "a number to the base of 60": lambda run: in_place_of(yaml_files(run), write("a: " + "1:" * 100_000 + "1")),
    "escapes": everything_escapes,
    "many words": lambda run: in_place_of(yaml_files(run), write("\n".join(f"- a.k{n}=1" for n in range(4_900)))),
    "a word of many dots": lambda run: in_place_of(yaml_files(run), write("- " + "a." * 100_000 + "=1")),
    "a tag of a million signs": lambda run: in_place_of(
        [run / ".hydra" / "config.yaml"], write("tags: [" + "x" * 200_000 + "]")
    ),
    "curves in a pipe": events(os.mkfifo),
    "curves in a device": events(link("/dev/zero")),
    "a file of curves that is too long": events(holes),
    "curves of no numbers": events(points(float("inf"), float("nan"), -float("inf"), 3e38)),
    "a record that says it is long": events(records(Length(b"x"))),
    "a record that is no event": events(records(b"\xff" * 1000)),
}  # fmt: skip


@pytest.mark.parametrize("how", [[], ["--markdown"], ["--csv"], ["--each"], ["--plot", "figure.png"]], ids=str)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_table_with_a_hostile_run(tmp_path, monkeypatch, capsys, caplog, name, how):
    """The other run is shown as ever: nothing waits, nothing fills the memory, no terminal is told what to do."""
    monkeypatch.chdir(tmp_path)
    for variable in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS"):
        monkeypatch.setenv(variable, "1")
    make(tmp_path / "runs" / "good", "seed=1", elbo=-100.25, seed=1)
    bad = make(tmp_path / "runs" / "bad", "model.latent_dim=3", elbo=-200.5, model={"latent_dim": 3})
    HOSTILE[name](bad)
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        main(["compare", "runs", *how])
    except SystemExit as end:
        pytest.fail(f"exit {end.code}: {caplog.text}")
    out, err = capsys.readouterr()
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000, "kilobytes of memory were taken"
    said = out + err + caplog.text
    assert "-100.25" in out and "Traceback" not in said
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]*", said)
    assert Path("figure.png").exists() == ("--plot" in how)
    assert set(os.listdir()) <= {"runs", "figure.png"}


def test_a_sweep_of_somebody_else_says_what_did_not_finish_without_escapes(tmp_path):
    bad = make(tmp_path / "bad", "seed=2", elbo=-200.5, seed=2)
    everything_escapes(bad)
    lines = unfinished(tmp_path)
    assert len(lines) == 2 and "failed: \\x1b]0;title" in lines[1]
