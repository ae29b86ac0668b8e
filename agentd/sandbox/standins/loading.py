"""How the stand-in vLLM loads: its phases, what it writes in each, what it maps, and the ways in which it fails."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

from agentd.sandbox.gpu import GIB
from agentd.sandbox.standins.behaviour import Behaviour, Phase
from agentd.sandbox.standins.mapping import WEIGHTS, Mapping
from agentd.sandbox.standins.vllm_log import bare, progress, say

CONTEXT_BYTES = 256 * 1024**2
"""What a CUDA context takes before any weight is loaded."""
SHARES = {"starting": 0.2, "weights": 0.4, "profiling": 0.15, "graphs": 0.25}
"""Of load_seconds; the compilation has a time of its own."""
_PROFILING_SLACK = 64 * 1024**2
_SHARDS = 4


class LoadError(Exception):
    """The engine cannot start; the text is what it prints."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line says about the load."""

    model: str
    eager: bool
    """--enforce-eager: neither compilation nor graphs."""


def load(mapping: Mapping, behaviour: Behaviour, plan: Plan) -> None:
    """Take the memory, in the time and with the failures that were asked for. Raises LoadError."""
    _Load(mapping, behaviour, plan).run()


class _Load:
    def __init__(self, mapping: Mapping, behaviour: Behaviour, plan: Plan) -> None:
        self._mapping = mapping
        self._behaviour = behaviour
        self._plan = plan
        self._who = "EngineCore" if len(mapping.gpus) < 2 else "Worker_TP0"

    def run(self) -> None:
        say("EngineCore", "core.py:133", f"Initializing a V1 LLM engine (v{self._behaviour.version}) with config: "
            f"model='{self._plan.model}'")  # fmt: skip
        baseline = self._check_free()
        self._mapping.take(CONTEXT_BYTES)
        self._pass("starting")
        began = time.monotonic()
        self._weights()
        if not self._plan.eager:
            self._compile()
        self._profile(baseline)
        if not self._plan.eager:
            self._graphs()
        while self._behaviour.fail == "never-ready":
            signal.pause()
        took = time.monotonic() - began
        say("EngineCore", "core.py:402", f"init engine (profile, create kv cache, warmup model) took {took:.2f} s")

    def _weights(self) -> None:
        self._say("gpu_model_runner.py:5040", f"Starting to load model {self._plan.model}...")
        seconds = SHARES["weights"] * self._behaviour.load_seconds
        progress("Loading safetensors checkpoint shards", 0, _SHARDS)
        for shard in range(_SHARDS):
            if shard == _SHARDS // 2:
                self._stall("weights")
                if self._behaviour.fail == "die-while-loading":
                    raise LoadError(self._behaviour.message or self._out_of_memory())
            _wait(seconds / _SHARDS)
            progress("Loading safetensors checkpoint shards", shard + 1, _SHARDS)
        self._mapping.take(WEIGHTS)
        self._say("default_loader.py:501", f"Loading weights took {seconds:.2f} seconds")
        gib = next(iter(self._mapping.sizes.values())) * WEIGHTS / GIB
        self._say("gpu_model_runner.py:5150", f"Model loading took {gib:.2f} GiB memory and {seconds:.6f} seconds")

    def _compile(self) -> None:
        self._say(
            "backends.py:1105", "Using cache directory: ~/.cache/vllm/torch_compile_cache for vLLM's torch.compile"
        )
        self._stall("compiling")
        seconds = self._behaviour.compile_seconds
        if self._behaviour.compile_cpu:
            _burn(seconds)
        else:
            _wait(seconds)
        self._say("backends.py:1167", f"Dynamo bytecode transform time: {seconds * 0.2:.2f} s")
        self._say("monitor.py:53", f"torch.compile took {seconds:.2f} s in total")

    def _profile(self, baseline: dict[int, int]) -> None:
        self._pass("profiling")
        self._check_profiling(baseline)
        self._mapping.take(1.0)
        gib = next(iter(self._mapping.sizes.values())) * (1 - WEIGHTS) / GIB
        self._say("gpu_worker.py:760", f"Available KV cache memory: {gib:.2f} GiB")
        say("EngineCore", "kv_cache_utils.py:2327", "GPU KV cache size: 131,072 tokens, Maximum concurrency for 4,096 "
            "tokens per request: 32.00x")  # fmt: skip

    def _graphs(self) -> None:
        seconds = SHARES["graphs"] * self._behaviour.load_seconds
        self._pass("graphs")
        bare("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|##########| 67/67 [00:05<00:00, 12.31it/s]")
        self._say("gpu_model_runner.py:6582", f"Graph capturing finished in {seconds:.0f} secs, took 0.25 GiB")

    def _pass(self, phase: Phase) -> None:
        self._stall(phase)
        _wait(SHARES[phase] * self._behaviour.load_seconds)

    def _stall(self, phase: Phase) -> None:
        while self._behaviour.stall == phase:
            signal.pause()

    def _say(self, place: str, text: str) -> None:
        say(self._who, place, text)

    def _check_free(self) -> dict[int, int]:
        free = self._mapping.free()
        for gpu, there in free.items():
            total, share = self._mapping.totals[gpu], self._mapping.utilization
            if there < max(total * share, self._mapping.sizes[gpu]):
                raise LoadError(
                    f"ValueError: Free memory on device cuda:{self._mapping.gpus.index(gpu)} ({there / GIB:.2f}/"
                    f"{total / GIB:.2f} GiB) on startup is less than desired GPU memory utilization ({share}, "
                    f"{total * share / GIB:.2f} GiB). Decrease GPU memory utilization or reduce GPU memory used by "
                    "other processes."
                )
        return free

    def _check_profiling(self, baseline: dict[int, int]) -> None:
        """Free memory must not grow while the engine measures what it may take."""
        for gpu, now in self._mapping.free().items():
            now += int(self._mapping.sizes[gpu] * WEIGHTS)
            if now > baseline[gpu] + _PROFILING_SLACK:
                raise LoadError(
                    f"AssertionError: Error in memory profiling. Initial free memory {baseline[gpu] / GIB:.2f} GiB, "
                    f"current free memory {now / GIB:.2f} GiB. This happens when other processes sharing the same "
                    "container release GPU memory while vLLM is profiling during initialization. To fix this, ensure "
                    "consistent GPU memory allocation or isolate vLLM in its own container."
                )

    def _out_of_memory(self) -> str:
        total = next(iter(self._mapping.totals.values()))
        return (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of "
            f"{total / GIB:.2f} GiB of which 0.31 GiB is free."
        )


def _wait(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)


def _burn(seconds: float) -> None:
    """Keep the processor busy, as a compiler does."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(10_000))
