"""Whether two runs ended alike, bit for bit, whatever happened to one of them on the way."""

import csv
import json
import re

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvae.runs.directory import Run

PACE = "images_per_second"
OWN = r"(run_dir|max_time): .*?\\n"  # of one run


def last(folder, name="last.ckpt"):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def points(folder):
    """All in TensorBoard's files but times and, in the config, folder and max_time: [(folder, tag, step, value)]."""
    found = []
    for place in sorted({file.parent for file in Run(folder).event_files()}):
        events = EventAccumulator(str(place), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
        name, tags = place.relative_to(folder), events.Tags()
        for kind, read, value in (
            ("scalars", events.Scalars, lambda event: event.value),
            ("images", events.Images, lambda event: event.encoded_image_string),
            (
                "tensors",
                events.Tensors,
                lambda event: re.sub(OWN, "", str(event.tensor_proto)),
            ),
        ):
            found += [
                (name, tag, event.step, value(event))
                for tag in tags[kind]
                if not tag.endswith(PACE)
                for event in read(tag)
            ]
    return sorted(found, key=lambda point: point[:3])


def table(folder):
    file = folder / "csv" / "metrics.csv"
    if not file.exists():
        return None
    rows = [row | {f"train/{PACE}": ""} for row in csv.DictReader(file.open())]
    return [row for row in rows if any(value for name, value in row.items() if name != "step")]


def metrics(folder):
    found = json.loads((folder / "metrics.json").read_text())
    return found | {"train/seconds_per_epoch": len(found["train/seconds_per_epoch"])}


def require_equal(one, two):
    """Checkpoints, figures, pictures and curves; not seconds, times and folders."""
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        require_equal_checkpoints(last(one, name), last(two, name))
    kept = [sorted(path.name for path in (run / "checkpoints").glob("epoch=*")) for run in (one, two)]
    assert kept[0] == kept[1]
    require_equal_results(one, two)


def require_equal_checkpoints(ours, theirs):
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    for name in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    torch.testing.assert_close(ours["cvae"].get("averages"), theirs["cvae"].get("averages"), rtol=0, atol=0)
    for name in ("epoch", "global_step"):
        assert ours[name] == theirs[name]
    for name in ("Checkpoints", "EarlyStopping"):
        assert ours["callbacks"].get(name) == theirs["callbacks"].get(name)
    assert ours["cvae"].get("gradients") == theirs["cvae"].get("gradients")


def require_equal_results(one, two):
    assert metrics(one) == metrics(two)
    pictures, others = (sorted(p.relative_to(run) for p in run.rglob("*.[pg][ni][gf]")) for run in (one, two))
    assert pictures == others
    for picture in pictures:
        assert (one / picture).read_bytes() == (two / picture).read_bytes(), picture
    assert points(one) == points(two)
    assert table(one) == table(two)
