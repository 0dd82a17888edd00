"""Where the processes of a run find each other: several of them in this one, with a store of torch's."""

import os
import socket
import struct
import sys
import threading
import time
from contextlib import closing
from datetime import timedelta
from types import SimpleNamespace

import pytest

from cvae.errors import UserError
from cvae.training import meeting
from cvae.training.meeting import Lifeline, Meeting, interface_to, loopback_interface, require_addresses


def free_port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def place(monkeypatch):
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(meeting, "LOOK", 0.01)
    monkeypatch.setattr(meeting, "BEAT", 0.02)
    return SimpleNamespace(main_address="127.0.0.1", main_port=free_port())


def answers(address, port):
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("nodes", "everywhere"), [(1, False), (2, True)])
def test_the_store_of_one_machine_listens_to_that_machine_alone(place, nodes, everywhere):
    """127.0.0.2 leads to this machine as any other of its addresses does: who listens at all of them is found there."""
    place.main_address = "127.0.0.1" if nodes > 1 else "not.asked.for"
    first = Meeting(place, 0, 2, nodes)
    assert answers("127.0.0.1", place.main_port) and answers("127.0.0.2", place.main_port) is everywhere
    second = Meeting(place, 1, 2, nodes)
    second.store.set("key", "value")
    assert first.store.get("key") == b"value" and second.place == f"127.0.0.1:{place.main_port}"


def test_gloo_is_told_of_the_interface_of_loopback(monkeypatch):
    assert loopback_interface() in [name for _, name in socket.if_nameindex()]
    for names, found in (["eth0", "lo"], "lo"), (["en0", "lo0"], "lo0"), (["eth0"], None):
        monkeypatch.setattr(socket, "if_nameindex", lambda names=names: list(enumerate(names, 1)))
        assert loopback_interface() == found


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_gloo_is_told_of_the_interface_that_leads_to_the_first_machine():
    assert interface_to("127.0.0.1") == interface_to("127.0.0.2") == "lo"
    assert interface_to("no.such.host.invalid") is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_of_several_interfaces_the_one_with_the_address(monkeypatch):
    """Linux is asked for the address (SIOCGIFADDR) of each; one may have none."""
    addresses = {"eth0": "10.0.0.1", "eth1": "127.0.0.1", "eth2": "10.0.0.2"}

    def asked(_, request, name):
        if (name := name.rstrip(b"\0").decode()) not in addresses:
            raise OSError(99, "Cannot assign requested address")
        assert request == 0x8915
        return struct.pack("16sHH4s", name.encode(), socket.AF_INET, 0, socket.inet_aton(addresses[name])).ljust(256)

    monkeypatch.setattr("fcntl.ioctl", asked)
    monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(["none", *addresses], 1)))
    assert interface_to("127.0.0.1") == "eth1"
    del addresses["eth1"]
    assert interface_to("127.0.0.1") is None


def test_the_first_asks_itself_and_the_others_its_address(place):
    """By its own name it may reach another address than they do."""
    place.main_address = "127.0.0.2"
    met = [Meeting(place, rank, 2, 2) for rank in (0, 1)]
    assert [each.store.underlying_store.host for each in met] == ["127.0.0.1", "127.0.0.2"]
    assert {each.place for each in met} == {f"127.0.0.2:{place.main_port}"}
    assert met[1].store.underlying_store.timeout == timedelta(minutes=30)
    assert Lifeline(met[1], range(2)).store.underlying_store.timeout == timedelta(seconds=30)


def test_who_comes_before_the_first_tries_again(place, monkeypatch):
    connect, refused, met = socket.create_connection, threading.Event(), []

    def tried(*given, **more):
        try:
            return connect(*given, **more)
        except OSError:
            refused.set()
            raise

    monkeypatch.setattr(socket, "create_connection", tried)
    second = threading.Thread(target=lambda: met.append(Meeting(place, 1, 2, 1)), daemon=True)
    second.start()
    assert refused.wait(100)
    first = Meeting(place, 0, 2, 1)
    second.join(100)
    met[0].store.set("key", "value")
    assert first.store.get("key") == b"value"


