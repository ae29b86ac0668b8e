"""Lines of a loading server as phases, the time that is left, and when a load stands still."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from agentd.core.loading import Life, Loading, LoadPhase, average, averaged, mark

DATA = Path(__file__).parent / "data"
MIB = 1024**2

# As a GPU build of 0.11 writes them, and below one of 0.33 where that differs.
GPU = [
    (
        "(EngineCore_DP0 pid=7) INFO 10-02 09:00:00 [core.py:77] Initializing a V1 LLM engine (v0.11.0) with config",
        None,
    ),
    ("INFO 10-02 09:00:01 [gpu_model_runner.py:2602] Starting to load model /models/qwen...", LoadPhase.WEIGHTS),
    ("Loading safetensors checkpoint shards:   0% Completed | 0/5 [00:00<?, ?it/s]", LoadPhase.WEIGHTS),
    ("Loading safetensors checkpoint shards:  40% Completed | 2/5 [00:04<00:06,  2.0s/it]", LoadPhase.WEIGHTS),
    ("INFO 10-02 09:00:09 [default_loader.py:267] Loading weights took 8.10 seconds", LoadPhase.WEIGHTS),
    ("[gpu_model_runner.py:2653] Model loading took 14.2717 GiB and 8.6 seconds", LoadPhase.PROFILING),
    ("[backends.py:548] Using cache directory: /c for vLLM's torch.compile", LoadPhase.COMPILING),
    ("[backends.py:559] Dynamo bytecode transform time: 5.04 s", LoadPhase.COMPILING),
    ("[backends.py:197] Cache the graph for dynamic shape for later use", None),
    ("[backends.py:218] Compiling a graph for dynamic shape takes 21.3 s", LoadPhase.COMPILING),
    ("[monitor.py:34] torch.compile takes 26.34 s in total", LoadPhase.PROFILING),
    ("[gpu_worker.py:298] Available KV cache memory: 3.10 GiB", LoadPhase.PROFILING),
    ("[kv_cache_utils.py:1087] GPU KV cache size: 25,360 tokens", LoadPhase.CAPTURING),
    ("Capturing CUDA graphs (decode, FULL): 100%|██████████| 35/35 [00:02<00:00, 13.6it/s]", LoadPhase.CAPTURING),
    ("[gpu_model_runner.py:3480] Graph capturing finished in 9 secs, took 0.55 GiB", None),
    ("[core.py:210] init engine (profile, create kv cache, warmup model) took 41.9 seconds", LoadPhase.SERVER),
    ("[api_server.py:1912] Starting vLLM API server 0 on http://127.0.0.1:8001", LoadPhase.SERVER),
]
NEWER = [
    ("[model_runner.py:424] Model loading took 14.27 GiB memory and 8.612345 seconds", LoadPhase.PROFILING),
    ("[decorators.py:319] [backbone] Directly load AOT compilation from path /c/a", LoadPhase.COMPILING),
    ("[monitor.py:91] [backbone] Initial profiling/warmup run took 0.02 s", LoadPhase.PROFILING),
    ("[gpu_model_runner.py:6369] Profiling CUDA graph memory: PIECEWISE=51", LoadPhase.PROFILING),
    ("[kv_cache_utils.py:2327] GPU KV cache size: 25,360 tokens, Maximum concurrency for 256", LoadPhase.CAPTURING),
    ("[weight_utils.py:1043] Prefetching checkpoint files: 30% (3/10)", LoadPhase.WEIGHTS),
    ("Multi-thread loading shards:  50% Completed | 1/2 [00:01<00:01,  1.0s/it]", LoadPhase.WEIGHTS),
    ("Loading safetensors using Runai Model Streamer:  10% Completed | 29/291 [00:01]", LoadPhase.WEIGHTS),
    ("[entry.py:140] Starting vLLM server on http://127.0.0.1:8001", LoadPhase.SERVER),
    ("[gpu_worker.py:939] Compile and warming up model for size 8192", LoadPhase.COMPILING),
]


@pytest.mark.parametrize(("line", "phase"), GPU + NEWER)
def test_a_line_tells_of_its_phase(line: str, phase: LoadPhase | None) -> None:
    assert mark(line)[0] == phase


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("Loading safetensors checkpoint shards:  40% Completed | 2/5 [00:04<00:06,  2.0s/it]", 0.4),
        ("Loading pt checkpoint shards: 100% Completed | 1/1 [00:00<00:00]", 1.0),
        ("[weight_utils.py:1043] Prefetching checkpoint files: 30% (3/10)", 0.3),
        # A bar that draws over itself, as the journal has it.
        ("Capturing CUDA graphs:   0%|  | 0/67 [00:00<?] Capturing CUDA graphs:  12%|# | 8/67 [00:01]", 0.12),
        ("Starting to load model 50% Completed | nonsense: 999% Completed", 1.0),
        ("INFO: GPU KV cache usage: 40% Completed", None),
    ],
)
def test_a_bar_tells_how_far_it_is(line: str, share: float | None) -> None:
    assert mark(line)[1] == share


def test_the_phases_of_a_load_add_up_to_its_time() -> None:
    loading = Loading(100.0)
    for second, (line, _) in enumerate(GPU):
        loading.feed(line, 100.0 + second)
    assert loading.phase is LoadPhase.SERVER
    seconds = loading.ended(120.0)
    assert list(seconds) == ["starting", "loading weights", "profiling", "compiling", "capturing graphs",
                             "starting server"]  # fmt: skip
    assert sum(seconds.values()) == pytest.approx(20.0)
    assert (seconds["compiling"], seconds["profiling"]) == (4.0, 3.0)


@pytest.mark.parametrize(
    ("log", "compiling"), [("vllm-0.32-cpu-eager.log", False), ("vllm-0.32-cpu-compiled.log", True)]
)
def test_a_recorded_load(log: str, compiling: bool) -> None:
    loading, now, phases = Loading(0.0), 0.0, []
    for line in (DATA / log).read_text().splitlines():
        stamp = line.partition("11-21 ")[2][:8]
        if stamp.count(":") == 2:
            parsed = datetime.strptime(stamp, "%H:%M:%S")
            now = parsed.hour * 3600.0 + parsed.minute * 60 + parsed.second
        loading.begun = loading.begun or now
        loading.since = loading.since or now
        loading.feed(line, now)
        phases.append(loading.phase)
    seen = [phases[0], *(b for a, b in pairwise(phases) if a != b)]
    middle = [LoadPhase.COMPILING] if compiling else []
    assert seen == [LoadPhase.STARTING, LoadPhase.WEIGHTS, *middle, LoadPhase.PROFILING, LoadPhase.SERVER]
    seconds = loading.ended(now)
    assert seconds["starting"] > 10
    assert (seconds.get("compiling", 0.0) > 20) is compiling


def test_workers_that_talk_at_once_do_not_turn_it_back() -> None:
    loading = Loading(0.0)
    assert loading.feed("GPU KV cache size: 1 tokens", 5.0)
    assert not loading.feed("(Worker_TP1) Loading weights took 8 seconds", 6.0)
    assert not loading.feed("complete nonsense \x00 100%", 6.0)
    assert loading.phase is LoadPhase.CAPTURING


def test_nothing_learned_nothing_guessed() -> None:
    loading = Loading(0.0)
    loading.feed("Loading safetensors checkpoint shards:  40% Completed | 2/5", 4.0)
    assert loading.left(5.0) is None
    assert loading.told(5.0) == "loading weights 40 %"


def test_what_is_left_is_what_the_phases_to_come_usually_take() -> None:
    loading = Loading(0.0, {"starting": 10.0, "loading weights": 30.0, "compiling": 60.0, "starting server": 2.0})
    assert loading.left(4.0) == pytest.approx(98.0)
    assert loading.told(4.0) == "starting, about 100 s left"
    loading.feed("Starting to load model x", 10.0)
    assert loading.left(20.0) == pytest.approx(82.0)
    # Half of it after 40 s: slower than usual, and the further it is the more its own pace counts.
    loading.feed("Loading safetensors checkpoint shards:  50% Completed | 1/2", 50.0)
    assert loading.left(50.0) == pytest.approx(0.5 * 40 + 0.5 * 15 + 62)
    loading.feed("torch.compile takes 3 s", 60.0)
    assert loading.left(60.0) == pytest.approx(62.0)
    loading.feed("init engine (profile, ...", 70.0)
    assert loading.told(71.0) == "starting server, about 1 s left"
    assert loading.told(90.0) == "starting server, usually over by now"


def test_a_compilation_in_two_parts_is_counted_once() -> None:
    loading = Loading(0.0, {"compiling": 60.0, "profiling": 10.0})
    loading.feed("Starting torch.compile", 0.0)
    loading.feed("Profiling CUDA graph memory", 50.0)
    assert loading.left(50.0) == pytest.approx(10.0 + 10.0)
    loading.feed("Starting torch.compile", 55.0)
    assert loading.left(55.0) == pytest.approx(5.0 + 10.0)


def test_without_phases_the_whole_is_known() -> None:
    loading = Loading(0.0, usual=300.0)
    assert loading.told(10.0) == "starting, about 5 min left"
    assert Loading(0.0).left(1.0) is None


def test_learned_phases_follow_the_newest_load() -> None:
    first = averaged({}, {LoadPhase.WEIGHTS: 10.0, LoadPhase.COMPILING: 300.0, LoadPhase.SERVER: 0.01})
    assert first == {"loading weights": 10.0, "compiling": 300.0}
    assert all(type(name) is str for name in first)
    second = averaged(first, {"loading weights": 20.0, "capturing graphs": 8.0})
    assert second == {"loading weights": 15.0, "compiling": 150.0, "capturing graphs": 4.0}
    for _ in range(20):
        second = averaged(second, {"loading weights": 20.0})
    assert set(second) == {"loading weights"}
    assert (average(None, 4.0), average(4.0, 8.0)) == (2.0, 6.0)


# -- standing still ----------------------------------------------------------------------------------------------------


def test_a_load_that_does_nothing_stands_still() -> None:
    life = Life(0.0)
    assert life.still(0.0, lines=3, cpu=50.0, gpu=10 * MIB) == 0
    for second in range(10, 190, 10):
        still = life.still(float(second), lines=3, cpu=50.0 + second * 0.001, gpu=10 * MIB)
        assert still == second


@pytest.mark.parametrize(
    ("lines", "cpu", "gpu"),
    [(4, 50.0, 10 * MIB), (3, 50.2, 10 * MIB), (3, 50.0, 12 * MIB), (3, 50.0, 8 * MIB)],
    ids=["a line", "CPU time", "more GPU memory", "less GPU memory"],
)
def test_every_sign_of_life_counts(lines: int, cpu: float, gpu: int) -> None:
    life = Life(0.0)
    life.still(0.0, lines=3, cpu=50.0, gpu=10 * MIB)
    assert life.still(10.0, lines=3, cpu=50.0, gpu=10 * MIB) == 10
    assert life.still(20.0, lines=lines, cpu=cpu, gpu=gpu) == 0
    assert life.still(30.0, lines=lines, cpu=cpu, gpu=gpu) == 10


def test_gpu_memory_that_creeps_is_a_change_in_the_end() -> None:
    life = Life(0.0)
    found = [life.still(float(t), lines=0, cpu=1.0, gpu=t * MIB // 25) for t in range(0, 60, 10)]
    assert found == [0, 10, 20, 0, 10, 20]


def test_without_cpu_time_nothing_is_said() -> None:
    # A compilation of half an hour is silent, too.
    life = Life(0.0)
    assert all(life.still(float(t), lines=0, cpu=0.0, gpu=0) == 0 for t in range(0, 2000, 10))


def test_without_a_gpu_lines_and_cpu_time_decide() -> None:
    life = Life(0.0)
    life.still(0.0, lines=0, cpu=1.0, gpu=None)
    assert life.still(100.0, lines=0, cpu=1.0, gpu=None) == 100
