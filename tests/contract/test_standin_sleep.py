"""What the stand-in vLLM does with a GPU's memory when it sleeps and wakes, well and badly; by vLLM's sources."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servercontract import ASLEEP, AWAKE, PROMPT, complete, in_work, sleep_state
from standinvllm import standin
from vllmserver import Running

from agentd.sandbox.gpu import GIB, Memory

MIB = 1024**2
FULL = int(16 * GIB * 0.9)
RESIDUAL = 512 * MIB
GARBAGE = "!!!!"


@contextmanager
def sleeper(home: Path, *flags: str, **settings: Any) -> Iterator[tuple[Running, Memory]]:
    with standin(home, **settings) as (program, memory):
        yield program.start("--enable-sleep-mode", *flags, dev=True).serving(), memory


def held(memory: Memory) -> int:
    return sum(claim.size for claim in memory.claims() if claim.alive and claim.pid != 1)


def out_of_memory(server: Running, path: str = "/wake_up") -> None:
    status, error = server.error("POST", path)
    assert status == 500
    assert "out of memory" in error["message"]


def dead(server: Running, path: str, body: object = None) -> None:
    """The call ends the engine, and with it the server."""
    assert server.ask("POST", path, body)[0] == 500
    assert server.ended() == 0
    assert "illegal memory access" in server.log.read_text()


@pytest.mark.parametrize("level", [1, 2])
def test_a_sleep_gives_back_all_but_a_residual(tmp_path: Path, level: int) -> None:
    with sleeper(tmp_path) as (server, memory):
        assert held(memory) == FULL
        server.json("POST", f"/sleep?level={level}")
        assert held(memory) == RESIDUAL
        server.json("POST", "/wake_up")
        assert held(memory) == FULL


def test_level_1_says_the_same_after_it(tmp_path: Path) -> None:
    with sleeper(tmp_path) as (server, _):
        text = complete(server)
        server.json("POST", "/sleep?level=1")
        server.json("POST", "/wake_up")
        assert complete(server) == text


def test_level_2_talks_garbage_until_its_weights_are_read_again(tmp_path: Path) -> None:
    with sleeper(tmp_path) as (server, memory):
        text = complete(server)
        server.json("POST", "/sleep?level=2")
        assert server.json("POST", "/wake_up?tags=weights")["status"] == "sleeping"
        assert RESIDUAL < held(memory) < FULL
        assert server.json("POST", "/wake_up?tags=kv_cache")["status"] == "awake"
        assert held(memory) == FULL
        assert complete(server) == GARBAGE
        server.json("POST", "/collective_rpc", {"method": "reload_weights"})
        assert complete(server) == text


def test_weights_are_not_read_into_memory_that_is_away(tmp_path: Path) -> None:
    with sleeper(tmp_path) as (server, _):
        server.json("POST", "/sleep?level=2")
        dead(server, "/collective_rpc", {"method": "reload_weights"})


def test_a_sleeper_that_is_resumed_dies_of_the_next_request(tmp_path: Path) -> None:
    with sleeper(tmp_path) as (server, _):
        server.json("POST", "/sleep?level=1")
        server.json("POST", "/resume")
        dead(server, "/v1/completions", PROMPT)


def test_without_the_flag_a_sleep_frees_nothing(tmp_path: Path) -> None:
    with standin(tmp_path) as (program, memory):
        server = program.start(dev=True).serving()
        assert server.json("POST", "/sleep?level=1")["status"] == "sleeping"
        assert held(memory) == FULL
        server.json("POST", "/wake_up")
        assert complete(server) != GARBAGE


def test_from_0_33_a_paused_server_refuses_at_once(tmp_path: Path) -> None:
    with sleeper(tmp_path) as (server, _):
        server.json("POST", "/pause?mode=wait")
        server.json("POST", "/sleep?level=1&mode=abort")
        status, error = server.error("POST", "/v1/completions", PROMPT)
        assert (status, error["code"]) == (503, "engine_paused")
        server.json("POST", "/wake_up")
        assert complete(server)
        server.json("POST", "/sleep?level=1")
        assert not server.asked(PROMPT).answered(0.3), "asleep alone it is silent"
        server.json("POST", "/wake_up")


def test_a_version_without_pause(tmp_path: Path) -> None:
    with sleeper(tmp_path, version="0.11.0", token_seconds=0.05) as (server, memory):
        for path in ("/pause", "/resume", "/abort_requests"):
            assert server.ask("POST", path)[0] == 404
        assert server.ask("GET", "/is_paused")[0] == 404
        assert server.ask("POST", "/sleep?level=1") == (200, b"")
        assert server.json("GET", "/is_sleeping") == {"is_sleeping": True}
        assert held(memory) == RESIDUAL
        assert server.ask("POST", "/wake_up") == (200, b"")
        with in_work(server):
            dead(server, "/sleep?level=1")


def test_a_wake_without_room_maps_what_it_can_and_a_retry_goes_on(tmp_path: Path) -> None:
    with sleeper(tmp_path) as (server, memory):
        server.json("POST", "/sleep?level=1")
        memory.claim(1, 8 * GIB, held=True)
        out_of_memory(server)
        assert held(memory) == 16 * GIB - 8 * GIB - 256 * MIB, "whatever there was"
        assert server.json("GET", "/is_sleeping") == {"is_sleeping": True}
        memory.release(1)
        assert server.json("POST", "/wake_up")["status"] == "awake"
        assert held(memory) == FULL
        assert complete(server)


def test_a_sleep_during_which_another_takes_memory_loses_what_it_had(tmp_path: Path) -> None:
    with sleeper(tmp_path, sleep_seconds=0.5, vram_bytes=4 * GIB) as (server, memory):
        answer: list[tuple[int, bytes]] = []
        asleep = threading.Thread(target=lambda: answer.append(server.ask("POST", "/sleep?level=1")))
        asleep.start()
        server.until(lambda: server.json("GET", "/is_paused")["is_paused"])
        memory.claim(1, 8 * GIB, held=True)
        asleep.join()
        assert answer[0][0] == 500
        assert b"Memory usage increased after sleeping." in answer[0][1]
        assert held(memory) == RESIDUAL
        assert server.json("POST", "/wake_up")["status"] == "awake", "it does not know that it slept"
        dead(server, "/v1/completions", PROMPT)


def test_fail_sleep_keeps_memory(tmp_path: Path) -> None:
    with sleeper(tmp_path, fail="sleep-keeps-memory") as (server, memory):
        assert server.json("POST", "/sleep?level=1")["status"] == "sleeping"
        assert held(memory) == FULL


def test_fail_sleep_half(tmp_path: Path) -> None:
    with sleeper(tmp_path, fail="sleep-half") as (server, memory):
        assert server.json("POST", "/sleep?level=1")["status"] == "sleeping"
        assert held(memory) == FULL // 2


def test_fail_sleep_crash(tmp_path: Path) -> None:
    with sleeper(tmp_path, fail="sleep-crash") as (server, memory):
        dead(server, "/sleep?level=1")
        server.until(lambda: held(memory) == 0)


def test_fail_wake_500(tmp_path: Path) -> None:
    with sleeper(tmp_path, fail="wake-500") as (server, memory):
        server.json("POST", "/sleep?level=1")
        for _ in range(2):
            out_of_memory(server)
        assert held(memory) == RESIDUAL


def test_fail_wake_partial(tmp_path: Path) -> None:
    with sleeper(tmp_path, fail="wake-partial") as (server, memory):
        server.json("POST", "/sleep?level=1")
        out_of_memory(server)
        assert held(memory) == FULL // 2
        assert server.json("POST", "/wake_up")["status"] == "awake"
        assert complete(server) != GARBAGE


def test_fail_wake_garbage(tmp_path: Path) -> None:
    with sleeper(tmp_path, fail="wake-garbage") as (server, _):
        text = complete(server)
        server.json("POST", "/sleep?level=1")
        assert server.json("POST", "/wake_up")["status"] == "awake"
        assert server.ask("GET", "/health")[0] == 200
        assert text != complete(server) == GARBAGE


def test_a_sleep_and_a_wake_take_as_long_as_they_are_told(tmp_path: Path) -> None:
    with sleeper(tmp_path, sleep_seconds=0.3, wake_seconds=0.3) as (server, _):
        for path, state in (("/sleep?level=1", ASLEEP[1]), ("/wake_up", AWAKE)):
            with pytest.raises(TimeoutError):
                server.ask("POST", path, timeout=0.1)
            assert sleep_state(server) != state
            reaches(server, state)


def reaches(server: Running, state: dict[str, float]) -> None:
    server.until(lambda: sleep_state(server) == state)
