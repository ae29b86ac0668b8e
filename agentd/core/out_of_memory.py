"""A failure for want of memory: of which memory, with which figures, and what would help. Pure.

The texts are those of vLLM 0.11 to 0.33 and of PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentd.core.quantities import told_bytes
from agentd.core.symptoms import complaints, is_routine, last_words
from agentd.types import UnitState

Kind = Literal["cuda", "startup-gate", "profiling", "kv-cache", "host", "cgroup"]
PASSING: frozenset[Kind] = frozenset({"startup-gate", "profiling"})
"""What passes by itself where memory was still on its way back: worth a second try."""

_GATE = re.compile(
    r"free memory on device ?\S* ?\((?P<free>[\d.]+)/(?P<total>[\d.]+) gib\).*less than"
    r"(?:.*\((?P<share>[\d.]+), (?P<wanted>[\d.]+) gib\))?",
    re.IGNORECASE,
)
_PROFILING = re.compile(
    r"error in memory profiling"
    r"(?:.*initial free memory (?P<before>[\d.]+) gib, current free memory (?P<after>[\d.]+) gib)?",
    re.IGNORECASE,
)
_KV_NONE = re.compile(r"no available memory for the cache blocks", re.IGNORECASE)
_KV_SHORT = re.compile(
    r"max seq len \((?P<length>\d+)\),? \(?(?P<needed>[\d.]+) gib kv cache is needed.*?"
    r"\((?P<left>[\d.]+) gib\)(?:.*?maximum model length is (?P<most>\d+))?",
    re.IGNORECASE,
)
_KV_TOKENS = re.compile(
    r"max seq len \((?P<length>\d+)\) is larger than the maximum number of tokens.*?\((?P<most>\d+)\)", re.IGNORECASE
)
_CUDA = re.compile(r"outofmemoryerror|cuda out of memory|cuda error: out of memory|cudamalloc failed", re.IGNORECASE)
_CPU_ALLOCATOR = re.compile(r"DefaultCPUAllocator|\bMemoryError\b")
_TRIED = re.compile(r"tried to allocate ([\d.]+ [KMG]iB)", re.IGNORECASE)
_CAPACITY = re.compile(r"total capac\w+ of ([\d.]+ [KMG]iB) of which ([\d.]+ [KMG]iB) is free", re.IGNORECASE)
_OTHERS = re.compile(r"\bProcess \d+ has ([\d.]+ [KMG]iB) memory in use")
_KERNEL = re.compile(r"\bOut of memory: Killed process|\boom-kill:|killed by the OOM killer", re.IGNORECASE)
_KERNEL_CGROUP = re.compile(r"Memory cgroup out of memory", re.IGNORECASE)

_WHERE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"warming up (?:sampler|pooler)"), "lower --max-num-seqs or --gpu-memory-utilization"),
    (
        # The part for images at work: its name alone also stands where it is loaded, and in the configuration.
        re.compile(
            r"embed_multimodal|get_multimodal_embeddings|execute_mm_encoder|dummy_mm|pixel_values|"
            r"\b(?:vision_tower|visual)\("
        ),
        "limit what one request may bring: --limit-mm-per-prompt, smaller images (a smaller shortest edge in "
        "--mm-processor-kwargs)",
    ),
    (
        re.compile(r"not enough GPU memory|in load_model|in load_weights"),
        "the weights do not fit: a quantized or smaller model, or more GPUs (--tensor-parallel-size)",
    ),
    (
        re.compile(r"in capture_model|[Cc]apturing CUDA graphs|in _capture"),
        "lower --gpu-memory-utilization, or capture fewer graphs (--max-num-seqs, --enforce-eager)",
    ),
)
"""Where it happened, the most telling first, and what makes that smaller. Looked for in tracebacks and errors: routine
lines tell the configuration at every start, and what went well."""
_LEAST_SHARE = 0.1
"""To advise a lower utilization than that helps nobody."""
_ANYWHERE = "lower --gpu-memory-utilization, --max-num-seqs or --max-model-len"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`said` and `advice` are clauses of one sentence, without a full stop."""

    kind: Kind
    said: str
    advice: str

    @property
    def sentence(self) -> str:
        return f"{self.said}; {self.advice}"


def diagnose(lines: Sequence[str], state: UnitState, beside: Sequence[str] = ()) -> Diagnosis | None:
    """None where memory was not the reason. `lines`: the journal of this run, oldest first; `beside`: who else holds
    memory on the GPU now, as "ollama.service (5.2G)"."""
    killed = _killed(lines, state)
    if killed is not None:
        return killed
    grave = complaints(lines)
    for look in (_gate, _profiling, _kv_cache):
        for line in reversed(grave):
            found = look(line, beside)
            if found is not None:
                return found
    if any(_CUDA.search(line) for line in grave):
        return _cuda(lines, grave, beside)
    if any(_CPU_ALLOCATOR.search(line) for line in grave):
        return Diagnosis("host", last_words(grave), "it needs more main memory than is free")
    return None


