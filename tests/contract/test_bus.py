"""The bus client against a real dbus-daemon, with each library that can carry it."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from privatebus import LIBRARIES, LagMeter, PrivateBus

from agentd.adapters.bus import Bus, Signal
from agentd.errors import BusError

DBUS = "org.freedesktop.DBus"
DBUS_PATH = "/org/freedesktop/DBus"


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[PrivateBus]:
    bus = PrivateBus(tmp_path)
    bus.start()
    yield bus
    bus.kill()


async def names(bus: Bus) -> list[str]:
    (found,) = await bus.call(DBUS, DBUS_PATH, DBUS, "ListNames")
    return list(found)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_call_returns_plain_values(daemon: PrivateBus, library: str) -> None:
    bus = await Bus.connect(daemon.address, library=library)
    assert bus.library == library
    assert bus.unique_name in await names(bus)
    found = await bus.properties(DBUS, DBUS_PATH, DBUS, ["Features", "Nothing"])
    assert "Nothing" not in found
    assert all(isinstance(feature, str) for feature in found["Features"])
    await bus.close()


@pytest.mark.allows_blocking  # making 3000 tasks takes a while in debug mode
async def test_3000_calls_at_once(daemon: PrivateBus, library: str) -> None:
    """More than the socket's buffer takes: nothing may be lost, and the connection must survive."""
    bus = await Bus.connect(daemon.address, library=library)
    answers = await asyncio.gather(*(names(bus) for _ in range(3000)))
    assert len(answers) == 3000
    assert all(bus.unique_name in answer for answer in answers)
    assert bus.connected
    await bus.close()


async def test_one_large_message_each_way(daemon: PrivateBus, library: str) -> None:
    """Bigger than any socket buffer, so it is written and read in many pieces."""
    bus = await Bus.connect(daemon.address, library=library)
    with pytest.raises(BusError) as caught:
        await bus.call(DBUS, DBUS_PATH, DBUS, "GetNameOwner", "s", ["x" * 3_000_000])
    assert caught.value.name == "org.freedesktop.DBus.Error.NameHasNoOwner"
    assert len(caught.value.message) > 3_000_000
    await bus.close()


@pytest.mark.parametrize(
    ("target", "kind", "name"),
    [
        ((DBUS, DBUS_PATH, DBUS, "NoSuchMethod"), "bus-unknown", "org.freedesktop.DBus.Error.UnknownMethod"),
        (("no.such.Name", "/x", "x.y", "Z"), "manager-gone", "org.freedesktop.DBus.Error.NameHasNoOwner"),
        ((DBUS, "/x", "test.Forbidden", "Z"), "access-denied", "org.freedesktop.DBus.Error.AccessDenied"),
        ((DBUS, DBUS_PATH, DBUS, "GetNameOwner"), "bus-invalid", "org.freedesktop.DBus.Error.InvalidArgs"),
    ],
)
async def test_error_replies_keep_kind_name_and_text(
    daemon: PrivateBus, library: str, target: tuple[str, str, str, str], kind: str, name: str
) -> None:
    bus = await Bus.connect(daemon.address, library=library)
    with pytest.raises(BusError) as caught:
        await bus.call(*target, doing="try it")
    assert (caught.value.kind, caught.value.name) == (kind, name)
    assert caught.value.message.startswith("cannot try it: ")
    assert not caught.value.message.endswith(".")
    assert bus.connected
    await bus.close()


async def test_call_times_out_and_a_late_reply_is_dropped(daemon: PrivateBus, library: str) -> None:
    bus = await Bus.connect(daemon.address, library=library)
    daemon.signal(signal.SIGSTOP)
    async with LagMeter() as lag:
        with pytest.raises(BusError) as caught:
            await bus.call(DBUS, DBUS_PATH, DBUS, "ListNames", timeout=0.2, doing="look")
    assert caught.value.kind == "bus-timeout"
    assert "within 0.2 s" in caught.value.message
    assert lag.worst < 0.15
    daemon.signal(signal.SIGCONT)
    assert bus.unique_name in await names(bus)
    await bus.close()


async def test_cancelled_call_leaves_nothing_behind(daemon: PrivateBus, library: str) -> None:
    bus = await Bus.connect(daemon.address, library=library)
    daemon.signal(signal.SIGSTOP)
    task = asyncio.create_task(names(bus))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    daemon.signal(signal.SIGCONT)
    assert bus.unique_name in await names(bus)
    assert not bus._pending
    await bus.close()


async def test_killed_daemon_fails_calls_at_once(daemon: PrivateBus, library: str) -> None:
    bus = await Bus.connect(daemon.address, library=library)
    daemon.signal(signal.SIGSTOP)
    running = [asyncio.create_task(names(bus)) for _ in range(10)]
    await asyncio.sleep(0)
    daemon.kill()
    before = time.perf_counter()
    answers = await asyncio.gather(*running, return_exceptions=True)
    await bus.wait_closed()
    assert time.perf_counter() - before < 0.5
    assert {answer.kind for answer in answers if isinstance(answer, BusError)} == {"bus-down"}
    assert len(answers) == 10
    with pytest.raises(BusError, match="the bus is gone") as caught:
        await asyncio.wait_for(names(bus), 0.5)
    assert caught.value.kind == "bus-down"
    assert not bus.connected
    await bus.close()


