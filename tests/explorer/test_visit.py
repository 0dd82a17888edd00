"""A visit that fails says so, at once: it neither waits for ever nor hides what happens in the background."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")
import visit
from nicegui import background_tasks, ui

from cvae.explorer import widgets
from cvae.explorer.widgets import Latest


def page():
    widgets.dress()
    return ui.label("before")


def visited(tmp_path, monkeypatch, act):
    return visit.visiting(page, tmp_path, monkeypatch, act)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_failure_right_after_an_update(steps, tmp_path, monkeypatch):
    """Within these steps of the loop NiceGUI takes the update up, and an error that leaves its simulation hangs."""

    async def act(label):
        await asyncio.sleep(0.2)  # until it waits for an update
        label.set_text("after")
        for _ in range(steps):
            await asyncio.sleep(0)
        assert label.text == "before", "another text"

    with pytest.raises(AssertionError, match="another text"):
        visited(tmp_path, monkeypatch, act)


def test_what_never_ends_says_where_it_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(visit, "LIMIT", 1)

    async def act(_):
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match=r"not within 1 s: .*visit\.py:\d+"):
        visited(tmp_path, monkeypatch, act)


def test_a_fault_in_the_background_fails_and_reaches_the_user(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(widgets, "complain", said.append)

    async def act(label):
        background_tasks.create(fault(), context=label)
        await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError):
        visited(tmp_path, monkeypatch, act)
    assert said == ["ZeroDivisionError: division by zero"]


async def fault():
    1 / 0  # noqa: B018


def test_a_page_that_cannot_be_built(tmp_path, monkeypatch):
    async def act(_):
        pass

    with pytest.raises(ZeroDivisionError):
        visit.visiting(lambda: 1 / 0, tmp_path, monkeypatch, act)


def test_the_last_call_is_done_also_after_a_fault(monkeypatch):
    """Whoever called last has gone: its work is not lost, and the fault of the one before is told."""
    done, told = [], []
    monkeypatch.setattr(widgets, "app", SimpleNamespace(handle_exception=lambda error: told.append(str(error))))

    async def work():
        done.append(len(done))
        await asyncio.sleep(0)
        if done[-1] != 1:
            raise ValueError(done[-1])

    async def calls():
        latest = Latest(work)
        await asyncio.gather(latest(), latest())
        assert done == [0, 1] and told == ["0"] and not latest.busy and not latest.outdated
        with pytest.raises(ValueError, match="^2$"):
            await latest()
        assert told == ["0"] and not latest.busy and not latest.outdated

    asyncio.run(calls())
