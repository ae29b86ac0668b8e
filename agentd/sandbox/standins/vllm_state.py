"""The state behind the stand-in vLLM's endpoints: requests in work, pause, sleep, and an engine that can die of them.

What the CPU build of vLLM 0.32 shows is held to by the suite in tests/servercontract.py; what needs a GPU follows its
sources.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping as Table

from agentd.sandbox.standins import vllm_log
from agentd.sandbox.standins.behaviour import Behaviour
from agentd.sandbox.standins.mapping import TAGS, Mapping

ILLEGAL = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
GREW = "Memory usage increased after sleeping."


class EngineDead(Exception):
    """The engine has ended, or has just been ended by this request."""


class Stopped(Exception):
    """The server was told to end; what runs gets no answer any more."""


class EngineFailure(Exception):
    """A call into the engine failed; the text is what the server answers with 500."""


class Api:
    """One lock, `changed`, guards everything that requests and admin calls share."""

    def __init__(self, served_name: str, flags: Table[str, str], behaviour: Behaviour, mapping: Mapping) -> None:
        self.model = f"not-{served_name}" if behaviour.fail == "wrong-name" else served_name
        self.root = served_name
        self.key = flags.get("--api-key") or os.environ.get("VLLM_API_KEY", "")
        self.dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE", "0") not in ("", "0")
        self.tracks_load = "--enable-server-load-tracking" in flags
        self.max_model_len = int(flags.get("--max-model-len") or 4096)
        self.world_size = len(mapping.gpus)
        self.behaviour = behaviour
        self.changed = threading.Condition()
        self.engine_pid = 0
        self.engine_dead = False
        self.draining = False
        self.stopped = False
        self.running = 0
        self.finished = 0
        self.generation = 0
        """Grows with every abort; a request that sees it change stops."""
        self.paused = False
        self.frozen = False
        """Paused with mode=keep: what runs stands still."""
        self.refusing = False
        """Paused by /pause, from 0.33 on: new requests get 503. Before, and asleep, they wait without a word."""
        self.asleep: frozenset[str] = frozenset()
        """What the engine knows to be away."""
        self.level: int | None = None
        """Of the last sleep; None once awake. Level 0 is a pause."""
        self._may_sleep = "--enable-sleep-mode" in flags
        self._mapping = mapping
        self._mapped = TAGS
        self._garbage = False

    @property
    def old(self) -> bool:
        """Before there was a pause: a sleep does not stop the scheduler."""
        return not self.behaviour.at_least("0.12.0")

    # -- requests ---------------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Enter the engine, waiting silently while it is paused; the generation to watch. Raises EngineDead."""
        with self.changed:
            self.changed.wait_for(lambda: not self.paused or self.engine_dead or self.stopped)
            if self.stopped:
                raise Stopped
            if self._mapped != TAGS:
                self._die(ILLEGAL)
            if self.engine_dead:
                raise EngineDead
            self.running += 1
            return self.generation

    def end(self) -> None:
        with self.changed:
            self.running -= 1
            self.finished += 1
            self.changed.notify_all()

    def goes_on(self, generation: int) -> bool:
        """Whether the request may make another token, at the set pace; False: it was aborted. Raises Stopped."""

        def over() -> bool:
            return self.stopped or self.generation != generation

        seconds = self.behaviour.token_seconds
        if seconds or self.frozen:
            with self.changed:
                self.changed.wait_for(over, seconds)
                self.changed.wait_for(lambda: over() or not self.frozen)
        if self.stopped:
            raise Stopped
        return self.generation == generation

    def text(self) -> str:
        return "!" if self._garbage else f"this is {self.model} speaking"

    def wait_idle(self, seconds: float | None) -> bool:
        """Until no request runs; None waits for ever, as vLLM's mode=wait does."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.running, seconds)

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def abort(self) -> int:
        """End what runs with what it has; how many."""
        with self.changed:
            self.generation += 1
            self.changed.notify_all()
            return self.running

    # -- pause and sleep --------------------------------------------------------------------------------------------

    def pause(self, mode: str) -> None:
        self.refusing = self.behaviour.at_least("0.33.0") and mode != "keep"
        self._quiesce(mode)

    def _quiesce(self, mode: str) -> None:
        with self.changed:
            self.paused = True
            self.frozen = mode == "keep"
        if mode == "abort":
            self.abort()
        if mode != "keep":
            self.wait_idle(None)

    def resume(self) -> None:
        """Also while asleep, and then the next request runs on memory that is not there."""
        with self.changed:
            self.paused = self.frozen = self.refusing = False
            self.changed.notify_all()

    def sleep(self, level: int, mode: str) -> None:
        """Raises EngineFailure, EngineDead."""
        if self.old:
            if self.running:
                self._die(ILLEGAL)
                raise EngineDead
        else:
            self._quiesce(mode)
        if level and not self.asleep:
            self._suspend(level)
        self.level = level

    def _suspend(self, level: int) -> None:
        if self.behaviour.fail == "sleep-crash":
            self._die(ILLEGAL)
            raise EngineDead
        before = self._mapping.free()
        time.sleep(self.behaviour.sleep_seconds)
        if self._may_sleep:
            self._mapping.suspend()
            self._mapped = frozenset() if self.behaviour.fail != "sleep-keeps-memory" else TAGS
        if any(now < before[gpu] for gpu, now in self._mapping.free().items()):
            # The memory has gone, and the engine does not know that it sleeps.
            raise EngineFailure(f"Call to sleep method failed: {GREW}")
        self.asleep = TAGS
        self._garbage = self._garbage or (level == 2 and self._may_sleep)

    def wake(self, tags: list[str]) -> bool:
        """Whether it is fully awake now. Raises EngineFailure."""
        wanted = frozenset(tags) - {"scheduling"}
        if self.asleep and (wanted or not tags):
            if wanted - self.asleep:
                return False
            self._map(wanted or self.asleep)
        if not self.asleep:
            self.level = None
            self.resume()
        return not self.asleep

    def _map(self, tags: frozenset[str]) -> None:
        time.sleep(self.behaviour.wake_seconds)
        error = "CUDA Error: out of memory" if self.behaviour.fail == "wake-500" else ""
        if not error and self._may_sleep:
            error = self._mapping.resume((TAGS - self.asleep) | tags)
        if error:
            raise EngineFailure(f"Call to wake_up method failed: {error}")
        self.asleep -= tags
        self._mapped = TAGS - self.asleep
        self._garbage = self._garbage or self.behaviour.fail == "wake-garbage"

    def reload_weights(self) -> None:
        """What level 2 needs once its weights are mapped again. Raises EngineDead."""
        if "weights" not in self._mapped:
            self._die(ILLEGAL)
            raise EngineDead
        self._garbage = self.behaviour.fail == "wake-garbage"

    def _die(self, reason: str) -> None:
        """End the engine, as an error on the GPU does; the server notices by itself."""
        if not self.engine_dead:
            vllm_log.traceback("EngineCore", "core.py:1512", "EngineCore encountered a fatal error.", reason)
            self.engine_dead = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.engine_pid, signal.SIGKILL)

    # -- metrics ----------------------------------------------------------------------------------------------------

    def metrics(self) -> str:
        """Requests that wait because of a pause or a sleep are in no gauge: those follow the engine's steps."""
        label = f'engine="0",model_name="{self.model}"'
        level = self.level
        states = {"awake": level is None, "weights_offloaded": level == 1, "discard_all": level == 2}
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{{{label}}} {float(self.running)}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{{{label}}} 0.0",
            "# TYPE vllm:num_requests_waiting_by_reason gauge",
            *(f'vllm:num_requests_waiting_by_reason{{{label},reason="{r}"}} 0.0' for r in ("capacity", "deferred")),
            "# TYPE vllm:engine_sleep_state gauge",
            *(f'vllm:engine_sleep_state{{{label},sleep_state="{s}"}} {float(on)}' for s, on in states.items()),
            "# TYPE vllm:kv_cache_usage_perc gauge",
            f"vllm:kv_cache_usage_perc{{{label}}} 0.0",
            "# TYPE vllm:request_success_total counter",
            f'vllm:request_success_total{{{label},finished_reason="length"}} {float(self.finished)}',
        ]
        return "\n".join(lines) + "\n"
