"""The runtime inside LiteLLM's process, without LiteLLM: routes, who is absent, what a request gets, limits, words."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.clock import FakeClock

from agentd.gateway_runtime import ending, section
from agentd.gateway_runtime.absence import Absence
from agentd.gateway_runtime.arguments import parse
from agentd.gateway_runtime.asking import Answer, judge, socket_path
from agentd.gateway_runtime.control import Control
from agentd.gateway_runtime.deadline import Deadline, bounded
from agentd.gateway_runtime.ending import Refusal
from agentd.gateway_runtime.flight import Counted, Flight, note
from agentd.gateway_runtime.routes import Route, Routes, places
from agentd.gateway_runtime.routes import parse as parse_routes
from agentd.gateway_runtime.section import of_document
from agentd.gateway_runtime.waiting import Absent, Waiting

DOCUMENT: dict[str, Any] = {
    "model_list": [{}, {}],
    "router_settings": {
        "model_group_alias": {"second": "b", "hidden": {"model": "c", "hidden": True}, "odd": 3},
        "fallbacks": [{"a": ["second", "c"]}, {"b": ["d"]}, {"c": ["a"]}],
    },
    "agentd": {
        "answer_limit": 5,
        "absent_wait": 2,
        "slots": {
            "a": {"service": "sa", "slot": "g", "when_absent": "fallback"},
            "b": {"service": "sb", "slot": "g", "when_absent": "refuse"},
            "c": {"service": "sc", "slot": "h", "when_absent": "wait"},
            "s": {"service": "ss", "slot": "g", "when_absent": "switch", "fallbacks": ["b"]},
            "odd": {"slot": "g"},
            "new": {"service": "sn", "slot": "g", "when_absent": "pray"},
        },
    },
}


def test_what_is_taken_from_a_configuration() -> None:
    found = of_document(DOCUMENT, "d")
    assert (found.answer_limit, found.absent_wait, found.digest, found.models) == (5.0, 2.0, "d", 2)
    assert found.aliases == {"second": "b", "hidden": "c"}
    assert found.fallbacks["a"] == ("second", "c")
    assert set(found.slots) == {"a", "b", "c", "s", "new"}
    assert found.slots["new"].when_absent == "fallback"
    nothing = of_document({"agentd": [1], "router_settings": 3, "model_list": {}})
    assert (nothing.answer_limit, dict(nothing.slots), nothing.models) == (300.0, {}, 0)
    for wrong in (True, "5", -1):
        assert of_document({"agentd": {"answer_limit": wrong}}).answer_limit == 300.0


def test_the_digest_is_that_of_the_header() -> None:
    digest = "ab" * 32
    assert section.digest(f"# by agentd\n# source: x sha256:{'cd' * 32}\n# digest: sha256:{digest}\n\na: 1\n") == digest
    assert section.digest(f"a: 1\n# digest: sha256:{digest}\n") == ""
    assert section.digest("# digest: sha256:abc\n") == ""


def file(path: Path, document: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(document if isinstance(document, str) else json.dumps(document))
    fresh.rename(path)


def routes_of(**slots: object) -> dict[str, object]:
    return {"version": 1, "written": 1.0, "slots": slots}


def test_routes_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    seen: list[tuple[Any, Any]] = []
    routes = Routes([tmp_path / "other.json", path], lambda before, after: seen.append((before, after)))
    assert routes.slot("g") is None
    file(path, routes_of(g={"resident": "sa", "switching_to": None, "retry_after": 9}))
    assert routes.slot("g") == Route("sa", "", 9)
    assert routes.slot("h") is None
    assert routes.slot("g") == Route("sa", "", 9)
    assert seen == [({}, {"g": Route("sa", "", 9)})]
    for damaged in ('{"version": 1', "[]", {"version": 2, "slots": {"g": {}}}, {"version": 1}, "[" * 100_000):
        file(path, damaged)
        assert routes.slot("g") is None
    file(path, routes_of(g={"resident": None}))
    assert routes.slot("g") == Route("", "", 5)
    path.unlink()
    assert routes.slot("g") is None


def test_what_a_dead_agentd_left_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    file(path, routes_of(g={"resident": "sa"}))
    routes = Routes([path])
    with (tmp_path / "routes.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert routes.slot("g") == Route("sa")
    assert routes.slot("g") is None, "the model may have been changed by hand since"
    with (tmp_path / "routes.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert routes.slot("g") == Route("sa")


@pytest.mark.parametrize(("value", "pause"), [(0, 5), (True, 5), ("3", 5), (1e9, 5), (0.2, 1), (12, 12), (None, 5)])
def test_odd_pauses(value: object, pause: int) -> None:
    assert parse_routes(routes_of(g={"resident": 3, "retry_after": value})) == {"g": Route("", "", pause)}


def test_where_things_are() -> None:
    assert places({"AGENTD_ROUTES": "/x/r.json", "XDG_RUNTIME_DIR": "/run/user/7"}) == (Path("/x/r.json"),)
    assert places({"XDG_RUNTIME_DIR": "/r"}) == (Path("/r/agentd-gateway/routes.json"), Path("/r/agentd/routes.json"))
    assert socket_path({"XDG_RUNTIME_DIR": "/r"}) == "/r/agentd/agentd.sock"
    assert socket_path({}) == f"/run/user/{os.getuid()}/agentd/agentd.sock"


class Known(Routes):
    """Routes that a test sets."""

    def __init__(self, **slots: Route) -> None:
        super().__init__(())
        self.slots: dict[str, Route] = slots

    def now(self) -> dict[str, Route]:
        return self.slots


def absence(**slots: Route) -> Absence:
    return Absence(of_document(DOCUMENT), Known(**slots))


def test_who_is_absent() -> None:
    found = absence(g=Route("sb"))
    assert found.of("b") is None
    assert found.of("second") is None, "by its alias"
    assert found.of("a") is not None
    assert found.of("c") is None, "nothing is known of its slot"
    assert found.of("d") is None, "no model of a slot"
    assert absence(g=Route("", "sa")).of("a") is not None, "a model that loads is not there"


@pytest.mark.parametrize(
    ("slots", "ways"),
    [
        ({"g": Route("sb")}, ("b", "d", "c")),
        ({"g": Route("")}, ("d", "c")),
        ({"g": Route(""), "h": Route("")}, ("d",)),
    ],
)
def test_ways_out_in_litellms_order(slots: dict[str, Route], ways: tuple[str, ...]) -> None:
    """a -> [second -> [d], c -> [a]], a circle included."""
    assert absence(**slots).ways("a") == ways


def test_who_arrived() -> None:
    found = absence()
    assert list(found.arrived({"g": Route("sa")}, {"g": Route("sb"), "h": Route("sc")})) == ["b", "c"]
    assert list(found.arrived({"g": Route("sa")}, {"g": Route("sa")})) == []
    assert list(found.arrived({"g": Route("sa")}, {})) == []


class Switching:
    """agentd, as `Asking` asks it."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def switch(self, target: str) -> Answer:
        assert target == "ss"
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Case:
    def __init__(self, answers: tuple[Answer, ...] = (Answer(),), **slots: Route) -> None:
        self.known = Known(**slots)
        self.flight = Flight()
        self.agentd = Switching(*answers)
        found = Absence(of_document(DOCUMENT), self.known)
        clock: Callable[[], float] = lambda: asyncio.get_running_loop().time()  # noqa: E731
        self.waiting = Waiting(found, self.agentd, self.flight, 2.0, clock)  # type: ignore[arg-type]

    def later(self, seconds: float, **slots: Route) -> None:
        asyncio.get_running_loop().call_later(seconds, self.known.slots.update, slots)


