"""What vLLM, PyTorch and the kernel say when memory runs out, understood: the kind, the figures, what would help."""

from __future__ import annotations

import pytest

from agentd.core.explain import explain
from agentd.core.out_of_memory import PASSING, diagnose
from agentd.types import ActiveState, UnitState

NAME = "vllm-qwen.service"
GIB = 1024**3
EXITED = UnitState(NAME, "loaded", ActiveState.FAILED, "failed", result="exit-code", exec_code=1, exec_status=1)
OOM_KILLED = UnitState(NAME, "loaded", ActiveState.FAILED, "failed", result="oom-kill", exec_code=2, exec_status=9)

HEAD = "(EngineCore pid=7) ERROR 11-21 01:20:33 [core.py:718] "
GATE = (
    f"{HEAD}ValueError: Free memory on device cuda:0 (0.41/79.10 GiB) on startup is less than desired GPU memory "
    "utilization (0.9, 71.19 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
OLD_GATE = (
    "ValueError: Free memory on device (3.5/24.0 GiB) on startup is less than desired GPU memory utilization (0.9)."
)
PROFILING = (
    f"{HEAD}AssertionError: Error in memory profiling. Initial free memory 3.21 GiB, current free memory 5.0 GiB. "
    "This happens when other processes sharing the same container release GPU memory while vLLM is profiling during "
    "initialization. To fix this, ensure consistent GPU memory allocation or isolate vLLM in its own container."
)
OLD_PROFILING = "AssertionError: Error in memory profiling. Initial free memory 16890, current free memory 22070"
KV_NONE = (
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing "
    "the engine (this flag also controls CPU memory reservation on the CPU backend, despite its name)."
)
KV_SHORT = (
    "ValueError: To serve at least one request with the model's max seq len (32768), (4.50 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (2.10 GiB). Based on the available memory, the estimated "
    "maximum model length is 15280. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
)
KV_SHORT_WITHOUT = (
    "ValueError: To serve at least one request with the models's max seq len (32768), (4.50 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (0.01 GiB). Try increasing `gpu_memory_utilization`."
)
KV_TOKENS = (
    "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can be stored in KV "
    "cache (12345). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
)
CUDA = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 23.99 GiB "
    "of which 320.00 MiB is free. Process 4121 has 12.90 GiB memory in use. Including non-PyTorch memory, this process "
    "has 10.75 GiB memory in use. Of the allocated memory 9.1 GiB is allocated by PyTorch."
)
OLD_CUDA = "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"
SAMPLER = (
    "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering "
    "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
)
KERNEL_LINE = f"{NAME}: A process of this unit has been killed by the OOM killer."

CASES = {
    "gate": (GATE, "startup-gate", "(0.41G of 79.1G free, 71.19G wanted (--gpu-memory-utilization 0.9))", "free the G"),
    "old gate": (OLD_GATE, "startup-gate", "(3.5G of 24G free)", "to 0.14 at most"),
    "profiling": (PROFILING, "profiling", "(3.21G free, then 5.0G)", "let nothing else use the GPU while it loads"),
    "old profiling": (OLD_PROFILING, "profiling", "while it was loading", "while it loads"),
    "no kv cache": (KV_NONE, "kv-cache", "no GPU memory left for the KV cache", "raise --gpu-memory-utilization"),
    "short kv cache": (KV_SHORT, "kv-cache", "32768 tokens needs 4.50G, 2.10G are left", "--max-model-len to 15280 "),
    "hopeless kv cache": (KV_SHORT_WITHOUT, "kv-cache", "0.01G are left", "lower --max-model-len"),
    "kv cache in tokens": (KV_TOKENS, "kv-cache", "there is room for 12345", "--max-model-len to 12345 at most"),
    "cuda": (CUDA, "cuda", "(1.5G more wanted, 320M of 24G free, other processes held 12.9G)", "--max-num-seqs"),
    "old cuda": (OLD_CUDA, "cuda", "(20M more wanted)", "--gpu-memory-utilization"),
    "sampler": (SAMPLER, "cuda", "CUDA out of memory", "lower --max-num-seqs"),
    "host allocator": (
        "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes",
        "host", "not enough memory", "more main memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_it_says_is_understood(name: str) -> None:
    line, kind, said, advice = CASES[name]
    lines = ["INFO 11-21 01:20:30 [x.py:1] loading", line, "RuntimeError: Engine core initialization failed."]
    found = diagnose(lines, EXITED)
    assert found is not None
    assert found.kind == kind
    assert said in found.said
    assert advice in found.advice


def test_the_gate_never_advises_a_share_of_nothing() -> None:
    found = diagnose([GATE], EXITED)
    assert found is not None
    assert "utilization to 0.00" not in found.sentence


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ('  File "/v/gpu_model_runner.py", line 5, in profile: self.model.embed_multimodal(', "--limit-mm-per-prompt"),
        ("ERROR Failed to load model - not enough GPU memory. Try lowering", "the weights do not fit"),
        ('  File "/v/gpu_model_runner.py", line 9, in capture_model', "capture fewer graphs"),
        ('  File "/v/core.py", line 9, in run', "lower --gpu-memory-utilization, --max-num-seqs or --max-model-len"),
    ],
)  # fmt: skip
def test_the_advice_fits_where_it_happened(line: str, advice: str) -> None:
    found = diagnose([line, CUDA], EXITED)
    assert found is not None
    assert advice in found.advice


