"""What the stand-in vLLM has mapped on its GPUs: everything, what a sleeper keeps, or what a failed wake got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentd.sandbox.gpu import Memory
from agentd.sandbox.standins.behaviour import Behaviour

WEIGHTS = 0.6
"""Share of the memory that is weights; the rest is the KV cache."""
TAGS = frozenset({"weights", "kv_cache"})
OUT_OF_MEMORY = "CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the memory of one GPU."""

    pid: int
    gpu: int
    size: int
    """Bytes when everything is mapped."""


class Mapping:
    """Sizes are per GPU. Without simulated memory (no sandbox) everything fits and nothing is counted."""

    def __init__(self, behaviour: Behaviour, gpus: Sequence[int], utilization: float) -> None:
        self._behaviour = behaviour
        self.gpus = tuple(gpus)
        self.utilization = utilization
        self.memory = Memory.from_environment()
        totals = [card.total for card in self.memory.cards()] if self.memory else []
        self.totals = {gpu: totals[gpu] for gpu in self.gpus} if self.memory else dict.fromkeys(self.gpus, 0)
        self.sizes = {gpu: behaviour.vram_bytes or int(total * utilization) for gpu, total in self.totals.items()}
        self._held: tuple[Holder, ...] = ()
        self._failed_once = False

    def holders(self, pids: Sequence[int]) -> tuple[Holder, ...]:
        """`pids`: the engine's, then those of its workers, if it has any."""
        workers = pids[1:] or pids
        return tuple(Holder(pid, gpu, self.sizes[gpu]) for pid, gpu in zip(workers, self.gpus, strict=False))

    def hold(self, holders: tuple[Holder, ...]) -> None:
        self._held = holders

    def free(self) -> dict[int, int]:
        """Bytes, by GPU."""
        return {gpu: self.memory.free(gpu) for gpu in self.gpus} if self.memory else {}

    def take(self, size: int | float) -> None:
        """Map so many bytes on each GPU, or this share of everything."""
        for holder in self._held:
            self._resize(holder, int(holder.size * size) if isinstance(size, float) else size)

    def suspend(self) -> None:
        """Keep what a sleeper keeps, on every GPU."""
        fail = self._behaviour.fail
        for holder in self._held:
            if fail == "sleep-half":
                self._resize(holder, holder.size // 2)
            elif fail != "sleep-keeps-memory":
                self._resize(holder, self._behaviour.sleep_vram_bytes)

    def resume(self, mapped: frozenset[str]) -> str:
        """Map these tags; an error, and as much as there was room for, when that is less. "" when all is mapped."""
        share = WEIGHTS * ("weights" in mapped) + (1 - WEIGHTS) * ("kv_cache" in mapped)
        error = ""
        for holder in self._held:
            wanted = holder.size if mapped == TAGS else max(self._behaviour.sleep_vram_bytes, int(holder.size * share))
            room = self._claimed(holder) + (self.memory.free(holder.gpu) if self.memory else wanted)
            if self._behaviour.fail == "wake-partial" and not self._failed_once:
                room = wanted // 2
            if room < wanted:
                error = OUT_OF_MEMORY
            self._resize(holder, min(room, wanted))
        self._failed_once = self._failed_once or bool(error)
        return error

    def _claimed(self, holder: Holder) -> int:
        claims = self.memory.claims() if self.memory else []
        return sum(claim.size for claim in claims if (claim.pid, claim.gpu) == (holder.pid, holder.gpu))

    def _resize(self, holder: Holder, size: int) -> None:
        if self.memory is not None:
            self.memory.claim(
                holder.pid,
                size,
                gpu=holder.gpu,
                release_seconds=self._behaviour.vram_release_seconds,
                stuck=self._behaviour.fail == "stuck-memory",
            )
