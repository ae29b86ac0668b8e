"""What agentd costs a Redis: its clients' latency while it gets dual persistence, and the time that takes, beside
the bare `CONFIG SET appendonly yes`; and what guarding it costs while nothing happens."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))

import redisload  # noqa: E402
from figures import Goal, Row, Section  # noqa: E402
from idle import SETTLE, read  # noqa: E402
from redisrig import Life, Rig  # noqa: E402
from redisserver import RedisServer  # noqa: E402
from rig import load_average, say  # noqa: E402

from agentd.core.schema import Settings  # noqa: E402
from agentd.core.schema_redis import RedisPolicy  # noqa: E402
from agentd.types import Change, ExitCode  # noqa: E402

CONF = "appendonly no\nsave 3600 1 300 100 60 10000"
LATENCY_GOAL, TIME_GOAL = 1.5, 1.3
CPU_GOAL, EVERY = 0.02, 30.0
"""What guarding may add: percent of a core; and seconds between two looks."""
APART = ("save", "copy")
"""Steps of the safety copy, which the bare way does not make."""
UNDISTURBED = 5.0
PATIENCE = 600.0


def measure(keys: int, rounds: int, idle_seconds: float) -> list[Section]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        say(f"  redis: a data set of {keys} keys")
        rdb = _data_set(Path(folder) / "seed", keys)
        sections = _load(Path(folder), rdb, keys, rounds)
        sections.append(_idle(Path(folder), idle_seconds))
    return sections


def _data_set(folder: Path, keys: int) -> Path:
    with _running(folder, None) as server:
        server.seed(keys, size=100)
        with server.client(socket_timeout=PATIENCE) as client:
            client.save()
        return Path(shutil.copy(server.data / "dump.rdb", folder.parent / "dump.rdb"))


@contextmanager
def _running(folder: Path, rdb: Path | None) -> Iterator[RedisServer]:
    """Its directory is gone afterwards."""
    server = RedisServer(folder, CONF)
    if rdb is not None:
        shutil.copy(rdb, server.data / "dump.rdb")
    try:
        server.start(wait=False)
        server.wait_ready(PATIENCE)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


# -- while clients write -----------------------------------------------------------------------------------------------
def _load(folder: Path, rdb: Path, keys: int, rounds: int) -> list[Section]:
    ways: Mapping[str, Callable[[RedisServer], float]] = {
        "nothing": _undisturbed,
        "bare CONFIG SET appendonly yes": _bare,
        "agentd": lambda server: asyncio.run(_enforced(server, folder / "agentd")),
    }
    latency: dict[str, list[float]] = {name: [] for name in ways}
    took: dict[str, list[float]] = {name: [] for name in ways}
    rate: list[float] = []
    for number in range(rounds):
        for name, work in ways.items():
            say(f"  redis: round {number + 1} of {rounds}, {name}")
            with _running(folder / "redis", rdb) as server, redisload.writing(str(server.socket), keys=keys) as load:
                time.sleep(1.0)  # The first answers open the connections.
                begin = time.monotonic()
                took[name].append(1000 * work(server))
                end = time.monotonic()
            if load.errors:
                raise SystemExit(f"bench: {name}: a write was refused: {load.errors[0]}")
            latency[name].append(1000 * load.percentile(begin, end))
            rate.append(len(load.samples) / (load.samples[-1][0] - load.samples[0][0] or 1.0))
    return [_latency(latency, rate), _time(took, keys)]


def _undisturbed(_: RedisServer) -> float:
    time.sleep(UNDISTURBED)
    return UNDISTURBED


def _bare(server: RedisServer) -> float:
    """Until the manifest is there: Redis writes it last."""
    begin = time.monotonic()
    server.set(appendonly="yes")
    while not (server.aof / "appendonly.aof.manifest").exists():
        if time.monotonic() - begin > PATIENCE:
            raise SystemExit("bench: the first rewrite did not end")
        time.sleep(0.01)
    return time.monotonic() - begin


async def _enforced(server: RedisServer, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    async with Rig(folder, server).running(mode="report") as life:
        await life.verified()
        change = await life.enforce()
        await asyncio.sleep(0.2)  # What the end of a change sets going comes to rest.
    if change.exit_code != ExitCode.OK:
        raise SystemExit(f"bench: not enforced: {change.message}")
    return _without_copy(change)


def _without_copy(change: Change) -> float:
    assert change.finished is not None
    apart = sum(phase.seconds or 0.0 for phase in change.phases if phase.phase in APART)
    return change.finished - change.phases[0].started - apart


def _latency(found: Mapping[str, list[float]], rate: list[float]) -> Section:
    rows = [Row(f"p99 of a SET, {name}", tuple(samples)) for name, samples in found.items()]
    nothing, bare, ours = (row.median for row in rows)
    goals = [
        Goal("p99 with agentd / with the bare first rewrite", ours / bare, LATENCY_GOAL, ""),
        Goal("p99 with agentd / undisturbed", ours / nothing, LATENCY_GOAL, ""),
    ]
    notes = [f"{redisload.CLIENTS} clients in one process, {median(rate):.0f} writes a second, {os.cpu_count()} cores"]
    return Section("Redis: clients while it is brought to dual persistence", rows, goals, notes, load_average())


def _time(found: Mapping[str, list[float]], keys: int) -> Section:
    bare = Row("bare: until the manifest is there", tuple(found["bare CONFIG SET appendonly yes"]))
    ours = Row("agentd: until it is proven and in the file, without the safety copy", tuple(found["agentd"]))
    goal = Goal("time with agentd / bare", ours.median / bare.median, TIME_GOAL, "")
    return Section(f"Redis: time to dual persistence, {keys} keys", [bare, ours], [goal], (), load_average())


# -- while nothing happens ---------------------------------------------------------------------------------------------
def _idle(folder: Path, seconds: float) -> Section:
    with _running(folder / "redis", None) as server:
        server.seed(1000)
        asyncio.run(_enforced(server, folder / "agentd"))
        argv = [sys.executable, __file__, str(folder)]
        both = {name: _begun([*argv, name, url]) for name, url in (("none", ""), ("one", server.url))}
        try:
            time.sleep(SETTLE)
            say(f"  redis: watching an idle guard for {seconds:g} s")
            before, asked = {name: read(process.pid) for name, process in both.items()}, _looks(server)
            time.sleep(seconds)
            looks = _looks(server) - asked - 1  # The count before was one, too.
            after = {name: read(process.pid) for name, process in both.items()}
        finally:
            for process in both.values():
                process.communicate("\n", timeout=30)
    cpu = {n: 100 * (after[n].cpu - before[n].cpu) / seconds for n in both}
    wakeups = {n: (after[n].wakeups - before[n].wakeups) / seconds for n in both}
    rows = [
        *(Row(f"CPU, {n} store", (value,), "%", compare=False) for n, value in cpu.items()),
        *(Row(f"wakeups, {n} store", (value,), "/s", compare=False) for n, value in wakeups.items()),
    ]
    goals = [
        Goal("CPU that guarding adds", cpu["one"] - cpu["none"], CPU_GOAL, "% of a core"),
        Goal("looks at the store", looks, seconds // EVERY + 1, f"in {seconds:g} s"),
    ]
    notes = [f"over {seconds:g} s; a process with the parts of agentd that are about stores, and no others"]
    return Section("Redis: an idle guard", rows, goals, notes, load_average())


def _looks(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"])


def _begun(argv: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit("bench: the guard did not start")
    return process


async def _guard(folder: Path, name: str, url: str) -> None:
    """agentd's part for stores, until somebody says a line."""
    server = RedisServer(folder / "redis", config_file=False)
    server._with_file = True  # It is there, and in use.
    life = Life(Rig(folder / name, server), Settings(redis=RedisPolicy(url=url)))
    await life.start()
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    if url:
        await life.durable()
    print("ready", flush=True)
    await over.wait()
    await life.stop()


if __name__ == "__main__":
    asyncio.run(_guard(Path(sys.argv[1]), *sys.argv[2:]))