def test_the_next_run_may_have_the_port_of_one_that_has_just_ended(place):
    """Whose others have not left yet."""
    first, second = (Meeting(place, rank, 2, 1) for rank in (0, 1))
    second.store.set("key", "")
    del first
    assert not Meeting(place, 0, 2, 1).store.check(["key"])


def test_a_port_in_use_is_a_line(place):
    with closing(socket.create_server(("127.0.0.1", place.main_port))):
        with pytest.raises(UserError, match=f"^MASTER_PORT={place.main_port}: .* in use. Set another one"):
            Meeting(place, 0, 2, 1)


@pytest.mark.parametrize(("address", "why"), [("127.0.0.1", "Connection refused"), ("no.such.host.invalid", "")])
def test_an_address_that_cannot_be_reached_is_named(place, monkeypatch, address, why):
    monkeypatch.setattr(meeting, "MINUTE", 0.1)
    place.main_address = address
    said = f"^process 3 could not reach the first one at {address}:{place.main_port} .*{why}"
    with pytest.raises(UserError, match=said):
        Meeting(place, 3, 4, 2)


def test_who_does_not_come_is_named(place):
    first = Meeting(place, 0, 4, 2)
    Meeting(place, 2, 4, 2).store.set("here/2", "")
    looks = []
    said = f"^of 4 processes .* 1 and 3 did not come to 127.0.0.1:{place.main_port} in 0"
    with pytest.raises(UserError, match=said):
        first.all_come("here", range(4), lambda: looks.append(0), 0.4)
    assert len(looks) > 1
    first.all_come("here", (0, 2), pytest.fail)

    def look():
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        first.all_come("there", (0, 2), look)


def test_torchruns_store_is_used_anew_after_each_of_its_restarts(place, monkeypatch):
    place.main_address = "127.0.0.2"
    keeper = Meeting(place, 0, 1, 2)  # in place of torchrun
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    first = Meeting(place, 0, 1, 1)
    assert first.server is None and first.place == f"127.0.0.2:{place.main_port}"
    first.store.set("key", "")
    assert keeper.store.check(["key"])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not Meeting(place, 0, 1, 1).store.check(["key"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"MASTER_PORT": None, "NODE_RANK": None}, "^trainer.num_nodes=2: NODE_RANK, MASTER_PORT must be set"),
        ({"MASTER_ADDR": ""}, "^trainer.num_nodes=2: MASTER_ADDR must be set"),
        ({"NODE_RANK": "2"}, "^NODE_RANK=2: must be the number of this machine, 0 to 1$"),
        ({"NODE_RANK": "-1"}, "^NODE_RANK=-1: "),
        ({"MASTER_PORT": "port"}, "^MASTER_PORT=port: must be a number from 1 to 65535$"),
        ({"MASTER_PORT": "65536"}, "^MASTER_PORT=65536: "),
        ({"MASTER_PORT": "0"}, "^MASTER_PORT=0: "),
    ],
)
def test_each_machine_has_to_be_told_where_the_first_is(monkeypatch, changed, said):
    monkeypatch.setattr(os, "environ", os.environ | {"NODE_RANK": "1", "MASTER_ADDR": "there", "MASTER_PORT": "5"})
    require_addresses(2)
    for fine in ({"NODE_RANK": "0"}, {"MASTER_PORT": "65535"}, {"MASTER_PORT": "1"}):
        monkeypatch.setattr(os, "environ", os.environ | fine)
        require_addresses(2)
    for name, value in changed.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    with pytest.raises(UserError, match=said):
        require_addresses(2)


def lifelines(place, count=3):
    met = [Meeting(place, rank, count, 2) for rank in range(count)]
    return met, [Lifeline(each, range(count)) for each in met]


