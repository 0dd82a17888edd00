"""TensorBoard as a user sees it: the server on finished runs, read through what its page reads."""

import io
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from PIL import Image
from tiny import trained

pytestmark = pytest.mark.slow


class Server:
    """A TensorBoard on 127.0.0.1."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        words = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
        self.process = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *words], stderr=subprocess.DEVNULL)

    def read(self, page, **words):
        query = f"?{urllib.parse.urlencode(words)}" if words else ""
        with urllib.request.urlopen(f"{self.url}{page}{query}", timeout=100) as answer:
            return answer.read()

    def json(self, page, **words):
        return json.loads(self.read(page, **words))

    def wait(self, runs):
        """Until all runs are read."""
        for _ in range(1000):
            try:
                if sorted(self.json("data/runs")) == runs:
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise AssertionError("TensorBoard did not start, or found other runs")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    words = ["evaluation.samples=2", "~callbacks.progress"]
    return folder, [trained(folder / f"{seed}_run", f"seed={seed}", *words)[1] for seed in (0, 1)]


@pytest.fixture(scope="module")
def server(results):
    server = Server(results[0])
    try:
        server.wait(sorted(f"{seed}_run{split}" for seed in (0, 1) for split in ("", "/train", "/test")))
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


def test_curves_of_training_and_test_have_one_chart(server, results):
    tags = server.json("data/plugin/scalars/tags")
    bounds = ["bound/ELBO", "bound/distortion", "bound/rate", "terms/loss"]
    for seed, elbo in enumerate(results[1]):
        assert sorted(tags[f"{seed}_run/test"]) == bounds
        assert sorted(tags[f"{seed}_run/train"]) == [
            *bounds,
            "trainer/gradient_norm",
            "trainer/images_per_second",
            "trainer/lr",
        ]
        assert list(tags[f"{seed}_run"]) == ["bound/NLL"]
        points = server.json("data/plugin/scalars/scalars", run=f"{seed}_run/test", tag="bound/ELBO")
        assert [step for _, step, _ in points] == [3, 6] and points[-1][2] == pytest.approx(elbo)
    steps = [point[1] for point in server.json("data/plugin/scalars/scalars", run="0_run/train", tag="bound/ELBO")]
    assert steps == [2, 3, 4, 6]


def picture(server, tag):
    """(The steps of a picture, the last one itself.)"""
    entries = server.json("data/plugin/images/images", run="0_run", tag=tag, sample=0)
    blob = server.read(f"data/plugin/images/individualImage?{entries[-1]['query']}")
    return [entry["step"] for entry in entries], Image.open(io.BytesIO(blob))


def test_pictures_and_the_animation(server, results):
    shown = sorted(server.json("data/plugin/images/tags")["0_run"])
    assert shown[:3] == ["pictures/01 training", "pictures/02 reconstruction", "pictures/03 sample"]
    steps, gif = picture(server, "pictures/01 training")
    assert gif.format == "GIF" and gif.n_frames > 1 and steps == [6]
    steps, png = picture(server, "pictures/03 sample")
    assert png.format == "PNG" and steps == [0, 3, 6]  # as the points of the curves
    assert png.tobytes() == Image.open(results[0] / "0_run" / "images" / "sample_0002.png").tobytes()


def test_hparams_have_what_differs_first_and_the_figures(server, results):
    def ask(page, **words):
        request = json.dumps({"experimentName": "", **words})
        return server.json(f"data/plugin/hparams/{page}", request=request)

    experiment = ask("experiment")
    names = [info["name"] for info in experiment["hparamInfos"]]
    assert names[0] == "seed" and {"model.latent_dim", "optimizer.lr", "data"} <= set(names)
    assert [info["name"] for info in experiment["hparamInfos"] if info["differs"]] == ["seed"]
    metrics = [(info["name"]["group"], info["name"]["tag"]) for info in experiment["metricInfos"]]
    assert metrics[:4] == [
        ("test", "bound/ELBO"), ("train", "bound/ELBO"), ("", "bound/NLL"), ("test", "bound/distortion"),
    ]  # fmt: skip
    columns = [{"metric": {"group": "test", "tag": "bound/ELBO"}}]
    everything = ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"]
    found = ask("session_groups", colParams=columns, allowedStatuses=everything, startIndex=0, sliceSize=10)
    groups = sorted(found["sessionGroups"], key=lambda group: group["hparams"]["seed"])
    assert [group["hparams"]["seed"] for group in groups] == [0, 1]
    assert groups[0]["hparams"]["conditional"] == "false" and groups[0]["hparams"]["model"] == "mlp"
    for group, elbo in zip(groups, results[1], strict=True):
        assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
        (value,) = [m["value"] for m in group["metricValues"] if m["name"] == {"group": "test", "tag": "bound/ELBO"}]
        assert value == pytest.approx(elbo)


def test_the_evaluation_is_one_table_and_the_config_is_text(server):
    assert sorted(server.json("data/plugin/text/tags")["0_run"]) == [
        "1 evaluation/text_summary", "2 config/text_summary",
    ]  # fmt: skip
    table, config = (
        server.json("data/plugin/text/text", run="0_run", tag=f"{tag}/text_summary")[0]["text"]
        for tag in ("1 evaluation", "2 config")
    )
    assert table.count("<tr>") > 8 and "<td>rate, KL(q(z|x) || p(z))</td>" in table
    assert "latent_dim: 2" in config and "<code>" in config
