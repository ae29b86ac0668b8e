"""The stand-in backend: OpenAI's protocol when all is well, and every way of failing that a proof asks for."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from agentd.adapters.gateway_asking import GatewayAsker
from agentd.core.gateway.asking import Answer, Question
from agentd.sandbox.standins.backend import Backend


def root(backend: Backend) -> str:
    return backend.url.removesuffix("/v1")


async def ask(
    backend: Backend, model: str = "m", *, tag: str = "t", stream: bool = False, timeout: float = 5
) -> Answer:
    return await GatewayAsker(root(backend), "").ask(Question(model, tag, stream=stream), timeout=timeout)


async def post(backend: Backend, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    """On a connection of its own, as any client would."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(backend.host, backend.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
    answer = json.loads(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return int(head.split(" ")[1]), answer


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(500):
        if await check():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen in time")


async def test_an_answer_has_words_and_usage() -> None:
    async with Backend() as backend:
        backend.behave("m", tokens=4, prompt_tokens=7)
        answer = json.loads((await ask(backend)).text)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "w0 w1 w2 w3"}
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}


async def test_completions_embeddings_and_models() -> None:
    async with Backend(models=["a", "b"]) as backend:
        completion = await post(backend, "/v1/completions", {"model": "m", "prompt": "hello"})
        embedding = await post(backend, "/v1/embeddings", {"model": "m", "input": "hello"})
        models = await GatewayAsker(root(backend), "").models()
    assert completion[1]["choices"][0]["text"] == "w0 w1 w2"
    assert embedding[1]["data"][0]["embedding"] == [0.1, 0.2, 0.3]
    assert [row["id"] for row in json.loads(models.text)["data"]] == ["a", "b"]


async def test_a_stream_says_a_chunk_for_each_token_and_ends() -> None:
    async with Backend() as backend:
        backend.behave("m", tokens=5)
        answer = await ask(backend, stream=True)
    assert (answer.ok, len(answer.events), answer.done) == (True, 5, True)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_a_failure_has_its_status_and_an_error(status: int) -> None:
    async with Backend() as backend:
        backend.behave("m", fail=status, retry_after=7)
        answer = await ask(backend)
    assert (answer.status, answer.headers["retry-after"]) == (status, "7")
    assert json.loads(answer.text)["error"]["code"] == str(status)


async def test_a_prompt_that_is_too_long() -> None:
    async with Backend() as backend:
        backend.behave("m", fail=400, code="context_length_exceeded")
        error = json.loads((await ask(backend)).text)["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    assert "maximum context length" in error["message"]


@pytest.mark.parametrize("values", [{"hang": "answer"}, {"hang": "chunk"}, {"stall_after": 2, "tokens": 5}])
async def test_it_is_silent_until_the_other_side_leaves(values: Mapping[str, Any]) -> None:
    async with Backend() as backend:
        backend.behave("m", **values)
        asking = asyncio.ensure_future(ask(backend, stream=True, timeout=0.3))
        await backend.wait_hits(1)
        answer = await asking
        hit = backend.hits("m")[0]
        await eventually(lambda: asyncio.sleep(0, hit.left > 0))
    assert answer.broken == "no whole answer within 0.3 s"
    assert (answer.status, len(answer.events)) == {
        "answer": (0, 0),
        "chunk": (200, 0),
        "": (200, 2),
    }[str(values.get("hang", ""))]
    assert hit.left > hit.at


async def test_a_slow_stream_has_its_pauses() -> None:
    async with Backend() as backend:
        backend.behave("m", every=0.1, tokens=3)
        began = time.monotonic()
        answer = await ask(backend, stream=True)
    assert answer.ok
    assert time.monotonic() - began >= 0.3
    assert answer.events[1] - answer.events[0] > 0.05


async def test_it_refuses_and_comes_back_on_the_same_port() -> None:
    async with Backend() as backend:
        port = backend.port
        await backend.refuse()
        refused = await ask(backend)
        await backend.accept()
        again = await ask(backend)
    assert (refused.status, backend.port) == (0, port)
    assert "refused" in refused.broken
    assert again.ok


async def test_a_rate_limit_of_its_own() -> None:
    async with Backend() as backend:
        backend.behave("m", rate=2)
        statuses = [(await ask(backend)).status for _ in range(4)]
        after = int((await ask(backend)).headers["retry-after"])
    assert statuses == [200, 200, 429, 429]
    assert 1 <= after <= 60


async def test_hits_are_counted_by_model_and_tag_with_times() -> None:
    async with Backend() as backend:
        for model, tag in (("a", "x"), ("b", "x"), ("a", "y")):
            await ask(backend, model, tag=tag)
        assert [hit.tag for hit in backend.hits("a")] == ["x", "y"]
        assert [hit.model for hit in backend.hits(tag="x")] == ["a", "b"]
        times = [hit.at for hit in backend.hits()]
        backend.reset()
        assert backend.hits() == []
    assert times == sorted(times)


async def test_a_tag_has_its_own_behaviour() -> None:
    async with Backend() as backend:
        backend.behave("m", fail=500)
        backend.behave("m", tag="good")
        backend.behave("", tag="bad", fail=401)
        statuses = [(await ask(backend, tag=tag)).status for tag in ("good", "bad", "other")]
    assert statuses == [200, 401, 500]


async def test_an_unknown_behaviour_is_refused() -> None:
    async with Backend() as backend:
        with pytest.raises(ValueError, match="unknown: fial; there are: "):
            backend.behave("m", fial=500)
        assert (await post(backend, "/control", {"model": "m", "fial": 1}))[0] == 400


async def test_it_is_told_over_http() -> None:
    async with Backend() as backend:
        await post(backend, "/control", {"model": "m", "fail": 503})
        failed = await ask(backend)
        await post(backend, "/control", {})
        well = await ask(backend)
        await post(backend, "/control", {"refuse": 0.2})

        async def is_ok(wanted: bool) -> bool:
            return (await ask(backend)).ok == wanted

        await eventually(lambda: is_ok(False))
        await eventually(lambda: is_ok(True))
    assert (failed.status, well.status) == (503, 200)


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "agentd.sandbox.standins.backend"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{url}/models", timeout=5) as answer:
                assert json.load(answer)["object"] == "list"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