def until(what, seconds=100):
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_an_end_that_is_that_of_all_is_heard_by_all(place):
    _, (first, second, third) = lifelines(place)
    second.end()  # as it should
    time.sleep(0.2)
    assert not first.lost(after_error=True) and not third.lost(after_error=True)
    third.end("process 2 (the first is 0): too large")
    assert until(first.lost) == "process 2 (the first is 0): too large"
    first.end("process 0 (the first is 0): connection closed")  # a consequence
    assert first.store.get("lost") == b"process 2 (the first is 0): too large"


def test_the_reason_of_an_end_may_have_bytes_of_a_name_that_is_no_text(place):
    _, (first, second) = lifelines(place, 2)
    second.end("process 1 (the first is 0): ValueError: caf\udce9")
    assert until(first.lost) == "process 1 (the first is 0): ValueError: caf\\udce9"


def test_who_has_ended_as_it_should_is_missed_by_nobody(place, monkeypatch):
    _, (first, second, third) = lifelines(place)
    assert [sorted(each.heard) for each in (first, second, third)] == [[1, 2], [0], [0]]
    assert first.thread.daemon  # it holds up no process that ends in another way
    second.end()
    assert until(lambda: sorted(first.heard) == [2])
    first.end()
    assert until(lambda: not third.heard)
    monkeypatch.setattr(meeting, "SHORT", 0)
    assert third.lost(after_error=True) == ""


def test_silence_is_an_end_too(place, monkeypatch):
    """Of a process that was killed, or a machine that was switched off. After an error it is believed sooner."""
    monkeypatch.setattr(meeting, "SHORT", 2)  # a hundred signs of life
    _, (first, second, third) = lifelines(place)
    third._look = lambda: None
    said = "process 2 (the first is 0) gives no sign of life, so the run ends"
    assert until(lambda: first.lost(after_error=True)) == said
    assert not first.lost() and not second.lost(after_error=True)
    monkeypatch.setattr(meeting, "SILENT", 2.2)
    assert until(first.lost) == said and not second.lost()
    first._look = lambda: None
    assert until(second.lost) == said.replace("2", "0")


def test_silence_is_believed_sooner_where_any_process_had_an_error(place, monkeypatch):
    """Also one that gives no signs of life itself: the first ones may wait for it, and see no error of their own."""
    monkeypatch.setattr(meeting, "SHORT", 2)  # a hundred signs of life
    _, (first, second, third) = lifelines(place)
    third._look = lambda: None
    time.sleep(1)
    assert not first.lost()
    another = Meeting(place, 3, 4, 2)
    another.store.set("error", "")
    assert until(first.lost) == "process 2 (the first is 0) gives no sign of life, so the run ends"
    assert not second.lost()


def test_the_end_of_the_first_is_heard(place):
    met, lines = lifelines(place, 2)
    lines[0].over.set(), lines[0].thread.join()
    del met, lines[0]
    said = f"the first process, at 127.0.0.1:{place.main_port}, cannot be reached any more, so the run ends"
    assert until(lines[0].lost) == said
    lines[0].end("anything")  # nobody is there to be told


def test_an_end_does_not_wait_for_a_store_that_never_answers(place, monkeypatch):
    """Where the network is cut, a question to the store is neither answered nor refused."""
    monkeypatch.setattr(meeting, "SHORT", 0.2)
    _, (_first, second) = lifelines(place, 2)
    cut, asked = threading.Event(), threading.Event()

    def unanswered(keys):
        asked.set()
        cut.wait(100)
        return False

    told = {}
    second.store = SimpleNamespace(set=told.__setitem__, check=unanswered)
    assert asked.wait(100)
    began = time.monotonic()
    second.end("process 1 (the first is 0): connection closed")
    assert time.monotonic() - began < 50 and second.thread.is_alive()
    second.end()  # once more, when the process leaves: what is to be told stays
    cut.set()
    second.thread.join(100)
    assert told["ended/1"] == "" and told["lost"] == "process 1 (the first is 0): connection closed"
