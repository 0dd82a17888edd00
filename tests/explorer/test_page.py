"""The pages in a headless Chromium, as a person sees and uses them."""

import base64
import re
import signal
import socket
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from browser import alike, browser, require_browser, serving, soon, untrained  # noqa: F401, browser is a fixture
from tiny import QUIET, trained

import cvae
from cvae.build import load_data
from cvae.explorer import static_tables
from cvae.explorer.space import space_of
from cvae.runs.directory import Run

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=document.title='owned'>"  # a name that would be a program if it were not text


def space(run):
    return space_of(cvae.load(run), load_data(Run(run)), None, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model that has learned something: colours, classes, three latent dimensions."""
    require_browser()
    folder = tmp_path_factory.mktemp("runs") / "run"
    trained(
        folder, *QUIET, "data.image_shape=[3,8,8]", "data.num_classes=4", "conditional=true", "data.binarization=none",
        "likelihood=gaussian", "likelihood.scale=0.1", "likelihood.mean=sigmoid", "model.latent_dim=3",
        "model.hidden=[32]", "data.source.train_size=400", "data.source.test_size=60", "trainer.max_epochs=25",
    )  # fmt: skip
    return folder.rename(folder.with_name(HOSTILE))


@pytest.fixture(scope="module")
def served(run):
    with serving(run) as (address, _):
        yield address


@pytest.fixture
def page(browser, served):
    browser.requests(), browser.complaints()
    browser.open(served, ".plane img[src^=data]")
    soon(lambda: browser.image(".decoded img") is not None, "a first image")
    yield browser
    assert browser.complaints() == []


def where(page):
    """The numbers of z that are shown: {dimension: value}."""
    return {int(dim): float(value) for dim, value in re.findall(r"z\[(\d)\] = (-?[\d.]+)", page.text())}


def z_of(found, shown, others):
    """z (D,) with the shown dimensions, and the others as they are."""
    z = others.clone()
    for dim, value in shown.items():
        z[dim] = value
    return z


def test_moving_the_pointer_decodes_where_it_is(page, run):
    found = space(run)
    plane, others = found.first_plane(), found.means.median(0).values
    seen = []
    for across, down in ((0.3, 0.2), (0.7, 0.8), (0.5, 0.4)):
        page.point(across, down)
        wanted = plane.move(others, across, down)
        soon(lambda w=wanted: all(abs(z - w[dim]) < 0.03 for dim, z in where(page).items()), "z at the pointer")
        z = z_of(found, where(page), others)
        soon(lambda z=z: alike(page.image(".decoded img"), found.decode(z[None], 0)[0], 4), "the image decoded there")
        seen.append(page.image(".decoded img").astype(int))
    assert all(np.abs(a - b).max() > 12 for a, b in pairwise(seen))  # and they differ


def test_a_click_shows_the_original_and_its_reconstruction(page, run):
    found = space(run)
    places = found.places(found.first_plane())
    for index in alone(places)[:2]:
        across, down = places[index].tolist()
        page.point(across, down, click=True)
        name = f"image {index}, {int(found.y[index])}"
        soon(
            lambda n=name: n in page.run("return document.querySelector('.plane svg').textContent"),
            "its name beside it",
        )
        label = int(found.y[index])
        soon(lambda i=index, k=label: f"Test image {i}, class {k}" in page.text(), "which image it is")
        soon(lambda i=index: alike(page.image(".original img"), found.original(i), 0.6), "the original")
        decoded = found.decode(found.means[index][None], label)[0]
        for place in (".reconstruction img", ".decoded img"):
            soon(lambda p=place, d=decoded: alike(page.image(p), d, 0.6), place)
        ((x, y, radius),) = circles(page)
        assert radius == 11 and (x, y) == pytest.approx((1000 * across, 1000 * down), abs=0.2)


def alone(places):
    """The indices of the places inside the picture, those first that are farthest from others."""
    distances = torch.cdist(places, places) + 9 * torch.eye(len(places))
    return distances.min(1).values.argsort(descending=True).tolist()


def circles(page):
    """(x, y, radius) of what is marked on the plane."""
    numbers = "['cx', 'cy', 'r'].map((name) => +circle.getAttribute(name))"
    return page.run(f"return [...document.querySelectorAll('.plane svg circle')].map((circle) => {numbers})")


def test_the_other_dimensions_have_sliders(page, run):
    found = space(run)
    plane = found.first_plane()
    (other,) = set(range(3)) - {plane.right, plane.up}
    assert page.element(".q-slider").get_attribute("aria-label") == f"z[{other}], {found.rate[other]:.2f} nats"
    page.point(0.5, 0.5)
    before = soon(lambda: page.image(".decoded img"), "an image")
    slider = page.element(".q-slider")
    box = slider.size["width"]
    page.point(0.9, 0.5, click=True, css=".q-slider")
    soon(lambda: not np.array_equal(page.image(".decoded img"), before), "another image")
    low, high = found.low[other].item(), found.high[other].item()
    z = z_of(found, where(page), found.means.median(0).values)
    z[other] = low + 0.9 * (high - low)
    soon(lambda: alike(page.image(".decoded img"), found.decode(z[None], 0)[0], 8), f"the slider at 90 % of {box}")


def test_another_plane(page, run):
    """Choosing the dimension that the other axis has makes the two change places."""
    found = space(run)
    plane = found.first_plane()
    before = page.image(".plane img")
    page.element(".q-select:nth-of-type(2)").click()
    name = f"z[{plane.up}]"
    soon(lambda: page.run("return document.querySelectorAll('.q-menu .q-item').length") == 3, "three dimensions")
    page.run(f"[...document.querySelectorAll('.q-menu .q-item')].find(i => i.innerText.startsWith({name!r})).click()")
    soon(lambda: not np.array_equal(page.image(".plane img"), before), "another plane")
    swapped = found.plane(plane.up, plane.right)
    index = alone(found.places(swapped))[0]
    page.point(*found.places(swapped)[index].tolist(), click=True)
    soon(lambda: f"Test image {index}," in page.text(), "an image of the new plane")


def span(page):
    """The numbers that are written on the plane cannot be read: how wide two marks of z lie apart tells of the zoom."""
    (x, *_), (y, *_) = sorted(mark for mark in circles(page) if mark[2] == 16)
    return y - x


def test_the_wheel_zooms_around_the_pointer(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    for across, name in ((0.4, "a"), (0.6, "b")):
        page.point(across, 0.5)
        soon(lambda: where(page), "z")
        page.press(name)
        soon(lambda n=name: len(circles(page)) >= {"a": 1, "b": 2}[n], name)
    before, png = span(page), page.image(".plane img")
    origin = ScrollOrigin.from_element(page.element(".plane"))
    ActionChains(page.driver).scroll_from_origin(origin, 0, -200).perform()
    soon(lambda: span(page) > 1.3 * before, "closer")
    assert span(page) == pytest.approx(before * np.exp(0.4), rel=0.02)  # 200 pixels, 0.002 each
    middle = sum(x for x, _, radius in circles(page) if radius == 16) / 2
    assert middle == pytest.approx(500, abs=15)
    soon(lambda: not np.array_equal(page.image(".plane img"), png), "another picture")
    page.run("document.querySelector('[aria-label=\"Show all images\"]').click()")
    soon(lambda: abs(span(page) - before) < 1, "as at first")
    assert page.run("return scrollY") == 0


PINCH = """
const plane = document.querySelector(".plane img"), box = plane.getBoundingClientRect();
const send = (type, apart) => {
  const middle = [box.left + box.width / 2, box.top + box.height / 2];
  const touches = [-1, 1].map((side, identifier) => new Touch(
    { identifier, target: plane, clientX: middle[0] + side * apart / 2, clientY: middle[1] }));
  plane.dispatchEvent(new TouchEvent(type, { touches, bubbles: true, cancelable: true }));
};
send("touchmove", 100); send("touchmove", 160); send("touchmove", 200); send("touchend", 200);
"""


def test_two_fingers_zoom(page):
    for across, name in ((0.4, "a"), (0.6, "b")):
        page.point(across, 0.5)
        soon(lambda: where(page), "z")
        page.press(name)
        soon(lambda n=name: len(circles(page)) >= {"a": 1, "b": 2}[n], name)
    before = span(page)
    page.run(PINCH)
    soon(lambda: span(page) > 1.5 * before, "closer")
    assert span(page) == pytest.approx(2 * before, rel=0.02)


def test_the_keyboard_alone(page, run):
    """Tab leads from control to control, each of which says what it is, to the plane; there the arrows move."""
    from selenium.webdriver.common.keys import Keys

    found, seen = space(run), []
    for _ in range(30):
        page.press(Keys.TAB)
        seen.append(page.run("const e = document.activeElement; return e.getAttribute('aria-label') || e.innerText"))
        if page.run("return document.activeElement.classList.contains('plane')"):
            break
    assert "The latent space." in seen[-1] and all(seen), seen
    assert [name for name in ("Save PNG", "plane", "to the right", "upwards", "decode as class") if
            not any(name in label for label in seen)] == []  # fmt: skip
    before = where(page)
    page.press(Keys.ARROW_RIGHT * 3)
    plane = found.first_plane()
    step = 0.02 * (plane.high[0] - plane.low[0])
    soon(lambda: abs(where(page)[plane.right] - before[plane.right] - 3 * step) < 0.02, "z three steps to the right")
    assert where(page)[plane.up] == before[plane.up]
    page.press(Keys.ENTER)
    soon(lambda: "Test image" in page.text(), "an image")


def test_a_narrow_screen(page):
    """What a click is for lies above the plane, both are seen at once, and nothing is wider than the screen.

    What is written on the plane is larger, until the window is wide again.
    """
    cross = "return document.querySelector('.plane svg path').getAttribute('d').match(/h([\\d.]+)M/)[1]"
    usual, size = page.image(".plane img"), {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.driver.refresh()
        soon(lambda: page.image(".decoded img") is not None, "a first image")
        soon(lambda: page.run("return document.querySelector('.plane').clientWidth") > 300, "the plane")
        boxes = {
            name: page.run(f"return document.querySelector('.{name}').getBoundingClientRect()")
            for name in ("decoded", "original", "reconstruction", "plane")
        }
        assert len({round(boxes[name]["top"]) for name in ("decoded", "original", "reconstruction")}) == 1
        assert boxes["original"]["bottom"] < boxes["plane"]["top"] < boxes["plane"]["bottom"] < 900
        assert page.run("return document.documentElement.scrollWidth") <= 420
        tops = "[...document.querySelectorAll('.q-select')].slice(0, 3).map((e) => e.getBoundingClientRect().top)"
        assert len(set(page.run(f"return {tops}"))) == 1  # the plane, and its two dimensions
        soon(lambda: float(page.run(cross)) > 24, "a larger cross")
        soon(lambda: not np.array_equal(page.image(".plane img"), usual), "larger points")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    soon(lambda: float(page.run(cross)) == 24, "a cross of the usual size")
    soon(lambda: np.array_equal(page.image(".plane img"), usual), "points of the usual size")


def test_another_class(page, run):
    found = space(run)
    page.point(0.4, 0.4)
    soon(lambda: where(page), "z")
    z = z_of(found, where(page), found.means.median(0).values)
    page.run("document.querySelectorAll('.q-select')[3].querySelector('input, [tabindex]').focus()")
    page.driver.find_elements("css selector", ".q-select")[3].click()
    soon(lambda: page.run("return document.querySelectorAll('.q-menu .q-item').length") == 4, "four classes")
    page.run("document.querySelectorAll('.q-menu .q-item')[2].click()")
    soon(lambda: alike(page.image(".decoded img"), found.decode(z[None], 2)[0], 6), "the image of class 2")


def test_an_image_that_is_dropped(page, run, tmp_path):
    """Anywhere on the page; its name is text, and it is marked where the model puts it."""
    found = space(run)
    levels = (found.original(3) * 255).round().byte().permute(1, 2, 0).numpy()
    file = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    imageio.imwrite(file, levels)
    drop = """
      const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), data = new DataTransfer();
      data.items.add(new File([bytes], arguments[1]));
      const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
      document.querySelector(".plane").dispatchEvent(drop);
    """
    page.run(drop, base64.b64encode(file.read_bytes()).decode(), file.name)
    soon(lambda: f"1: {file.name}" in page.text(), "its name")
    soon(lambda: alike(page.image(".original img"), found.original(3), 0.6), "the image")
    z = found.encode(found.original(3), 0)
    soon(lambda: alike(page.image(".reconstruction img"), found.decode(z[None], 0)[0], 1), "its reconstruction")
    ((across, down),) = found.first_plane().places(z[None]).tolist()
    ((x, y, radius),) = circles(page)
    assert radius == 16 and (x, y) == pytest.approx((1000 * across, 1000 * down), abs=0.2)
    page.element("input[type=file]").send_keys(str(file))  # the other way: the button
    soon(lambda: f"2: {file.name}" in page.text() and len(circles(page)) == 2, "the second image")
    assert page.driver.title == "cvae explore"


def test_a_file_that_is_no_image(page, tmp_path):
    file = tmp_path / "notes.png"
    file.write_text("no image")
    page.element("input[type=file]").send_keys(str(file))
    soon(lambda: "notes.png: not an image of a known format" in page.text(), "a message")
    large = tmp_path / "large.png"
    large.write_bytes(b"x" * 20_000_001)
    page.element("input[type=file]").send_keys(str(large))
    soon(lambda: "A file has at most 20 MB" in page.text(), "a message")
    assert circles(page) == []


def test_the_way_from_a_to_b(page, run):
    """By keys and by clicks."""
    found = space(run)
    plane, others = found.first_plane(), found.means.median(0).values
    page.point(0.2, 0.3)
    soon(lambda: where(page), "z")
    page.press("a")
    soon(lambda: len(circles(page)) == 1, "A")
    page.run("[...document.querySelectorAll('.q-btn-toggle button')].find(b => b.innerText === 'sets B').click()")
    page.point(0.7, 0.6, click=True)
    soon(lambda: len(circles(page)) == 14, "B and the way")
    ends = [(x / 1000, y / 1000) for x, y, radius in circles(page) if radius == 16]
    a, b = (plane.move(others, *end) for end in ends)
    strip = soon(lambda: page.image(".strip img"), "a strip")
    images = found.decode(found.between(a, b, 12), 0)
    rows = [torch.cat(list(images[start : start + 6]), 2) for start in (0, 6)]
    assert alike(strip, torch.cat(rows, 1), 2)
    assert ends[0] == pytest.approx((0.2, 0.3), abs=0.01) and ends[1] == pytest.approx((0.7, 0.6), abs=0.01)


def test_what_is_seen_is_saved(page, tmp_path):
    page.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path), "eventsEnabled": True}
    )
    page.point(0.4, 0.4)
    page.run("[...document.querySelectorAll('button')].find(b => b.innerText.includes('Save PNG')).click()")
    file = soon(lambda: next(iter(Path(tmp_path).glob("*.png")), None), "a file")
    assert file.name == "latent_space.png" and imageio.imread(file).shape[0] > 900


def test_the_page_asks_no_other_host(page, served):
    page.point(0.4, 0.4, click=True)
    soon(lambda: "Test image" in page.text(), "an image")
    asked = page.requests()
    assert len(asked) > 10 and any(address.startswith("ws") for address in asked)
    own = served.removeprefix("http")
    assert [a for a in asked if not a.startswith((f"http{own}", f"ws{own}", "data:", "blob:"))] == []


def test_text_of_others_stays_text(page):
    assert HOSTILE in page.text() and page.driver.title == "cvae explore"


LATENCY = """
const done = arguments[arguments.length - 1], times = [];
const plane = document.querySelector(".plane img"), decoded = document.querySelector(".decoded img");
const box = plane.getBoundingClientRect();
function step(i) {
  if (i === 60) return done(times.sort((a, b) => a - b));
  const before = decoded.src, start = performance.now();
  const seen = () => {
    if (decoded.src === before) return;
    decoded.removeEventListener("load", seen);
    requestAnimationFrame(() => { times.push(performance.now() - start); setTimeout(() => step(i + 1), 20); });
  };
  decoded.addEventListener("load", seen);
  const [clientX, clientY] = [box.left + box.width * (0.2 + 0.01 * i), box.top + box.height * (0.8 - 0.01 * i)];
  plane.dispatchEvent(new MouseEvent("mousemove", { clientX, clientY, bubbles: true }));
}
step(0);
"""


def test_decoding_is_immediate(browser, tmp_path):
    """The tutorial's model: from a move of the pointer to the image on the screen, in the browser's own time."""
    with serving(untrained(tmp_path / "run", "likelihood.soft=true")) as (address, _):
        browser.open(address, ".plane img[src^=data]")
        soon(lambda: browser.image(".decoded img") is not None, "a first image")
        times = browser.driver.execute_async_script(LATENCY)
    print(f"median {times[30]:.1f} ms, nine in ten below {times[54]:.1f} ms")
    assert times[5] < 50  # with nothing else to do, half of them are


def test_it_stops_cleanly_and_listens_here_alone(tmp_path):
    require_browser()
    with serving(untrained(tmp_path / "run", "model.latent_dim=1")) as (address, process):
        port = int(address.rstrip("/").rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError), socket.socket() as elsewhere:
            elsewhere.connect(("127.0.0.2", port))  # another address of this machine
        other = urllib.request.Request(address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(other)
        assert urllib.request.urlopen(address).status == 200
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and said.strip().endswith("Stopped.") and "Traceback" not in said
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]  # nothing is left beside it


SENT = """
const [address, done] = [arguments[0], arguments[arguments.length - 1]], found = {};
const told = (name, value) => { found[name] = value; if (Object.keys(found).length === 2) done(found); };
const socket = new WebSocket(address.replace("http", "ws") + "_nicegui_ws/socket.io/?EIO=4&transport=websocket");
socket.onopen = () => told("socket", "open");
socket.onerror = () => told("socket", "refused");
fetch(address, { mode: "no-cors" }).then(() => told("page", "asked"), () => told("page", "asked"));
"""


def test_a_page_of_another_site_makes_nothing_render(browser, tmp_path):
    """A real one, in the browser in which the explorer is open; and whatever loads pages without end."""
    (tmp_path / "other.html").write_text("<p id=other>")
    with serving(untrained(tmp_path / "run", "model.latent_dim=1")) as (address, _):
        browser.open(f"file://{tmp_path}/other.html", "#other")
        browser.requests()
        assert browser.driver.execute_async_script(SENT, address) == {"socket": "refused", "page": "asked"}
        assert browser.statuses(address) == [403]
        codes = [status_of(address) for _ in range(60)]
        assert codes == sorted(codes) and codes.count(200) in range(15, 21) and set(codes) == {200, 503}


def status_of(address):
    try:
        return urllib.request.urlopen(address).status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_page_without_a_server(browser, tmp_path):
    folder = tmp_path / "run"
    trained(
        folder, *QUIET, "data.num_classes=3", "conditional=true", "model.hidden=[32]", "data.source.train_size=300",
        "data.source.test_size=40", "trainer.max_epochs=10",
    )  # fmt: skip
    found = space(folder)
    plane = found.plane(0, 1)
    (tmp_path / "page.html").write_text(static_tables.page(found, HOSTILE), encoding="utf-8")
    browser.requests(), browser.complaints()
    browser.open(f"file://{tmp_path}/page.html", "#points[src^=data]")
    canvas = "return Array.from(document.querySelector('#decoded').getContext('2d').getImageData(0, 0, 8, 8).data)"
    seen = {}
    for label in (0, 2):
        browser.run("const c = document.querySelector('#label'); c.selectedIndex = arguments[0]; c.onchange()", label)
        for column, row in ((10, 20), (33, 7)):  # points of the table of 41 x 41
            browser.point(column / 40, row / 40, css="#plane")
            wanted = found.decode(plane.move(torch.zeros(2), column / 40, row / 40)[None], label)[0]
            soon(
                lambda w=wanted: alike(np.array(browser.run(canvas)).reshape(8, 8, 4)[..., :3], w, 8),
                f"class {label}, column {column}, row {row}",
            )
            z = plane.move(torch.zeros(2), column / 40, row / 40).tolist()
            shown = re.findall(r"= (-?[\d.]+)", browser.text("#where"))
            assert [float(part) for part in shown] == pytest.approx(z, abs=0.02)
            seen[label, column] = browser.run(canvas)
    assert len({tuple(pixels) for pixels in seen.values()}) == 4
    assert HOSTILE in browser.text() and browser.driver.title == "Latent space" and browser.complaints() == []
    assert [a for a in browser.requests() if not a.startswith((f"file://{tmp_path}/page.html", "data:"))] == []
