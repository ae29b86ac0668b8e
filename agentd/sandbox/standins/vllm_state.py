"""The state behind the stand-in vLLM's endpoints: requests in work, sleep and pause."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

from agentd.sandbox.standins.behaviour import Behaviour
from agentd.sandbox.standins.engine import Engine


class Api:
    """The state behind the endpoints. `running` counts requests in work, `waiting` those queued while asleep."""

    def __init__(self, served_name: str, flags: Mapping[str, str], behaviour: Behaviour, engine: Engine) -> None:
        self.model = f"not-{served_name}" if behaviour.fail == "wrong-name" else served_name
        self.key = flags.get("--api-key") or os.environ.get("VLLM_API_KEY", "")
        self.dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE") == "1" and "--enable-sleep-mode" in flags
        self.max_model_len = int(flags.get("--max-model-len") or 4096)
        self.behaviour = behaviour
        self.engine = engine
        self.engine_pid = 0
        self.engine_dead = False
        self.draining = False
        self.sleep_level: int | None = None
        self.paused = False
        self.running = 0
        self.waiting = 0
        self.finished = 0
        self.generation = 0
        """Grows with every abort; a request that sees it change stops."""
        self.changed = threading.Condition()

    def begin(self) -> int:
        """Enter the engine, waiting silently while it sleeps; the generation to watch for an abort."""
        with self.changed:
            self.waiting += 1
            while self.sleep_level is not None:
                self.changed.wait()
            self.waiting -= 1
            self.running += 1
            return self.generation

    def end(self) -> None:
        with self.changed:
            self.running -= 1
            self.finished += 1
            self.changed.notify_all()

    def wait_idle(self, seconds: float | None) -> bool:
        """Until no request runs; None waits for ever, as vLLM's mode=wait does."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.running, seconds)

    def pause(self, mode: str) -> None:
        self.paused = True
        self._quiesce(mode)

    def _quiesce(self, mode: str) -> None:
        if mode == "abort":
            with self.changed:
                self.generation += 1
                self.changed.notify_all()
        if mode != "keep":
            self.wait_idle(None)

    def resume(self) -> None:
        self.paused = False

    def sleep(self, level: int, mode: str) -> None:
        with self.changed:
            self.sleep_level = level
        self._quiesce(mode)
        if level and self.behaviour.fail != "sleep-keeps-memory":
            self.engine.resize(self.engine_pid, self.behaviour.sleep_vram_bytes)

    def wake(self, tags: list[str]) -> str | None:
        """Take the memory back; an error text when it is not there."""
        if self.behaviour.fail == "wake-500":
            return "CUDA Error: out of memory at cumem_allocator.cpp"
        memory = self.engine.memory
        if memory is not None and memory.free() + self.behaviour.sleep_vram_bytes < self.engine.size:
            return "CUDA Error: out of memory at cumem_allocator.cpp"
        self.engine.resize(self.engine_pid, self.engine.size)
        with self.changed:
            if not tags or "kv_cache" in tags:
                self.sleep_level = None
                self.paused = False
                self.changed.notify_all()
        return None

    def metrics(self) -> str:
        label = f'engine="0",model_name="{self.model}"'
        level = self.sleep_level
        states = {"awake": level is None, "weights_offloaded": level == 1, "discard_all": level == 2}
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{{{label}}} {float(self.running)}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{{{label}}} {float(self.waiting)}",
            "# TYPE vllm:engine_sleep_state gauge",
            *(f'vllm:engine_sleep_state{{{label},sleep_state="{s}"}} {float(on)}' for s, on in states.items()),
            "# TYPE vllm:kv_cache_usage_perc gauge",
            f"vllm:kv_cache_usage_perc{{{label}}} 0.0",
            "# TYPE vllm:request_success counter",
            f'vllm:request_success_total{{{label},finished_reason="length"}} {float(self.finished)}',
        ]
        return "\n".join(lines) + "\n"
