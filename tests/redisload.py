"""Clients that write to a Redis without a pause, all in one process of their own, and how long each answer took."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import redis.asyncio
import redis.exceptions

CLIENTS = 20
VALUE = "x" * 100
PATIENCE = 60.0


@dataclass
class Load:
    """`samples`: (when the answer came by CLOCK_MONOTONIC, seconds that it took); `errors`: answers that were none.
    Both are there once the clients have ended."""

    samples: Sequence[tuple[float, float]] = ()
    errors: Sequence[str] = ()

    def percentile(self, begin: float, end: float, share: float = 0.99) -> float:
        """Seconds within which that share of the answers in this time came."""
        took = sorted(seconds for at, seconds in self.samples if begin <= at - seconds and at <= end)
        assert took, "no client wrote meanwhile"
        return took[math.ceil(share * len(took)) - 1]


@contextmanager
def writing(socket: str, *, keys: int) -> Iterator[Load]:
    """Clients write to `keys` keys that exist and to new ones, until the block ends."""
    argv = [sys.executable, __file__, socket, str(keys)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    load = Load()
    try:
        assert process.stdout.readline() == "ready\n"
        yield load
        out, _ = process.communicate("\n", timeout=PATIENCE)
        found = json.loads(out)
        load.samples = [(at, seconds) for at, seconds in found["samples"]]
        load.errors = found["errors"]
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


async def _client(
    socket: str, number: int, keys: int, stop: asyncio.Event
) -> tuple[list[tuple[float, float]], list[str]]:
    samples, errors, turn = [], [], 0
    async with redis.asyncio.Redis(unix_socket_path=socket, socket_timeout=PATIENCE) as client:
        while not stop.is_set():
            turn += 1
            known = turn % 2 and keys
            key = f"key:{(turn * 7919 + number) % keys}" if known else f"new:{number}:{turn % 1000}"
            begun = time.monotonic()
            try:
                await client.set(key, VALUE)
            except redis.exceptions.RedisError as error:
                errors.append(f"{type(error).__name__}: {error}")
            now = time.monotonic()
            samples.append((round(now, 6), round(now - begun, 6)))
    return samples, errors


async def _main(socket: str, keys: int) -> None:
    stop = asyncio.Event()
    tasks = [asyncio.ensure_future(_client(socket, number, keys, stop)) for number in range(CLIENTS)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    stop.set()
    found = await asyncio.gather(*tasks)
    samples = [sample for some, _ in found for sample in some]
    errors = [error for _, some in found for error in some]
    print(json.dumps({"samples": samples, "errors": errors[:20]}))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
