"""What agentd relies on of a running vLLM server: one suite for the stand-in and for the real one on the CPU.

Subclass `ServerContract` and give it a fixture `served`: a server with an API key, in development mode, with
--max-model-len 1024. Everything here is what vLLM 0.32.0 does when it is asked. How it starts and
ends is in lifecontract.py.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from vllmserver import Asked, Running

PROMPT: dict[str, Any] = {"model": "qwen", "prompt": "i am", "max_tokens": 4, "temperature": 0}
LONG: dict[str, Any] = {"model": "qwen", "prompt": "i am", "max_tokens": 200, "temperature": 1, "ignore_eos": True,
                        "n": 80}  # fmt: skip
"""Runs for more than a second: `n` keeps the real one busy; the stand-in, which gives one answer, has its pace."""
LABELS = 'engine="0",model_name="qwen"'
SILENCE = 1.0
"""Seconds after which a request that is answered in a hundredth of one counts as hanging."""


@contextlib.contextmanager
def in_work(server: Running, **more: Any) -> Iterator[Asked]:
    """A long request that the engine is at."""
    asked = server.asked({**LONG, **more})
    server.until(lambda: server.running_requests() > 0)
    yield asked
    asked.leave()


def sleep_state(server: Running) -> dict[str, float]:
    gauge = server.gauges()["vllm:engine_sleep_state"]
    return {labels.partition('sleep_state="')[2].rstrip('"'): value for labels, value in gauge.items()}


AWAKE = {"awake": 1.0, "weights_offloaded": 0.0, "discard_all": 0.0}
ASLEEP = {level: {"awake": 0.0, "weights_offloaded": float(level == 1), "discard_all": float(level == 2)}
          for level in (0, 1, 2)}  # fmt: skip


def complete(server: Running) -> str:
    return str(server.json("POST", "/v1/completions", PROMPT)["choices"][0]["text"])


class ServerContract:
    @pytest.fixture
    def server(self, served: Running) -> Iterator[Running]:
        """The server of the class, awake, unpaused and idle again after each test."""
        yield served
        for path in ("/wake_up", "/resume"):
            served.ask("POST", path)
        served.ask("POST", "/abort_requests", {})
        served.until(lambda: served.json("POST", "/v1/completions", PROMPT))

    # -- what every user asks -----------------------------------------------------------------------------------------

    def test_health_and_version(self, server: Running) -> None:
        assert server.ask("GET", "/health", headers={}) == (200, b"")
        assert set(server.json("GET", "/version")) == {"version"}

    def test_models(self, server: Running) -> None:
        listed = server.json("GET", "/v1/models")
        (card,) = listed["data"]
        assert listed["object"] == "list"
        assert (card["id"], card["object"], card["owned_by"], card["parent"]) == ("qwen", "model", "vllm", None)
        assert card["max_model_len"] == 1024

    def test_completion(self, server: Running) -> None:
        answer = server.json("POST", "/v1/completions", PROMPT)
        assert (answer["object"], answer["model"]) == ("text_completion", "qwen")
        assert answer["id"].startswith("cmpl-")
        assert answer["choices"][0]["finish_reason"] == "length"
        usage = {key: answer["usage"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
        assert usage == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}

    def test_at_temperature_0_the_same_prompt_gives_the_same_text(self, server: Running) -> None:
        texts = {complete(server) for _ in range(4)}
        assert len(texts) == 1
        assert texts.pop().strip()

    def test_chat(self, server: Running) -> None:
        body = {"model": "qwen", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        answer = server.json("POST", "/v1/chat/completions", body)
        assert answer["object"] == "chat.completion"
        choice = answer["choices"][0]
        assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "length")
        assert choice["message"]["content"]

    def test_without_a_model_in_the_request_its_own_answers(self, server: Running) -> None:
        assert server.json("POST", "/v1/completions", {"prompt": "i am", "max_tokens": 1})["model"] == "qwen"

    @pytest.mark.parametrize("chat", [False, True])
    def test_streams(self, server: Running, chat: bool) -> None:
        asked = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "i am"}
        path = "/v1/chat/completions" if chat else "/v1/completions"
        options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 3, "temperature": 0}
        status, data = server.ask("POST", path, {"model": "qwen", **asked, **options})
        assert status == 200
        events = [line.removeprefix("data: ") for line in data.decode().split("\n\n") if line]
        assert events.pop() == "[DONE]"
        chunks = [json.loads(event) for event in events]
        assert {c["object"] for c in chunks} == {"chat.completion.chunk" if chat else "text_completion"}
        usage = chunks.pop()
        assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 3)
        if chat:
            assert chunks.pop(0)["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "length"]
        assert all(c["choices"][0]["delta"]["content"] if chat else c["choices"][0]["text"] for c in chunks)

    @pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
    def test_another_model_s_name_is_not_found(self, server: Running, path: str) -> None:
        body = {"model": "other", "prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}
        status, error = server.error("POST", path, body)
        message = "The model `other` does not exist. Valid aliases: qwen."
        assert (status, error) == (404, {"message": message, "type": "NotFoundError", "param": "model", "code": 404})

    def test_the_key_guards_v1_alone(self, server: Running) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert server.ask("GET", "/v1/models", headers=headers) == (401, b'{"error":"Unauthorized"}')
            assert server.ask("POST", "/v1/completions", PROMPT, headers)[0] == 401
        for path in ("/health", "/version", "/metrics", "/load", "/is_sleeping", "/is_paused"):
            assert server.ask("GET", path, headers={})[0] == 200, path

    def test_bad_requests(self, server: Running) -> None:
        status, error = server.error("POST", "/v1/completions", {**PROMPT, "max_tokens": 100_000})
        assert (status, error["type"], error["param"]) == (400, "BadRequestError", "max_tokens")
        assert server.ask("POST", "/v1/completions")[0] == 400
        assert server.ask("GET", "/v1/completions") == (405, b'{"detail":"Method Not Allowed"}')
        assert server.ask("GET", "/nothing") == (404, b'{"detail":"Not Found"}')

    def test_metrics(self, server: Running) -> None:
        gauges = server.gauges()
        assert gauges["vllm:num_requests_running"] == {LABELS: 0.0}
        assert gauges["vllm:num_requests_waiting"] == {LABELS: 0.0}
        assert set(gauges["vllm:num_requests_waiting_by_reason"]) == {
            f'{LABELS},reason="{reason}"' for reason in ("capacity", "deferred")
        }
        assert set(gauges["vllm:kv_cache_usage_perc"]) == {LABELS}
        assert any(labels.startswith(LABELS[:10]) for labels in gauges["vllm:request_success_total"])
        assert sleep_state(server) == AWAKE

    def test_load_is_nought_unless_it_was_asked_to_count(self, server: Running) -> None:
        with in_work(server):
            assert server.json("GET", "/load") == {"server_load": 0}

    # -- pause --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("mode", ["wait", "abort", "keep"])
    def test_a_paused_server_takes_requests_and_is_silent(self, server: Running, mode: str) -> None:
        assert server.json("POST", f"/pause?mode={mode}") == {"status": "paused"}
        assert server.json("GET", "/is_paused") == {"is_paused": True}
        assert server.json("GET", "/is_sleeping") == {"is_sleeping": True}, (
            "it tells a pause from a sleep by the metric"
        )
        assert sleep_state(server) == AWAKE
        self.hangs_until(server, "/resume")
        assert server.json("GET", "/is_paused") == {"is_paused": False}

    def hangs_until(self, server: Running, path: str) -> None:
        asked = server.asked(PROMPT)
        assert not asked.answered(SILENCE)
        assert sum(sum(server.gauges()[f"vllm:num_requests_{which}"].values()) for which in ("running", "waiting")) == 0
        assert server.ask("GET", "/health")[0] == 200
        server.json("POST", path)
        assert asked.answer()["choices"][0]["text"] == complete(server)

    def test_pause_with_abort_ends_what_runs_with_what_it_has(self, server: Running) -> None:
        with in_work(server) as asked:
            server.json("POST", "/pause?mode=abort")
            answer = asked.answer()
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"abort"}
        assert answer["usage"]["completion_tokens"] < LONG["max_tokens"] * len(answer["choices"])

    def test_pause_with_wait_returns_when_what_runs_has_ended(self, server: Running) -> None:
        with in_work(server) as asked:
            server.json("POST", "/pause?mode=wait")
            answer = asked.answer(5.0)
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}

    def test_pause_with_keep_freezes_what_runs(self, server: Running) -> None:
        with in_work(server) as asked:
            server.json("POST", "/pause?mode=keep")
            assert not asked.answered(3.0)
            assert server.running_requests() > 0, "the gauge stands still as well"
            server.json("POST", "/resume")
            assert {choice["finish_reason"] for choice in asked.answer()["choices"]} == {"length"}

    def test_an_abort_does_not_pause(self, server: Running) -> None:
        with in_work(server) as asked:
            answer = server.json("POST", "/abort_requests", {})
            assert answer["status"] == "aborted"
            assert answer["aborted"] > 0
            assert {choice["finish_reason"] for choice in asked.answer()["choices"]} == {"abort"}
        assert complete(server)
        assert server.error("POST", "/abort_requests")[0] == 400

    # -- sleep --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("level", [0, 1, 2])
    def test_a_sleeper_looks_healthy_and_is_silent(self, server: Running, level: int) -> None:
        assert server.json("POST", f"/sleep?level={level}") == {"status": "sleeping", "level": level}
        assert server.json("GET", "/is_sleeping") == {"is_sleeping": True}
        assert server.json("GET", "/is_paused") == {"is_paused": True}
        assert sleep_state(server) == ASLEEP[level]
        assert server.json("GET", "/v1/models")["data"][0]["id"] == "qwen"
        assert server.json("POST", f"/sleep?level={level}")["status"] == "sleeping", "twice is once"
        self.hangs_until(server, "/wake_up")
        assert server.json("GET", "/is_sleeping") == {"is_sleeping": False}
        assert sleep_state(server) == AWAKE

    def test_wakes_by_tags(self, server: Running) -> None:
        text = complete(server)
        server.json("POST", "/sleep?level=2&mode=abort")
        assert server.json("POST", "/wake_up?tags=nonsense") == {"status": "sleeping", "tags": ["nonsense"]}
        assert server.json("POST", "/wake_up?tags=weights") == {"status": "sleeping", "tags": ["weights"]}
        assert server.json("GET", "/is_sleeping") == {"is_sleeping": True}
        assert sleep_state(server) == ASLEEP[2]
        assert server.json("POST", "/collective_rpc", {"method": "reload_weights"}) == {"results": [None]}
        assert server.json("POST", "/wake_up?tags=kv_cache") == {"status": "awake", "tags": ["kv_cache"]}
        assert server.json("POST", "/reset_prefix_cache") == {"success": True}
        assert complete(server) == text

    def test_waking_clears_a_pause_and_does_no_harm_to_who_is_awake(self, server: Running) -> None:
        server.json("POST", "/pause?mode=wait")
        assert server.json("POST", "/sleep?level=1&mode=abort")["status"] == "sleeping"
        assert server.json("POST", "/wake_up") == {"status": "awake", "tags": None}
        assert server.json("GET", "/is_paused") == {"is_paused": False}
        assert server.json("POST", "/wake_up") == {"status": "awake", "tags": None}
        assert complete(server)

    def test_resuming_a_sleeper_is_not_waking_it(self, server: Running) -> None:
        server.json("POST", "/sleep?level=1")
        assert server.json("POST", "/resume") == {"status": "resumed"}
        assert server.json("GET", "/is_paused") == {"is_paused": False}
        assert server.json("GET", "/is_sleeping") == {"is_sleeping": True}

    def test_sleep_with_a_request_in_work_aborts_or_waits(self, server: Running) -> None:
        for mode, reason in (("abort", "abort"), ("wait", "length")):
            with in_work(server) as asked:
                server.json("POST", f"/sleep?level=1&mode={mode}")
                assert {choice["finish_reason"] for choice in asked.answer(5.0)["choices"]} == {reason}
            server.json("POST", "/wake_up")

    def test_calls_into_the_engine(self, server: Running) -> None:
        assert server.json("POST", "/collective_rpc", {"method": "reload_weights"}) == {"results": [None]}
        status, error = server.error("POST", "/collective_rpc", {})
        assert (status, error["message"]) == (400, "Missing 'method' in request body")
        status, error = server.error("POST", "/collective_rpc", {"method": "nonsense"})
        assert (status, error["type"]) == (500, "InternalServerError")
        assert {"vllm_config", "vllm_env", "system_env"} <= set(server.json("GET", "/server_info"))

    @pytest.mark.parametrize("path", ["/pause?mode=bogus", "/sleep?level=7", "/sleep?level=1&mode=bogus"])
    def test_what_it_does_not_know_is_a_bad_request(self, server: Running, path: str) -> None:
        assert server.error("POST", path)[0] == 400
        assert complete(server)