async def test_connect_to_nothing(tmp_path: Path, library: str) -> None:
    with pytest.raises(BusError, match="no such file or directory") as caught:
        await Bus.connect(f"unix:path={tmp_path}/none", library=library)
    assert caught.value.kind == "bus-down"
    with pytest.raises(BusError, match="names no unix socket"):
        await Bus.connect("tcp:host=127.0.0.1,port=1", library=library)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection"),
        (b"REJECTED EXTERNAL\r\n", "authentication failed: REJECTED EXTERNAL"),
        (b"OK 0123456789abcdef0123456789abcdef\r\n", "the bus is gone"),
        (b"OK 0123456789abcdef0123456789abcdef\r\n" + b"\x00" * 64, "not a D-Bus message: byte order mark 0x00"),
        (b"x" * 20000, "endless answer"),
        (None, "no answer within 0.3 s"),
    ],
    ids=["eof", "rejected", "eof-after-ok", "garbage-after-ok", "endless", "silent"],
)
async def test_broken_servers(tmp_path: Path, library: str, answer: bytes | None, reason: str) -> None:
    """Whatever the other side does, connecting ends with a reason, and the loop keeps running."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"BEGIN\r\n")
        if answer is None:
            await done.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "s")
    async with server, LagMeter() as lag:
        with pytest.raises(BusError, match=reason) as caught:
            await Bus.connect(f"unix:path={tmp_path}/s", library=library, timeout=0.3)
        await asyncio.sleep(0.02)
        # Inside: from Python 3.12 on, leaving waits for the server's connections.
        done.set()
    assert caught.value.kind == "bus-down"
    assert lag.worst < 0.15


async def test_100_connections_leak_no_descriptor(daemon: PrivateBus, library: str) -> None:
    """Without the garbage collector's help."""
    await (await Bus.connect(daemon.address, library=library)).close()
    before = open_fds()
    gc.disable()
    try:
        for _ in range(100):
            bus = await Bus.connect(daemon.address, library=library)
            await bus.close()
    finally:
        gc.enable()
    assert open_fds() == before


async def test_signals_by_match_rule(daemon: PrivateBus, library: str) -> None:
    heard: asyncio.Queue[list[str]] = asyncio.Queue()
    bus = await Bus.connect(daemon.address, library=library, on_signal=lambda s: heard.put_nowait(s.body()))
    rule = f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg0='test.Wanted'"
    await bus.add_match(rule)
    other = await Bus.connect(daemon.address, library=library)
    for name in ("test.Unwanted", "test.Wanted"):
        await other.call(DBUS, DBUS_PATH, DBUS, "RequestName", "su", [name, 0])
    while (body := await asyncio.wait_for(heard.get(), 5))[0] != "test.Wanted":
        assert body[0].startswith(":") or body[0] == bus.unique_name
    assert body == ["test.Wanted", "", other.unique_name]
    await bus.remove_match(rule)
    await other.call(DBUS, DBUS_PATH, DBUS, "ReleaseName", "s", ["test.Wanted"])
    assert bus.unique_name in await names(bus)
    assert heard.empty()
    await other.close()
    await bus.close()


async def test_failing_signal_handler_does_not_harm_the_connection(
    daemon: PrivateBus, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Signal) -> None:
        raise RuntimeError("a bug")

    bus = await Bus.connect(daemon.address, library=library, on_signal=fail)
    await bus.add_match("type='signal',member='NameOwnerChanged'")
    await bus.call(DBUS, DBUS_PATH, DBUS, "RequestName", "su", ["test.Name", 0])
    assert "test.Name" in await names(bus)
    assert "a signal handler failed" in caplog.text
    await bus.close()


SENDER = """
import asyncio, sys
from agentd.adapters.bus import Bus
from dbus_next import Message, Variant

async def main(address, count):
    bus = await Bus.connect(address)
    changed = {"ActiveState": Variant("s", "active"), "Pad": Variant("as", ["x"] * 20)}
    for number in range(int(count)):
        body = ["some.Interface", changed | {"N": Variant("u", number)}, []]
        message = Message.new_signal("/unit/x", "test.Flood", "Changed", "sa{sv}as", body)
        message.serial = number + 1000
        bus._stream.send(bytes(message._marshall(False)))
        if number % 200 == 0:
            await bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId")
    await bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId")
    await bus.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_flood_of_signals_does_not_starve_the_loop(daemon: PrivateBus, library: str) -> None:
    """Every body is decoded here, on purpose: the budget must hold even then."""
    count, numbers, complete = 10_000, [], asyncio.Event()

    def receive(signal: Signal) -> None:
        if signal.header.member == "Changed":
            numbers.append(signal.body()[1]["N"])
            if len(numbers) == count:
                complete.set()

    bus = await Bus.connect(daemon.address, library=library, on_signal=receive)
    await bus.add_match("type='signal',interface='test.Flood'")
    sender = await asyncio.create_subprocess_exec(sys.executable, "-c", SENDER, daemon.address, str(count))
    async with LagMeter() as lag:
        await asyncio.wait_for(complete.wait(), 40)
        asked = time.perf_counter()
        await names(bus)
        answered = time.perf_counter() - asked
    assert await sender.wait() == 0
    assert numbers == list(range(count)), "lost or out of order"
    assert lag.p99 < 0.1
    assert answered < 1
    await bus.close()