async def test_who_is_there_goes_on() -> None:
    FakeClock()
    assert await Case(g=Route("sa")).waiting.admit("a") == ()
    assert await Case().waiting.admit("a") == ()


async def test_fallbacks_or_a_refusal() -> None:
    FakeClock()
    case = Case(g=Route("ss"), h=Route(""))
    assert await case.waiting.admit("a") == ("d",)
    with pytest.raises(Absent, match="the model a is not available now: slot g holds ss"):
        await case.waiting.admit("a", fallbacks=False)
    with pytest.raises(Absent, match="the model b is not available now"):
        await case.waiting.admit("b")


async def test_it_waits_until_the_model_is_there() -> None:
    FakeClock()
    case = Case(h=Route(""))
    case.later(1.0, h=Route("", "sc"))
    case.later(1.5, h=Route("sc"))
    start = asyncio.get_running_loop().time()
    assert await case.waiting.admit("c") == ()
    assert 1.5 <= asyncio.get_running_loop().time() - start <= 1.7
    case.known.slots["h"] = Route("", "", 8)
    with pytest.raises(Absent, match="slot h is empty") as error:
        await case.waiting.admit("c")
    assert error.value.retry_after == 8


async def test_a_drain_ends_the_waiting() -> None:
    FakeClock()
    case = Case(h=Route(""))
    case.flight.draining = True
    case.flight.ends = asyncio.get_running_loop().time() + 1.0
    with pytest.raises(Absent, match="the gateway restarts"):
        await case.waiting.admit("c")


