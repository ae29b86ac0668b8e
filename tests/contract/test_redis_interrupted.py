"""An enforcement cut off by kill -9 of agentd, of Redis, or of both, before and after each of its effects: no key is
lost that would be there without agentd, and the store becomes durable without anybody's help."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rediscut import Crew, Hand, Job, Place, Seeded, Writer
from redisworker import BURST, CHANCE, GO, clean_moment

SAMPLE, SAMPLE_AGAIN = 24, 8
ALL = bool(os.environ.get("AGENTD_ALL_POINTS"))
SEED = int(os.environ.get("AGENTD_SEED", "1"))
WAYS = ("edit", "rewrite")
LAST = {"edit": "patch1", "rewrite": "rewrite_config1"}
"""What makes the next start read the append-only file."""
WHOS, WHENS = ("agentd", "server", "both", "restart"), ("before", "after")
SLOW = 1000
"""Microseconds for each key: the first rewrite takes some tenths of a second."""
CLIENTS, ROUNDS, SECONDS = 20, 3, 2.0

pytestmark = pytest.mark.timeout(3600 if ALL else 180)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    return Seeded.make(tmp_path_factory.mktemp("seed"), SEED)


@pytest.fixture
def crews(tmp_path: Path, seeded: Seeded) -> Iterator[Callable[..., Crew]]:
    made: list[Crew] = []

    def make(**options: int) -> Crew:
        made.append(Crew(tmp_path, seeded, **options))
        return made[-1]

    yield make
    for crew in made:
        crew.close()


# -- before and after every effect ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """`again`: where the life after is killed, too."""

    way: str
    who: str
    when: str
    point: str
    again: tuple[str, str] | None = None

    def __str__(self) -> str:
        return "-".join((self.way, self.who, self.when, self.point, *(self.again or ())))

    def run(self, place: Place, hand: Hand) -> Ended:
        writer = Writer(place.server, "first")
        hand.begin(place, policy={"persist": self.way}, point=self.point, when=self.when, who=self.who)
        struck = hand.hear()
        if "struck" not in struck:
            writer.stop()
            return missed(self.point, struck, hand)
        assert struck["aof"] or not struck["file"], "the file says yes, and there is no append-only file"
        safe = writer.before(struck["clean"]) | {f"burst:{n}": str(n) for n in range(BURST)}
        dies = self.who in ("agentd", "both")
        if dies:
            assert hand.hear() == {"ended": -signal.SIGKILL}
        kept = True
        if self.who != "agentd":
            whole = place.died()
            assert whole or not struck["aof"]
            kept = place.restart()
            assert kept or not struck["file"]
            writer.stop()
            if kept:
                place.values(safe)
            writer = Writer(place.server, "second")
            Path(place.folder, "agentd", GO).touch()
        if self.again is not None:
            when, point = self.again
            hand.begin(place, policy={"persist": self.way}, point=point, when=when, who="agentd")
            second = hand.hear()
            if "struck" not in second:
                writer.stop()
                return missed(point, second, hand)
            assert hand.hear() == {"ended": -signal.SIGKILL}
        if dies:
            hand.begin(place, policy={"persist": self.way})
        done = hand.durable()
        writer.stop()
        place.proves_durable([writer], safe if kept else {})
        if not kept and struck["aof"]:
            place.evidence(safe, done["told"])
            return Ended("left behind", done["points"])
        return Ended("kept" if kept else "too early", done["points"])


@dataclass(frozen=True, slots=True)
class Ended:
    data: str
    """What became of what was written in the last moments: "kept", "left behind" in an append-only file that the next
    start did not read, "too early" for any; "not reached" when chance had it that there was no such point."""
    points: list[str]
    """Of the last life."""


def missed(point: str, said: dict[str, Any], hand: Hand) -> Ended:
    assert "durable" in said, said
    assert CHANCE.fullmatch(point), f"{point} is not reached: {said['points']}"
    assert hand.hear() == {"ended": 0}
    return Ended("not reached", [])


def points(place: Place, hand: Hand, way: str) -> list[str]:
    """Of a run that nobody cuts off, in their order."""
    writer = Writer(place.server, "clean")
    hand.begin(place, policy={"persist": way})
    found: list[str] = hand.durable()["points"]
    writer.stop()
    place.proves_durable([writer], {})
    return found


def sampled(cuts: list[Cut], most: int) -> list[Cut]:
    """One of every so many neighbours."""
    if ALL or len(cuts) <= most:
        return cuts
    rng = random.Random(SEED)
    return [rng.choice(cuts[n * len(cuts) // most : (n + 1) * len(cuts) // most]) for n in range(most)]


def counting(way: str) -> Job:
    return lambda place, hand: points(place, hand, way)


def test_killed_at_every_effect(crews: Callable[..., Crew]) -> None:
    crew = crews()
    found = crew.all({way: counting(way) for way in WAYS})
    for way, last in LAST.items():
        assert {"save1", "link1", "set_config1", "set_config2", "remove1", last} <= set(found[way])
    cuts = [Cut(way, who, when, point) for way in WAYS for who in WHOS for when in WHENS for point in found[way]]
    chosen = sampled(cuts, SAMPLE)
    ended = crew.all({str(cut): cut.run for cut in chosen})
    kinds = Counter(one.data for one in ended.values())
    print(f"{len(cuts)} cuts, {len(chosen)} of them taken: {kinds}; {found}")
    assert set(kinds) - {"not reached"} == {"kept", "left behind", "too early"}


def test_killed_again_while_it_begins_anew(crews: Callable[..., Crew]) -> None:
    """What the first kill left behind is found by the life after, which is killed in its turn."""
    crew = crews()
    found = crew.all({way: counting(way) for way in WAYS})
    firsts = {way: Cut(way, "both", "after", found[way][found[way].index(last) - 1]) for way, last in LAST.items()}
    ended = crew.all({way: cut.run for way, cut in firsts.items()})
    assert {one.data for one in ended.values()} == {"left behind"}
    cuts = [replace(firsts[way], again=(w, p)) for way in WAYS for w in WHENS for p in ended[way].points]
    chosen = sampled(cuts, SAMPLE_AGAIN)
    print(f"{len(cuts)} cuts, {len(chosen)} of them taken; {ended}")
    crew.all({str(cut): cut.run for cut in chosen})


# -- inside Redis --------------------------------------------------------------------------------------------------


def in_the_first_rewrite(place: Place, hand: Hand, pause: float) -> str:
    """How far it had come."""
    writer = Writer(place.server, "first")
    hand.begin(place)
    with place.server.client() as client:
        end = time.monotonic() + 20
        while not client.info("persistence")["aof_rewrite_in_progress"]:
            assert time.monotonic() < end
            time.sleep(0.005)  # It tells nobody.
        time.sleep(pause)
        clean = clean_moment(client)
        safe = writer.before(clean)
        os.kill(place.server.pid, signal.SIGKILL)
    whole = place.died()
    kept = place.restart()
    writer.stop()
    assert whole or not kept
    if kept:
        place.values(safe)
    writer = Writer(place.server, "second")
    told = hand.durable()["told"]
    writer.stop()
    place.proves_durable([writer], safe if kept else {})
    if whole and not kept:
        place.evidence(safe, told)
    return "persisted" if kept else "whole" if whole else "torn"


def test_redis_killed_in_its_first_rewrite(crews: Callable[..., Crew]) -> None:
    rng = random.Random(SEED)

    def at(pause: float) -> Job:
        return lambda place, hand: in_the_first_rewrite(place, hand, pause)

    pauses = [rng.uniform(0.0, 1.2) for _ in range(10)]
    found = crews(delay=SLOW).all({f"after {pause:.3f} s": at(pause) for pause in pauses})
    print(found)
    assert "torn" in found.values()


# -- under load, when it is durable --------------------------------------------------------------------------------


def under_load(place: Place, hand: Hand) -> list[str]:
    """With everysec what was acknowledged is in the kernel's hands, but for what waits while a sync runs."""
    hand.begin(place)
    hand.durable()
    rounds: list[str] = []
    for number in range(ROUNDS):
        writers = [Writer(place.server, f"{number}-{n}", pause=0.0) for n in range(CLIENTS)]
        time.sleep(SECONDS)
        with place.server.client() as client:
            clean = clean_moment(client)
            os.kill(place.server.pid, signal.SIGKILL)
        place.died()
        assert place.restart()
        for writer in writers:
            writer.stop()
        safe = {name: value for writer in writers for name, value in writer.before(clean).items()}
        place.values(safe)
        every = {name: name for writer in writers for name, _ in writer.acknowledged}
        late = len(every) - len(safe)
        rounds.append(f"{len(place.missing(every))} of {len(every)} lost, {late} were on their way")
        assert len(safe) > 1000
    return rounds


def test_redis_killed_under_load(crews: Callable[..., Crew]) -> None:
    print(crews().all({"load": under_load}))
