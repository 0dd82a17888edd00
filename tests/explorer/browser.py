"""A headless Chromium, and the page served to it, for the tests that look at pages as a person does."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from conftest import config
from omegaconf import OmegaConf

from cvae.build import build_vae

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "window-size=1400,1000", "disable-dev-shm-usage",
]  # fmt: skip


def require_browser():
    pytest.importorskip("selenium", reason="needs selenium: pip install -e '.[dev]'")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")


def soon(found, what, seconds=20):
    """Wait until `found()` is neither None nor False, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (result := found()) is not None and result is not False:
            return result
        time.sleep(0.02)
    pytest.fail(f"not within {seconds} s: {what}")


class Browser:
    """A page in Chromium. A point of the plane is given by fractions of its sides, from the upper left corner."""

    def __init__(self, folder):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in [*FLAGS, f"user-data-dir={folder}/profile"]:
            options.add_argument(f"--{flag}")
        options.add_experimental_option("prefs", {"download.default_directory": f"{folder}/downloads"})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.driver.set_script_timeout(60)
        self.run = self.driver.execute_script

    def open(self, url, ready):
        self.driver.get(url)
        soon(lambda: self.run(f"return !!document.querySelector({ready!r})"), f"{ready} on {url}")

    def element(self, css):
        return self.driver.find_element("css selector", css)

    def text(self, css="body"):
        return self.element(css).text

    def point(self, across, down, click=False, css=".plane"):
        """Move the pointer, with as few steps on the way as there can be."""
        from selenium.webdriver.common.action_chains import ActionChains

        plane = self.element(css)
        width, height = plane.size["width"], plane.size["height"]
        way = ActionChains(self.driver, duration=0)
        way.move_to_element_with_offset(plane, round((across - 0.5) * width), round((down - 0.5) * height))
        (way.click() if click else way).perform()

    def press(self, keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(keys).perform()

    def image(self, css):
        """The pixels (H, W, 3) that an <img> shows, None if none is loaded."""
        url = self.run(f"const i = document.querySelector({css!r}); return i && i.complete ? i.src : null") or ""
        return imageio.imread(base64.b64decode(url.partition(",")[2])) if url.startswith("data:") else None

    def requests(self):
        """The addresses of all that the browser has asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        sockets = [event["params"]["url"] for event in events if event["method"] == "Network.webSocketCreated"]
        return sent + sockets

    def statuses(self, address):
        """The codes with which an address has answered since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        answers = [event["params"]["response"] for event in events if event["method"] == "Network.responseReceived"]
        return [answer["status"] for answer in answers if answer["url"] == address]

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    require_browser()
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.driver.quit()


def alike(pixels, image, levels=2):
    """Whether pixels (H, W, 3) show an image (C, H, W) in [0, 1], up to so many levels."""
    wanted = (image * 255).numpy().transpose(1, 2, 0)
    return pixels is not None and np.abs(pixels - np.broadcast_to(wanted, pixels.shape)).max() <= levels


def untrained(folder, *words):
    """A run directory as training leaves it, of an untrained model whose images differ from place to place."""
    cfg = config("data=synthetic", *words)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".hydra").mkdir()
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    weights = {f"vae.{name}": 2 * value for name, value in build_vae(cfg).state_dict().items()}
    torch.save({"state_dict": weights, "global_step": 0}, folder / "checkpoints" / "last.ckpt")
    return folder


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(run):
    """`python -m cvae explore RUN` as a process: (its address, the process). It is stopped by Ctrl-C."""
    pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
    port = free_port()
    command = [sys.executable, "-m", "cvae", "explore", str(run), "--no-browser", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=run.parent
    )
    said = []
    try:
        while f"http://127.0.0.1:{port} shows" not in (said or [""])[-1]:
            said.append(process.stdout.readline())
            assert process.poll() is None, "".join(said) + process.stdout.read()
        soon(lambda: answers(port), "an answer")
        yield f"http://127.0.0.1:{port}/", process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