async def test_a_switch_is_asked_for_once() -> None:
    FakeClock()
    case = Case(g=Route("sa"))
    case.later(0.3, g=Route("", "ss"))
    case.later(1.2, g=Route("ss"))
    await case.waiting.admit("s")
    assert case.agentd.asked == 1


async def test_a_switch_that_runs_is_not_asked_for() -> None:
    FakeClock()
    case = Case(g=Route("", "ss"))
    case.later(0.3, g=Route("ss"))
    await case.waiting.admit("s")
    assert case.agentd.asked == 0


async def test_a_busy_agentd_is_asked_again() -> None:
    FakeClock()
    case = Case((Answer("busy", busy=True), Answer()), g=Route("", "sb"))
    case.later(1.5, g=Route("ss"))
    await case.waiting.admit("s")
    assert case.agentd.asked == 2


async def test_a_switch_that_fails_or_is_refused() -> None:
    FakeClock()
    case = Case((Answer("agentd refused to switch: no"),), g=Route("sa"))
    with pytest.raises(Absent, match="not available now: agentd refused to switch: no"):
        await case.waiting.admit("s")
    case = Case(g=Route("", "ss"))
    case.later(0.3, g=Route("sa"))
    with pytest.raises(Absent, match="the switch to it failed"):
        await case.waiting.admit("s")


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (202, b"{}", Answer()),
        (409, b'{"kind": "conflict", "detail": "x"}', Answer("agentd refused to switch: x", busy=True)),
        (409, b'{"kind": "cooldown", "detail": "y"}', Answer("agentd refused to switch: y")),
        (500, b"<html>", Answer("agentd refused to switch: status 500")),
        (400, b"[]", Answer("agentd refused to switch: status 400")),
    ],
)
def test_what_agentd_says(status: int, body: bytes, answer: Answer) -> None:
    assert judge(status, body) == answer


Message = dict[str, Any]


class Served:
    """One request to an ASGI application."""

    def __init__(self, path: str = "/v1/chat/completions", method: str = "POST", kind: str = "http") -> None:
        self.scope: Message = {"type": kind, "method": method, "path": path, "headers": []}
        self.sent: list[Message] = []

    async def run(self, app: Callable[..., Awaitable[None]]) -> Served:
        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            self.sent.append(message)

        await app(self.scope, receive, send)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(m["body"] for m in self.sent[1:]).decode()