def _killed(lines: Sequence[str], state: UnitState) -> Diagnosis | None:
    """By the kernel. The unit's own limit is the one that was hit where there is one: systemd tells both alike."""
    cgroup = any(_KERNEL_CGROUP.search(line) for line in lines)
    if state.result != "oom-kill" and not cgroup and not any(_KERNEL.search(line) for line in lines):
        return None
    if state.memory_max is not None:
        said = f"it reached its limit of main memory (MemoryMax={told_bytes(state.memory_max)})"
        return Diagnosis("cgroup", said, f"raise MemoryMax= of {state.name}")
    if cgroup:
        return Diagnosis("cgroup", "it reached a limit of main memory", "raise MemoryMax= of its slice")
    return Diagnosis("host", "main memory ran out", "it needs more main memory than is free")


def _gate(line: str, beside: Sequence[str]) -> Diagnosis | None:
    found = _GATE.search(line)
    if found is None:
        return None
    free, total = float(found["free"]), float(found["total"])
    wanted = f", {found['wanted']}G wanted (--gpu-memory-utilization {found['share']})" if found["wanted"] else ""
    said = f"not enough free GPU memory ({free:g}G of {total:g}G free{wanted})"
    share = int(free / total * 100) / 100 if total else 0.0
    if share < _LEAST_SHARE:
        return Diagnosis("startup-gate", said, f"free the GPU{f' of {_listed(beside)}' if beside else ''}")
    return Diagnosis("startup-gate", said, _or_free(f"lower --gpu-memory-utilization to {share:.2f} at most", beside))


def _profiling(line: str, beside: Sequence[str]) -> Diagnosis | None:
    found = _PROFILING.search(line)
    if found is None:
        return None
    figures = f" ({found['before']}G free, then {found['after']}G)" if found["before"] else ""
    keep = f"keep {_listed(beside)} still or off the GPU" if beside else "let nothing else use the GPU"
    return Diagnosis(
        "profiling", f"another process freed GPU memory while it was loading{figures}", f"{keep} while it loads"
    )


def _kv_cache(line: str, beside: Sequence[str]) -> Diagnosis | None:
    name = "no GPU memory left for the KV cache"
    raise_it = "raise --gpu-memory-utilization"
    short = _KV_SHORT.search(line)
    if short is not None:
        said = f"{name} (a request of {short['length']} tokens needs {short['needed']}G, {short['left']}G are left)"
        return Diagnosis("kv-cache", said, _or_free(f"{_shorter(short['most'])} or {raise_it}", beside))
    tokens = _KV_TOKENS.search(line)
    if tokens is not None:
        said = f"{name} (a request may have {tokens['length']} tokens, there is room for {tokens['most']})"
        return Diagnosis("kv-cache", said, _or_free(f"{_shorter(tokens['most'])} or {raise_it}", beside))
    if _KV_NONE.search(line) is None:
        return None
    smaller = f"{raise_it}, or lower --max-num-batched-tokens or --max-num-seqs"
    return Diagnosis("kv-cache", name, _or_free(smaller, beside))


def _shorter(most: str | None) -> str:
    return f"set --max-model-len to {most} at most," if most else "lower --max-model-len"


def _cuda(lines: Sequence[str], grave: Sequence[str], beside: Sequence[str]) -> Diagnosis:
    line = next((one for one in reversed(grave) if _CUDA.search(one) and _TRIED.search(one)), "")
    said = _cuda_figures(line) or last_words(grave)
    telling = [one for one in lines if not is_routine(one)]
    where = next((advice for pattern, advice in _WHERE if any(pattern.search(one) for one in telling)), _ANYWHERE)
    return Diagnosis("cuda", said, _or_free(where, beside))


def _cuda_figures(line: str) -> str:
    tried = _TRIED.search(line)
    if tried is None:
        return ""
    figures = f"{_bytes(tried[1])} more wanted"
    capacity = _CAPACITY.search(line)
    if capacity is not None:
        figures += f", {_bytes(capacity[2])} of {_bytes(capacity[1])} free"
    others = _OTHERS.findall(line)
    if others:
        figures += f", other processes held {' and '.join(map(_bytes, others))}"
    return f"CUDA out of memory ({figures})"


def _bytes(text: str) -> str:
    """ "1.50 GiB" -> "1.5G"."""
    value, unit = text.split()
    return f"{float(value):.1f}".removesuffix(".0") + unit[0].upper()


def _or_free(advice: str, beside: Sequence[str]) -> str:
    return f"{advice}, or free the GPU of {_listed(beside)}" if beside else advice


def _listed(beside: Sequence[str]) -> str:
    return " and ".join(beside)