CONFIG = "(v0.19.0) with config: model='m', compilation_config={'compile_mm_encoder': False, 'use_cudagraph': True}"
STARTS = f"(EngineCore_DP0 pid=7) INFO 11-21 01:20:30 [core.py:93] Initializing a V1 LLM engine {CONFIG}"
DUMP = f"{HEAD}Dumping input data for V1 LLM engine {CONFIG}"
LOADING = f'{HEAD}  File "/v/gpu_model_runner.py", line 5, in load_model'
CAPTURED = "(EngineCore_DP0 pid=7) INFO 11-21 01:20:32 [gpu_model_runner.py:9] Capturing CUDA graphs, in load_model"
PROMPT = "WARNING 11-21 01:20:32 [processor.py:9] no visual(pixel_values) of this prompt"


@pytest.mark.parametrize(
    ("lines", "advice"),
    [
        ([STARTS, LOADING], "the weights do not fit"),
        ([DUMP, LOADING], "the weights do not fit"),
        ([f"{HEAD}    self.visual = Qwen2_5_VisionTransformer(", LOADING], "the weights do not fit"),
        ([f"{HEAD}    image_embeds = self.visual(values, grid_thw=grid_thw)"], "--limit-mm-per-prompt"),
        ([f'{HEAD}  File "/v/gpu_model_runner.py", line 5, in _execute_mm_encoder'], "--limit-mm-per-prompt"),
        ([CAPTURED], "lower --gpu-memory-utilization, --max-num-seqs or --max-model-len"),
        ([PROMPT], "lower --gpu-memory-utilization, --max-num-seqs or --max-model-len"),
    ],
)
def test_what_every_start_says_tells_nothing_of_where_it_failed(lines: list[str], advice: str) -> None:
    found = diagnose([*lines, f"{HEAD}{CUDA}"], EXITED)
    assert found is not None
    assert advice in found.advice


@pytest.mark.parametrize("line", [GATE, PROFILING, KV_NONE, CUDA])
def test_who_holds_the_gpu_is_named(line: str) -> None:
    found = diagnose([line], EXITED, ("ollama.service (5.2G)",))
    assert found is not None
    assert "ollama.service (5.2G)" in found.advice


@pytest.mark.parametrize(
    ("state", "lines", "kind", "sentence"),
    [
        (OOM_KILLED, [], "host", "main memory ran out; it needs more main memory than is free"),
        (
            UnitState(NAME, result="oom-kill", memory_max=8 * GIB), [], "cgroup",
            f"it reached its limit of main memory (MemoryMax=8G); raise MemoryMax= of {NAME}",
        ),
        (EXITED, [KERNEL_LINE], "host", "main memory ran out; it needs more main memory than is free"),
        (
            EXITED, ["Memory cgroup out of memory: Killed process 7 (vllm)"], "cgroup",
            "it reached a limit of main memory; raise MemoryMax= of its slice",
        ),
    ],
)  # fmt: skip
def test_killed_by_the_kernel(state: UnitState, lines: list[str], kind: str, sentence: str) -> None:
    found = diagnose(lines, state)
    assert found is not None
    assert (found.kind, found.sentence) == (kind, sentence)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["ValueError: bad dtype"],
        ["INFO 11-21 01:20:33 [x.py:1] CUDA out of memory is caught and retried"],
        ["WARNING 11-21 01:20:33 [x.py:1] torch.OutOfMemoryError: once"],
    ],
)
def test_another_failure_is_none_of_memory(lines: list[str]) -> None:
    assert diagnose(lines, EXITED) is None


def test_the_sentence_of_a_failed_unit_carries_the_advice() -> None:
    assert explain(EXITED, [KV_SHORT]) == (
        f"{NAME} exited with status 1: no GPU memory left for the KV cache (a request of 32768 tokens needs 4.50G, "
        "2.10G are left); set --max-model-len to 15280 at most, or raise --gpu-memory-utilization"
    )
    assert explain(OOM_KILLED, ["INFO loading"]) == (
        f"{NAME} was killed by the kernel because memory ran out (OOM): INFO loading"
    )


def test_only_what_moves_by_itself_is_worth_a_second_try() -> None:
    assert sorted(PASSING) == ["profiling", "startup-gate"]