def answering(after: float, *chunks: bytes, kind: bytes = b"application/json") -> Callable[..., Awaitable[None]]:
    """Each chunk after so many seconds; `cancelled` on it tells whether it was ended."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            if kind == b"application/json":
                await asyncio.sleep(after)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            for chunk in chunks:
                if kind != b"application/json":
                    await asyncio.sleep(after)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    cancelled.clear()
    return app


cancelled: list[str] = []
EVENTS = b"text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    ("method", "path", "kind", "limited"),
    [
        ("POST", "/v1/chat/completions", "http", True),
        ("POST", "/engines/x/chat/completions", "http", True),
        ("POST", "/v1/embeddings/", "http", True),
        ("POST", "/v1/messages", "http", True),
        ("POST", "/v1beta/models/x:streamGenerateContent", "http", True),
        ("POST", "/v1/audio/speech", "http", True),
        ("GET", "/v1/responses", "http", False),
        ("GET", "/health/liveliness", "http", False),
        ("POST", "/key/generate", "http", False),
        ("POST", "/model/new", "http", False),
        ("POST", "/v1/realtime/completions", "websocket", False),
    ],
)
def test_what_is_limited(method: str, path: str, kind: str, limited: bool) -> None:
    assert bounded(Served(path, method, kind).scope) is limited


async def test_an_answer_in_time_is_left_alone() -> None:
    FakeClock()
    found = await Served().run(Deadline(answering(4.0, b"yes"), Flight(), 5.0))
    assert (found.status, found.text) == (200, "yes")
    found = await Served("/other").run(Deadline(answering(40.0, b"yes"), Flight(), 5.0))
    assert found.text == "yes"
    found = await Served().run(Deadline(answering(40.0, b"yes"), Flight(), 0))
    assert found.text == "yes", "no limit"


async def test_an_answer_beyond_it_is_504() -> None:
    FakeClock()
    flight = Flight()
    found = await Served().run(Deadline(answering(40.0, b"yes"), flight, 5.0))
    assert found.status == 504
    assert int(found.headers["content-length"]) == len(found.text)
    assert json.loads(found.text)["error"] == {
        "message": "the whole answer took longer than 5 s, the limit of this gateway",
        "type": "timeout_error",
        "param": None,
        "code": "504",
    }
    await asyncio.sleep(0)
    assert cancelled == ["/v1/chat/completions"]


async def test_a_stream_beyond_it_ends_with_an_error() -> None:
    FakeClock()
    app = answering(2.0, *[b"data: {}\n\n"] * 10, kind=EVENTS)
    found = await Served().run(Deadline(app, Flight(), 5.0))
    assert found.text.startswith("data: {}\n\ndata: {}\n\ndata: {")
    assert '"code": "504"' in found.text
    assert found.text.endswith("}\n\ndata: [DONE]\n\n")
    half = await Served().run(Deadline(answering(2.0, *[b"data: {"] * 10, kind=EVENTS), Flight(), 3.0))
    assert half.text.startswith('data: {\n\ndata: {"error"'), "an event that was begun is ended first"
    claude = await Served("/v1/messages").run(Deadline(app, Flight(), 5.0))
    assert claude.text.endswith("\n\n")
    assert "event: error\ndata: " in claude.text


async def test_what_cannot_say_it_stays_incomplete() -> None:
    """uvicorn closes the connection of an answer that was begun and not ended."""
    FakeClock()
    app = answering(2.0, b"a", b"b", b"c", kind=b"audio/mpeg")
    found = await Served("/v1/audio/speech").run(Deadline(app, Flight(), 5.0))
    assert (found.status, found.text, found.sent[-1]["more_body"]) == (200, "ab", True)


async def test_an_error_of_the_application_is_its_own() -> None:
    FakeClock()

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await Served().run(Deadline(broken, Flight(), 5.0))


async def test_a_client_that_takes_nothing_is_left() -> None:
    """The last words have a limit of their own."""
    FakeClock()

    async def send(message: Any) -> None:
        await asyncio.sleep(1000)

    start = asyncio.get_running_loop().time()
    await Deadline(answering(40.0, b"yes"), Flight(), 5.0)(Served().scope, send, send)  # type: ignore[arg-type]
    assert asyncio.get_running_loop().time() - start == pytest.approx(10.0)


async def test_the_end_of_a_drain_ends_answers() -> None:
    FakeClock()
    flight = Flight()
    work = asyncio.ensure_future(Served().run(Counted(Deadline(answering(40.0, b"yes"), flight, 300.0), flight)))
    await asyncio.sleep(1)
    assert flight.requests == 1
    flight.drain(3.0)
    found = await work
    assert (found.status, found.headers["connection"], found.headers["retry-after"]) == (503, "close", "1")
    assert flight.requests == 0


async def test_answers_close_their_connection_while_it_drains() -> None:
    FakeClock()
    flight = Flight()
    counted = Counted(answering(0.0, b"yes"), flight)
    assert "connection" not in (await Served().run(counted)).headers
    flight.drain(3.0)
    assert (await Served().run(counted)).headers["connection"] == "close"


async def test_a_refusal_says_when_to_come_back() -> None:
    """On the routes of LiteLLM that drop the headers of an error, too; and only there."""
    FakeClock()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        said = note.get()
        assert said is not None
        if scope["path"] != "/plain":
            said["retry_after"] = 7
        status = 503 if scope["path"] != "/200" else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"Retry-After", b"60")]})

    counted = Counted(app, Flight())
    assert (await Served("/refused").run(counted)).headers == {"retry-after": "7"}
    assert (await Served("/plain").run(counted)).headers == {"Retry-After": "60"}
    assert (await Served("/200").run(counted)).headers == {"Retry-After": "60"}


async def test_the_state_on_the_control_socket() -> None:
    FakeClock()
    flight = Flight()
    control = Control(answering(0.0, b"of litellm"), flight, "d1", "1.2.3")
    found = await Served("/agentd/state", "GET").run(control)
    state = {"digest": "d1", "version": "1.2.3", "shared": False, "draining": False, "in_flight": 0}
    assert json.loads(found.text) == {"pid": os.getpid(), **state}
    assert (await Served("/agentd/state", "POST").run(control)).status == 405
    assert (await Served("/v1/models", "GET").run(control)).text == "of litellm"


def test_the_command_line() -> None:
    found = parse(["--config", "c.yaml"], {"GRACEFUL_SHUTDOWN_TIMEOUT": "7.5"})
    assert (found.host, found.port, found.control, found.standby, found.grace) == ("127.0.0.1", 4001, "", False, 7.5)
    assert parse(["--config", "c"], {"GRACEFUL_SHUTDOWN_TIMEOUT": "soon"}).grace == 30.0
    for wrong in ([], ["--config", "c", "--port", "0"], ["--config", "c", "--port", "x"], ["--config", "c", "more"]):
        with pytest.raises(Refusal):
            parse(wrong, {})


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad\n  value"), "bad value"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError: "),
        (SystemExit(1), ""),
        (SystemExit("no database"), "no database"),
        (ValueError("x" * 1000), "x" * 397 + "..."),
    ],
)
def test_an_error_in_a_sentence(error: BaseException, text: str) -> None:
    assert ending.reason(error) == text


@pytest.mark.parametrize(
    ("traceback", "text"),
    [
        ("Traceback\n  File x\na.b.KeyError: no key is set\n", "no key is set"),
        ("Traceback\nValueError: first\n\nDuring handling\nOSError: second: part\n  more\n", "second: part"),
        ("something", "something"),
        ("", "it did not say why"),
    ],
)
def test_the_sentence_at_the_end_of_a_traceback(traceback: str, text: str) -> None:
    assert ending.of_traceback(traceback) == text
