"""Data of every type for a real Redis, the same for one seed, and a value by which two data sets are compared."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

DATABASES = (0, 1, 3, 15)
BATCH = 5000
HOUR = 3_600_000
"""Milliseconds."""
Pipe = Any
"""redis-py's pipeline, whose commands are typed as if they answered at once."""


def fill(client: Any, count: int, seed: int) -> None:
    """`count` more keys in four databases: all types, empty and big values, odd names, every fourth with a time to live
    of an hour and more, to the millisecond. The names of two seeds are never the same."""
    rng = random.Random(seed)
    for index, database in enumerate(DATABASES):
        share = count // len(DATABASES) + (index < count % len(DATABASES))
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("SELECT", database)
        for number in range(share):
            _key(pipe, rng, f"{seed}:{database}:{number}{_odd(rng)}", number)
            if number % BATCH == BATCH - 1:
                pipe.execute()
                pipe.execute_command("SELECT", database)
        pipe.execute_command("SELECT", 0)
        pipe.execute()


def snapshot(client: Any) -> tuple[str, dict[int, int], str]:
    """(DEBUG DIGEST, keys by database, digest of every key's PEXPIRETIME). Wants enable-debug-command, and a client
    that does not decode."""
    digest = client.execute_command("DEBUG", "DIGEST").decode()
    keys, times = {}, hashlib.sha256()
    for database in DATABASES:
        names = sorted(_in(client, database, [("KEYS", "*")])[0])
        keys[database] = len(names)
        for start in range(0, len(names), BATCH):
            part = names[start : start + BATCH]
            for name, at in zip(part, _in(client, database, [("PEXPIRETIME", name) for name in part]), strict=True):
                times.update(b"%d:%s=%d;" % (database, name, at))
    return digest, keys, times.hexdigest()


def _in(client: Any, database: int, commands: list[tuple[str | bytes, ...]]) -> list[Any]:
    pipe = client.pipeline(transaction=False)
    pipe.execute_command("SELECT", database)
    for command in commands:
        pipe.execute_command(*command)
    pipe.execute_command("SELECT", 0)
    return list(pipe.execute()[1:-1])


def _odd(rng: random.Random) -> str:
    return rng.choice(("", "", "", "", " with a blank", "\nline", "\tä€", '"quotes\\', ":" * 200))


def _key(pipe: Pipe, rng: random.Random, name: str, number: int) -> None:
    KINDS[number % len(KINDS)](pipe, rng, name)
    if number % 4 == 3:
        pipe.pexpire(name, HOUR + rng.randrange(1000 * HOUR))


def _text(rng: random.Random) -> str:
    return rng.choice(("", "1", "-17", "3.5", "\0\r\n\0", "ü" * 20, f"{rng.random()}" * rng.randrange(1, 9)))


def _string(pipe: Pipe, rng: random.Random, name: str) -> None:
    pipe.set(name, _text(rng))


def _big(pipe: Pipe, rng: random.Random, name: str) -> None:
    """Some that are compressed, some that cannot be."""
    pipe.set(name, rng.randbytes(rng.randrange(2000)) if rng.random() < 0.95 else b"x" * 100_000)


def _list(pipe: Pipe, rng: random.Random, name: str) -> None:
    pipe.rpush(name, *(_text(rng) for _ in range(rng.randrange(1, 20))))


def _set(pipe: Pipe, rng: random.Random, name: str) -> None:
    numbers = rng.random() < 0.5  # An intset.
    pipe.sadd(name, *(rng.randrange(10**6) if numbers else f"m{rng.random()}" for _ in range(rng.randrange(1, 20))))


def _sorted(pipe: Pipe, rng: random.Random, name: str) -> None:
    most = 160 if rng.random() < 0.02 else 8  # More than 128 are kept as a skip list.
    pipe.zadd(
        name, {f"m{n}": rng.choice((n, rng.random(), -1e300, float("inf"))) for n in range(rng.randrange(1, most))}
    )


def _hash(pipe: Pipe, rng: random.Random, name: str) -> None:
    pipe.hset(name, mapping={f"f{n}": _text(rng) for n in range(rng.randrange(1, 20))})


def _stream(pipe: Pipe, rng: random.Random, name: str) -> None:
    for n in range(1, rng.randrange(2, 5)):
        pipe.xadd(name, {"f": _text(rng), "g": n}, id=f"{n}-1")
    pipe.xgroup_create(name, "group", id="0")
    pipe.xdel(name, "1-1")


def _bitmap(pipe: Pipe, rng: random.Random, name: str) -> None:
    pipe.setbit(name, rng.randrange(3000), 1)


def _loglog(pipe: Pipe, rng: random.Random, name: str) -> None:
    pipe.pfadd(name, *(rng.randrange(1000) for _ in range(rng.randrange(1, 50))))


def _place(pipe: Pipe, rng: random.Random, name: str) -> None:
    pipe.geoadd(name, (rng.uniform(-170, 170), rng.uniform(-80, 80), "here"))


KINDS: tuple[Callable[[Pipe, random.Random, str], None], ...] = (
    _string, _list, _set, _sorted, _hash, _stream, _bitmap, _loglog, _big, _place, _string,
)  # fmt: skip
