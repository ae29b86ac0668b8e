"""The HTTP API, server-sent events: to their end, without a gap, and gone when anybody goes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import aiohttp
import pytest
from fakes.doors import serving
from fakes.operations import FakeOperations

from agentd.api import server, sse
from agentd.types import Event


class Frames:
    """Server-sent events, one at a time."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> str | None:
        lines: list[str] = []
        while (line := await self._answer.content.readline()) not in (b"\n", b""):
            lines.append(line.decode().rstrip("\n"))
        return "\n".join(lines) if lines else None


async def test_progress_is_streamed_to_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        change_id = body["change"]["id"]
        async with doors.tcp.get(f"/v1/changes/{change_id}/events") as answer:
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            frames, phases = Frames(answer), []
            while (text := await frames.next()) is not None and text.startswith("data: "):
                change = json.loads(text.removeprefix("data: "))
                phases.append(change["phase"])
                if change["finished"] is None:
                    doors.ops.advance(change_id)
            assert text == "event: done\ndata: {}"
            assert await frames.next() is None
        assert phases[0] == "precheck"
        assert phases[-1] == "active"
        assert doors.ops.followers == 0


async def test_finished_change_is_one_frame_and_done(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.instant = True
        _, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        async with doors.unix.get(f"/v1/changes/{body['change']['id']}/events") as answer:
            text = await answer.text()
        assert text.count("data: ") == 2
        assert text.endswith("event: done\ndata: {}\n\n")


async def test_stream_ends_with_its_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        async with doors.unix.get(f"/v1/changes/{body['change']['id']}/events") as answer:
            await Frames(answer).next()
            assert doors.ops.followers == 1
            answer.close()
        await doors.ops.until(lambda: not doors.ops.followers)


async def test_streams_end_at_shutdown_without_done(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        async with doors.tcp.get(f"/v1/changes/{body['change']['id']}/events") as answer:
            frames = Frames(answer)
            await frames.next()
            async with asyncio.timeout(server.SHUTDOWN + 5):
                await doors.api.stop()
            assert await frames.next() is None
        assert doors.ops.followers == 0


async def test_quiet_stream_is_kept_alive(tmp_path: Path) -> None:
    async with serving(tmp_path, keep_alive=0.01) as doors, doors.tcp.get("/v1/events?follow=1") as answer:
        assert await Frames(answer).next() == ": keep-alive"


async def test_events_history_then_live_without_gap_or_double(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        for n in range(5):
            doors.ops.emit("unit.state", "qwen", f"fact {n}")
        assert [e["seq"] for e in (await doors.json("GET", "/v1/events?limit=2"))[1]["events"]] == [4, 5]
        assert [e["seq"] for e in (await doors.json("GET", "/v1/events?after=3"))[1]["events"]] == [4, 5]
        assert (await doors.json("GET", "/v1/events?limit=0"))[1] == {"events": []}
        async with doors.tcp.get("/v1/events?follow=1&limit=2") as answer:
            frames = Frames(answer)
            seen = [await frames.next(), await frames.next()]
            for n in range(600):  # more than the live feed's queue holds
                doors.ops.emit("unit.state", "qwen", f"burst {n}")
            seen += [await frames.next() for _ in range(600)]
        numbers = [int(re.match(r"id: (\d+)\ndata: ", text or "")[1]) for text in seen]  # type: ignore[index]
        assert numbers == list(range(4, 606))


async def test_events_resume_where_a_browser_was(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        for n in range(5):
            doors.ops.emit("unit.state", "qwen", f"fact {n}")
        async with doors.tcp.get("/v1/events?follow=1", headers={"Last-Event-ID": "4"}) as answer:
            assert (await Frames(answer).next() or "").startswith("id: 5\n")


async def test_number_of_streams_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_STREAMS", 1)
    async with serving(tmp_path, keep_alive=0.01) as doors, doors.tcp.get("/v1/events?follow=1") as answer:
        await Frames(answer).next()
        code, body = await doors.tcp_json("GET", "/v1/events?follow=1")
        assert (code, body["kind"]) == (503, "too-many-streams")


@pytest.mark.parametrize("moment", ["before the history is read", "after it is read"])
async def test_event_at_the_seam_comes_exactly_once(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = FakeOperations()
    read = ops.events

    def events(limit: int, after: int = 0) -> Sequence[Event]:
        monkeypatch.setattr(ops, "events", read)
        if moment == "before the history is read":
            ops.emit("unit.state", "qwen", "at the seam")
            return read(limit, after)
        history = read(limit, after)
        ops.emit("unit.state", "qwen", "at the seam")
        return history

    monkeypatch.setattr(ops, "events", events)
    async with aclosing(sse.event_frames(ops, 10, 0)) as frames, asyncio.timeout(10):
        first = await anext(frames)
        ops.emit("unit.state", "qwen", "later")
        second = await anext(frames)
    assert [frame.split(b"\n")[0] for frame in (first, second)] == [b"id: 1", b"id: 2"]
