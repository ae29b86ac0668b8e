"""The runtime in a real LiteLLM: models that are absent, and the limit of a whole answer. One proxy for all tests."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from gatewayrig import KEY, Runtime, listening, port_of

T = TypeVar("T")
SLOTTED = {
    "falls": "fallback",
    "lone": "fallback",
    "waits": "wait",
    "asks": "switch",
    "refuses": "refuse",
    "loses": "fallback",
}
MODELS = (*SLOTTED, "other", "spare", "frail")
FALLBACKS = {"falls": ["second", "spare"], "lone": ["other"], "asks": ["spare"], "loses": ["frail"]}
WAIT, LIMIT = 3.0, 4.0
CHAT = "/v1/chat/completions"


def config(backend: int) -> str:
    """JSON, which is YAML. The breaker opens at the first failure, so that one that was counted shows."""
    entries = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": f"http://127.0.0.1:{backend}/v1",
                "api_key": "none",
                "max_retries": 0,
                "timeout": 30,
                "stream_timeout": 30,
            },
            "model_info": {"id": f"{name}/1"},
        }
        for name in MODELS
    ]
    kinds = ("InternalServerError", "TimeoutError", "RateLimitError", "NotFoundError", "ServiceUnavailableError")
    slots = {
        name: {"service": f"s-{name}", "slot": "gpu0", "when_absent": way, "fallbacks": FALLBACKS.get(name, [])}
        for name, way in {**SLOTTED, "other": "refuse"}.items()
    }
    return json.dumps(
        {
            "model_list": entries,
            "router_settings": {
                "num_retries": 2,
                "allowed_fails": 0,
                "allowed_fails_policy": {f"{kind}AllowedFails": 0 for kind in kinds},
                "cooldown_time": 60,
                "fallbacks": [{name: targets} for name, targets in FALLBACKS.items()],
                "model_group_alias": {"second": "other", "alias-of-waits": "waits"},
            },
            "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
            "agentd": {"version": 1, "answer_limit": LIMIT, "absent_wait": WAIT, "slots": slots},
        }
    )


class World:
    """A backend for all models, agentd's door, and the proxy, on a loop in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits: dict[str, int] = {}
        self.modes: dict[str, str] = {}
        """Model -> a status, "hang", "slow", "leaves" (its slot switches, it dies); others answer."""
        self.left = threading.Semaphore(0)
        """One for every request that the backend saw its client go away from."""
        self.asked: list[Any] = []
        self.answer: tuple[int, dict[str, Any]] = (202, {})
        self.on_switch: Callable[[str], None] = lambda target: None
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._end = asyncio.Event()
        self._running: Future[None] | None = None
        self._ready = threading.Event()

    def start(self) -> None:
        self._running = asyncio.run_coroutine_threadsafe(self._run(), self.loop)
        while not self._ready.wait(0.2):
            if self._running.done():
                self._running.result()

    def stop(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._end.set)
            if self._running is not None:
                self._running.result(60)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def _run(self) -> None:
        (self.folder / "agentd").mkdir()
        backend = await asyncio.start_server(self._model, "127.0.0.1", 0)
        door = await asyncio.start_unix_server(self._agentd, self.folder / "agentd/agentd.sock")
        file = self.folder / "litellm.yaml"
        file.write_text(config(backend.sockets[0].getsockname()[1]))
        async with backend, door:
            with listening() as public:
                self.port = port_of(public)
                async with Runtime(self.folder, "main", file, env={}, public=[public]) as self.proxy:
                    await self.proxy.said("READY=1")
                    self._ready.set()
                    await self._end.wait()
                    self.proxy.process.terminate()
                    assert await self.proxy.ended() == 0
            # Cancelled by the end of the loop otherwise.
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    async def _agentd(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await _request(reader)
        assert head.startswith("POST /v1/switch ")
        self.asked.append(body)
        status, answer = self.answer
        if status == 202:
            self.on_switch(body["target"])
        _reply(writer, status, answer)
        await writer.drain()
        writer.close()

    async def _model(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head, body = await _request(reader)
                if head.startswith("POST "):
                    await self._answer(body, reader, writer)
                else:
                    _reply(writer, 404, {"error": {"message": "nothing here"}})
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, body: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        model, mode = body["model"], self.modes.get(body["model"], "")
        self.hits[model] = self.hits.get(model, 0) + 1
        if mode.isdigit():
            _reply(writer, int(mode), {"error": {"message": "broken"}})
        elif mode == "leaves":
            self.holds(None, "s-else")
            raise ConnectionError
        elif mode == "hang":
            await reader.read(1)
            self.left.release()
            raise ConnectionError
        elif mode == "slow":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            gone = asyncio.ensure_future(reader.read(1))
            while not gone.done():
                delta = {"choices": [{"index": 0, "delta": {"content": "a"}}], "model": model, "id": "1", "object": "x"}
                data = f"data: {json.dumps(delta)}\n\n".encode()
                writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                await asyncio.wait({gone}, timeout=0.2)
            self.left.release()
            raise ConnectionError
        else:
            message = {"role": "assistant", "content": f"this is {model}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            card = {"id": "1", "object": "chat.completion", "created": 1, "model": model}
            _reply(writer, 200, {**card, "choices": [choice], "usage": usage})
        await writer.drain()

    def holds(self, service: str | None, switching_to: str | None = None) -> None:
        """What agentd writes; in place at once, as it does it."""
        slot = {"resident": service, "switching_to": switching_to, "retry_after": 7}
        folder = self.folder / "agentd-gateway"
        folder.mkdir(exist_ok=True)
        fresh = folder / "routes.new"
        fresh.write_text(json.dumps({"version": 1, "written": time.time(), "slots": {"gpu0": slot}}))
        fresh.rename(folder / "routes.json")

    def knows_nothing(self) -> None:
        (self.folder / "agentd-gateway/routes.json").unlink(missing_ok=True)

    def chat(self, model: str, path: str = CHAT, **more: Any) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or text, headers)."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **more}
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=50) as answer:
                text, status, said = answer.read().decode(), answer.status, answer.headers
        except urllib.error.HTTPError as error:
            with error:
                text, status, said = error.read().decode(), error.code, error.headers
        found = {name.lower(): value for name, value in said.items()}
        return status, json.loads(text) if text.startswith("{") else text, found

    def says(self, model: str) -> str:
        """Who answered a request that has to go well."""
        status, body, _ = self.chat(model)
        assert status == 200, body
        return str(body["choices"][0]["message"]["content"]).removeprefix("this is ")


async def _request(reader: asyncio.StreamReader) -> tuple[str, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n")[1:])}
    return head, json.loads(await reader.readexactly(int(fields.get("content-length", 0))) or b"{}")


def _reply(writer: asyncio.StreamWriter, status: int, body: object) -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("gateway"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def world(proxy: World) -> Iterator[World]:
    proxy.hits.clear()
    proxy.modes.clear()
    proxy.asked.clear()
    proxy.answer = (202, {})
    proxy.on_switch = lambda target: None
    proxy.knows_nothing()
    before = len(proxy.proxy.output)
    yield proxy
    assert "gateway_runtime/hook.py" not in proxy.proxy.output[before:], "a refusal is no fault: it has no traceback"


def test_nothing_known_nothing_changed(world: World) -> None:
    for name in MODELS:
        assert world.says(name) == name
    (world.folder / "agentd-gateway").mkdir(exist_ok=True)
    (world.folder / "agentd-gateway/routes.json").write_text('{"version": 1, "slots": {"gpu0"')
    assert world.says("refuses") == "refuses"


def test_a_chain_skips_what_is_absent(world: World) -> None:
    """falls -> second (an alias of other, absent too) -> spare, and no try of the absent ones."""
    world.holds("s-else")
    status, body, headers = world.chat("falls")
    assert (status, body["choices"][0]["message"]["content"]) == (200, "this is spare")
    assert world.hits == {"spare": 1}
    assert headers["x-litellm-attempted-retries"] == "0"
    world.holds("s-other")
    assert world.says("falls") == "other"
    assert world.hits == {"spare": 1, "other": 1}


def test_the_chain_goes_on_behind_a_fallback_that_fails(world: World) -> None:
    world.holds("s-other")
    world.modes["other"] = "500"
    assert world.says("falls") == "spare"
    assert world.hits == {"other": 1, "spare": 1}


def test_when_no_fallback_answers_either(world: World) -> None:
    world.holds("s-else")
    world.modes["frail"] = "400"
    assert world.chat("loses")[0] == 400, "the error of the one that was there"
    status, body, headers = world.chat("loses", fallbacks=["frail"])
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "503", "7")
    assert body["error"]["message"].startswith("the model loses is not available now: slot gpu0 holds s-else")
    assert world.hits == {"frail": 2}


def test_absence_counts_as_no_failure(world: World) -> None:
    """One failure would keep the model away for a minute. Where nothing is known, no cooldown is ended either."""
    world.holds("s-else")
    for _ in range(3):
        assert world.says("falls") == "spare"
        assert world.chat("refuses")[0] == 503
    assert "falls" not in world.hits
    assert "refuses" not in world.hits
    world.knows_nothing()
    assert world.says("falls") == "falls"
    assert world.says("refuses") == "refuses"


def test_refused_with_a_time_to_come_back(world: World) -> None:
    world.holds("s-else")
    for name in ("refuses", "lone"):
        status, body, headers = world.chat(name)
        assert status == 503
        assert headers["retry-after"] == "7"
        assert body["error"]["message"] == f"the model {name} is not available now: slot gpu0 holds s-else"
        assert (body["error"]["code"], body["error"]["type"]) == ("503", "service_unavailable")
    world.holds(None, "s-else")
    status, body, _ = world.chat("refuses")
    assert "slot gpu0 is switching to s-else" in body["error"]["message"]
    assert world.chat("falls", disable_fallbacks=True)[0] == 503
    assert world.hits == {}


def test_a_model_that_leaves_in_the_middle_is_told_as_absent(world: World) -> None:
    world.holds("s-refuses")
    world.modes["refuses"] = "leaves"
    status, body, headers = world.chat("refuses", num_retries=0)
    assert (status, headers["retry-after"]) == (503, "7"), body
    assert "slot gpu0 is switching to s-else" in body["error"]["message"]
    assert world.hits == {"refuses": 1}


@pytest.mark.parametrize("name", ["waits", "alias-of-waits"])
def test_held_until_the_model_is_there(world: World, name: str) -> None:
    world.holds("s-else")
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(world.says(name)))
    asking.start()
    asking.join(0.5)
    assert asking.is_alive(), "it waits"
    assert world.hits == {}
    world.holds(None, "s-waits")
    asking.join(0.3)
    assert asking.is_alive(), "a model that loads is not there"
    world.holds("s-waits")
    asking.join(WAIT)
    assert answers == ["waits"]


def test_held_no_longer_than_allowed(world: World) -> None:
    world.holds("s-else")
    status, _, headers = world.chat("waits")
    assert (status, headers["retry-after"]) == (503, "7")
    assert world.hits == {}


def test_asked_for_once_and_served(world: World) -> None:
    """Ten requests are one question; all are answered by the model when it is there."""
    world.holds("s-else")

    def switch(target: str) -> None:
        world.holds(None, target)
        world.loop.call_later(0.5, world.holds, target)

    world.on_switch = switch
    answers: list[str] = []
    asking = [threading.Thread(target=lambda: answers.append(world.says("asks"))) for _ in range(10)]
    for one in asking:
        one.start()
    for one in asking:
        one.join(30)
    assert answers == ["asks"] * 10
    assert world.asked == [{"target": "s-asks", "automatic": True}]


@pytest.mark.parametrize("kind", ["cooldown", "conflict"])
def test_a_refused_switch(world: World, kind: str) -> None:
    """A refusal is passed on; another change that runs is waited for."""
    world.holds("s-else")
    world.answer = (409, {"kind": kind, "detail": "the slot rests for 5 s"})
    if kind == "conflict":
        world.on_switch = world.holds
        changed = world.loop.call_soon_threadsafe(
            lambda: world.loop.call_later(0.5, setattr, world, "answer", (202, {}))
        )
        assert changed is not None
        assert world.says("asks") == "asks"
        return
    status, body, headers = world.chat("asks")
    assert (status, headers["retry-after"]) == (503, "7")
    assert "agentd refused to switch: the slot rests for 5 s" in body["error"]["message"]


def test_a_switch_that_fails_lets_nobody_wait(world: World) -> None:
    world.holds("s-else")

    def fail(target: str) -> None:
        world.holds(None, target)
        world.loop.call_later(0.5, world.holds, "s-else")

    world.on_switch = fail
    status, body, _ = world.chat("asks")
    assert (status, len(world.asked)) == (503, 1)
    assert "the switch to it failed" in body["error"]["message"]


def test_a_model_that_comes_back_is_not_kept_away(world: World) -> None:
    """Its breaker opened before it went; what answers within a second of its return is the model."""
    world.holds("s-refuses")
    world.modes["refuses"] = "500"
    assert world.chat("refuses")[0] == 500
    assert world.chat("refuses")[0] == 429, "its breaker is open"
    world.modes.clear()
    world.holds("s-else")
    assert world.chat("refuses")[0] == 503
    world.holds("s-refuses")
    assert world.says("refuses") == "refuses"


def test_other_routes_are_looked_at_as_well(world: World) -> None:
    world.holds("s-else")
    for path, body in (
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"max_tokens": 5}),
    ):
        status, answer, headers = world.chat("refuses", path, **body)
        assert (status, headers.get("retry-after")) == (503, "7"), (path, answer)
    assert world.hits == {}


def test_a_hanging_answer_is_ended_with_the_work_behind_it(world: World) -> None:
    world.modes["spare"] = "hang"
    status, body, _ = world.chat("spare")
    assert (status, body["error"]["code"], body["error"]["type"]) == (504, "504", "timeout_error")
    assert world.left.acquire(timeout=20), "the backend was left alone"
    assert world.hits == {"spare": 1}


def test_an_endless_stream_is_ended_with_an_error_in_it(world: World) -> None:
    world.modes["spare"] = "slow"
    status, text, _ = world.chat("spare", stream=True)
    events = text.strip().split("\n\n")
    assert status == 200
    assert json.loads(events[0].removeprefix("data: "))["choices"]
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "504"
    assert events[-1] == "data: [DONE]"
    assert world.left.acquire(timeout=20), "the backend was left alone"
