"""Places where agentd and its Redis are killed: a server with saved keys and a writer, lives of agentd as processes,
and what must be true afterwards."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import redisworker
from redis.backoff import NoBackoff
from redis.retry import Retry
from redisdata import DATABASES, fill, snapshot
from redisserver import RedisServer
from redisworker import DATABASE, clean_moment, manifest

KEYS = 200
CONF = "appendonly no\nsave 3600 1\nrdb-key-save-delay {delay}\nenable-debug-command yes"
DELAY = 400
"""Microseconds for each key: a save lasts long enough to be asked about twice."""
HANDS = 4
EARLIER = 1_700_000_000


class Hand:
    """Starts lives of agentd, one after the other."""

    def __init__(self) -> None:
        words = [sys.executable, "-B", str(Path(redisworker.__file__))]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, case: Place, **order: Any) -> None:
        assert self.process.stdin is not None
        server = case.server
        words: dict[str, Any] = {"folder": str(case.folder / "agentd"), "socket": str(server.socket)}
        words |= {"argv": server.argv, "server": server.pid, "conf": str(server.config_file), "data": str(server.data)}
        self.process.stdin.write(json.dumps({**words, **order}) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The child ends by itself in time."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the helper program has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def durable(self) -> dict[str, Any]:
        """The life has brought the store there, and has ended in peace."""
        found, ended = self.hear(), self.hear()
        if "durable" not in found:
            raise AssertionError(found.get("failed", found))
        assert ended == {"ended": 0}
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class Writer(threading.Thread):
    """Key after key, and when each was acknowledged, until it is stopped or the server is gone."""

    def __init__(self, server: RedisServer, prefix: str, pause: float = 0.002) -> None:
        super().__init__(name=f"writer-{prefix}")
        self.client = server.client(db=DATABASE, retry=Retry(NoBackoff(), 0))
        self.prefix, self.pause = prefix, pause
        self.acknowledged: list[tuple[str, float]] = []
        self.refused = ""
        self._end = threading.Event()
        self.start()

    def run(self) -> None:
        with self.client as client:
            while not self._end.wait(self.pause):
                name = f"{self.prefix}:{len(self.acknowledged)}"
                try:
                    client.set(name, name)
                except redis.exceptions.ConnectionError:
                    return
                except redis.exceptions.RedisError as error:
                    self.refused = str(error)
                    return
                self.acknowledged.append((name, time.monotonic()))

    def stop(self) -> None:
        self._end.set()
        self.join(20)
        assert not self.refused, f"a write was refused: {self.refused}"

    def before(self, moment: float) -> dict[str, str]:
        return {name: name for name, at in list(self.acknowledged) if at < moment}


@dataclass(frozen=True, slots=True)
class Seeded:
    """Keys that were acknowledged and saved before anything began."""

    rdb: Path
    snapshot: tuple[str, dict[int, int], str]

    @classmethod
    def make(cls, folder: Path, seed: int) -> Seeded:
        server = RedisServer(folder, CONF.format(delay=0))
        server.start()
        try:
            with server.client(decode_responses=False) as client:
                fill(client, KEYS, seed)
                client.save()
                return cls(server.data / "dump.rdb", snapshot(client))
        finally:
            server.kill()


class Place:
    """One server with its agentd, cut off once."""

    def __init__(self, folder: Path, seeded: Seeded, delay: int = DELAY) -> None:
        self.folder, self.seeded = folder, seeded
        self.server = RedisServer(folder / "redis", CONF.format(delay=delay))
        os.utime(self.server.config_file, (EARLIER, EARLIER))  # A start knows its time to a hundredth of a second.
        shutil.copy(seeded.rdb, self.server.data / "dump.rdb")
        self.server.start()

    def close(self) -> None:
        self.server.kill()

    def missing(self, wanted: dict[str, str], server: RedisServer | None = None) -> list[str]:
        with (server or self.server).client(db=DATABASE) as client:
            found = client.mget(list(wanted)) if wanted else []
        return [name for (name, value), there in zip(wanted.items(), found, strict=True) if there != value]

    def values(self, wanted: dict[str, str], server: RedisServer | None = None) -> None:
        """They are all there."""
        lost = self.missing(wanted, server)
        assert not lost, f"{len(lost)} of {len(wanted)} acknowledged keys are lost: {lost[:3]} ... {lost[-1]}"

    def seeds(self, server: RedisServer | None = None) -> None:
        with (server or self.server).client() as client:
            found = client.info("keyspace")
        there = {n: found.get(f"db{n}", {"keys": 0})["keys"] for n in DATABASES}
        assert there == self.seeded.snapshot[1], "of the saved keys"

    def died(self) -> bool:
        """By kill -9, by whomever. Whether it has left a whole append-only file."""
        assert self.server.process is not None
        assert self.server.process.wait(20) == -signal.SIGKILL
        self.server.kill()
        return manifest(self.server.data).exists()

    def restart(self) -> bool:
        """Whether it has read an append-only file: agentd, where it lives on, may have put that into the file while the
        server was away."""
        said = self.server.log.stat().st_size
        self.server.start()
        self.seeds()
        return "DB loaded from append only file" in self.server.log.read_text()[said:]

    def proves_durable(self, writers: Iterable[Writer], others: dict[str, str]) -> None:
        """What has become durable survives one more kill -9, with all that was written up to it."""
        with self.server.client() as client:
            moment = clean_moment(client)
        self.server.kill()
        self.server.start()
        self.seeds()
        self.values({name: name for writer in writers for name in writer.before(moment)} | others)
        assert self.server.get("appendonly") == "yes"
        with self.server.client(db=DATABASE) as client:
            client.flushdb()
        with self.server.client(decode_responses=False) as client:
            assert snapshot(client) == self.seeded.snapshot

    def evidence(self, wanted: dict[str, str], told: Sequence[str]) -> None:
        """The append-only file that the restarted server did not read is kept, is told, and is whole."""
        copies = sorted((self.folder / "agentd/state/redis/redis").glob("aof-*"))
        assert copies, "no copy was made"
        for copy in copies:
            assert any(str(copy) in message for message in told), f"{copy} is not told: {told}"
            self._loads(copy, wanted)

    def _loads(self, copy: Path, wanted: dict[str, str]) -> None:
        other = RedisServer(self.folder / copy.name[-10:], "appendonly yes")
        shutil.copytree(copy / "appendonlydir", other.aof)
        try:
            other.start()
            self.seeds(other)
            self.values(wanted, other)
        finally:
            other.kill()


Job = Callable[[Place, Hand], Any]


class Crew:
    """Runs jobs in some places at a time; what one finds wrong does not end the others."""

    def __init__(self, folder: Path, seeded: Seeded, delay: int = DELAY) -> None:
        self.folder, self.seeded, self.delay = folder, seeded, delay
        self.hands: queue.Queue[Hand] = queue.Queue()
        for _ in range(HANDS):
            self.hands.put(Hand())

    def close(self) -> None:
        while not self.hands.empty():
            self.hands.get().close()

    def all(self, jobs: dict[str, Job]) -> dict[str, Any]:
        with ThreadPoolExecutor(HANDS) as pool:
            running = {name: pool.submit(self._one, name, job) for name, job in jobs.items()}
        wrong = {name: str(error) for name, future in running.items() if (error := future.exception()) is not None}
        assert not wrong, f"{len(wrong)} of {len(jobs)}:\n" + "\n".join(f"{name}: {why}" for name, why in wrong.items())
        return {name: future.result() for name, future in running.items()}

    def _one(self, name: str, job: Job) -> Any:
        hand = self.hands.get()
        folder = self.folder / f"{abs(hash(name)):x}"  # A socket's path must be short.
        place = Place(folder, self.seeded, self.delay)
        try:
            result = job(place, hand)
            hand_back = hand
        except BaseException:
            hand.process.kill()
            hand.close()
            hand_back = Hand()
            raise
        finally:
            place.close()
            self.hands.put(hand_back)
        shutil.rmtree(folder)
        return result
