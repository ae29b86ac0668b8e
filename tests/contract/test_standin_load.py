"""How the stand-in vLLM loads: its words, its phases, several GPUs, and the ways in which it does not come up."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from servercontract import complete
from standinvllm import standin
from vllmserver import Running

from agentd.sandbox.gpu import GIB, Memory, uuid

LINES = (
    r"\(APIServer pid=\d+\) INFO \d\d-\d\d [\d:]{8} \[api_utils.py:347\] version 0.33.0",
    r"\(EngineCore pid=\d+\) INFO .* \[core.py:133\] Initializing a V1 LLM engine",
    r"Starting to load model ",
    r"Loading safetensors checkpoint shards:   0% Completed \| 0/4",
    r"Loading safetensors checkpoint shards:  50% Completed \| 2/4",
    r"Loading safetensors checkpoint shards: 100% Completed \| 4/4",
    r"Loading weights took \d+\.\d\d seconds",
    r"Model loading took \d+\.\d\d GiB memory and \d+\.\d+ seconds",
    r"torch.compile took \d+\.\d\d s in total",
    r"Available KV cache memory: \d+\.\d\d GiB",
    r"Graph capturing finished in \d+ secs",
    r"init engine \(profile, create kv cache, warmup model\) took \d+\.\d\d s",
    r"^INFO:     Application startup complete\.$",
)
STALLED = {
    "starting": "Initializing a V1 LLM engine",
    "weights": "50% Completed",
    "compiling": "Using cache directory",
    "profiling": "torch.compile took",
    "graphs": "GPU KV cache size",
}


def test_it_writes_what_vllm_writes_in_that_order(tmp_path: Path) -> None:
    with standin(tmp_path) as (program, _):
        text = program.start().serving().log.read_text()
        at = 0
        for pattern in LINES:
            found = re.compile(pattern, re.MULTILINE).search(text, at)
            assert found, (pattern, text[at:])
            at = found.end()


def test_eager_it_neither_compiles_nor_captures(tmp_path: Path) -> None:
    with standin(tmp_path, compile_seconds=600.0) as (program, _):
        text = program.start("--enforce-eager").serving().log.read_text()
        assert "torch.compile" not in text
        assert "Graph" not in text


@pytest.mark.parametrize("phase", STALLED)
def test_it_stands_still_in_the_phase_it_is_told(tmp_path: Path, phase: str) -> None:
    with standin(tmp_path, stall=phase) as (program, _):
        server = program.start()
        server.until(lambda: STALLED[phase] in server.log.read_text())
        server.until(lambda: any(asleep_in_pause(pid) for pid in server.look()))
        assert not server.listens()


def asleep_in_pause(pid: int) -> bool:
    """In pause(2), which only a signal ends, or in what stands for it where there is none."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("34", "73")


@pytest.mark.parametrize("cpu", [True, False])
def test_a_compilation_uses_a_processor_or_does_not(tmp_path: Path, cpu: bool) -> None:
    with standin(tmp_path, compile_seconds=0.3, compile_cpu=cpu) as (program, _):
        server = program.start().serving()
        fields = Path(f"/proc/{server.engine()}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        assert (ticks / os.sysconf("SC_CLK_TCK") >= 0.25) == cpu


def test_tensor_parallelism_holds_memory_in_a_worker_on_each_gpu(tmp_path: Path) -> None:
    with standin(tmp_path, gpus=3) as (program, memory):
        server = program.start("--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.5", dev=True).serving()
        titles = server.look()
        assert sorted(titles.values()) == ["VLLM::EngineCore", "VLLM::Worker_TP0", "VLLM::Worker_TP1"]
        holders = {claim.gpu: (titles[claim.pid], claim.size) for claim in memory.claims()}
        assert holders == {0: ("VLLM::Worker_TP0", 8 * GIB), 1: ("VLLM::Worker_TP1", 8 * GIB)}
        assert server.json("POST", "/collective_rpc", {"method": "reload_weights"}) == {"results": [None, None]}
        server.process.terminate()
        assert server.ended() == 0
        server.until(lambda: not server.left())
        assert not memory.claims()


def test_workers_end_with_their_engine_and_it_with_any_of_them(tmp_path: Path) -> None:
    with standin(tmp_path, gpus=2) as (program, memory):
        for victim in ("VLLM::EngineCore", "VLLM::Worker_TP1"):
            server = program.start("-tp", "2").serving()
            os.kill(next(pid for pid, title in server.look().items() if title == victim), signal.SIGKILL)
            assert server.ended() == 0
            gone(server)
            assert not memory.claims()


def gone(server: Running) -> None:
    server.until(lambda: not server.left())


def test_a_sleeping_group_gives_back_memory_on_each_gpu(tmp_path: Path) -> None:
    with standin(tmp_path, gpus=2) as (program, memory):
        server = program.start("-tp", "2", "--enable-sleep-mode", dev=True).serving()
        server.json("POST", "/sleep?level=1")
        assert {claim.gpu: claim.size for claim in memory.claims()} == {0: GIB // 2, 1: GIB // 2}
        memory.claim(1, 15 * GIB, gpu=1, held=True)
        assert server.ask("POST", "/wake_up")[0] == 500, "one GPU without room is enough"
        memory.release(1)
        server.json("POST", "/wake_up")
        assert complete(server)


def test_it_sees_the_gpus_that_cuda_shows_it(tmp_path: Path) -> None:
    with standin(tmp_path, gpus=2) as (program, memory):
        program.environment = {**program.environment, "CUDA_VISIBLE_DEVICES": "1"}
        server = program.start().serving()
        assert [claim.gpu for claim in memory.claims()] == [1]
        server.destroy()
        short = program.start("-tp", "2")
        assert short.ended() == 1
        assert "World size (2) is larger than the number of available GPUs (1)" in short.log.read_text()
        program.environment = {**program.environment, "CUDA_VISIBLE_DEVICES": "-1"}
        none = program.start()
        assert none.ended() == 1
        assert "No CUDA GPUs are available" in none.log.read_text()


def test_cuda_stops_at_the_first_gpu_that_it_does_not_know(tmp_path: Path) -> None:
    with standin(tmp_path, gpus=3) as (_, memory):
        shown = {"": [], "2,0": [2, 0], "0,7,1": [0], "-1,0": [], uuid(1): [1]}
        assert {names: memory.visible({"CUDA_VISIBLE_DEVICES": names}) for names in shown} == shown
        assert memory.visible({}) == [0, 1, 2]


def test_stuck_memory_belongs_to_nobody_and_stays(tmp_path: Path) -> None:
    with standin(tmp_path, fail="stuck-memory") as (program, memory):
        server = program.start().serving()
        server.process.terminate()
        assert server.ended() == 0
        (claim,) = memory.claims()
        assert not claim.alive
        assert memory.free() < 2 * GIB
        memory.release(claim.pid)
        assert memory.free() > 15 * GIB


def test_a_hanging_stop_waits_for_its_client(tmp_path: Path) -> None:
    with standin(tmp_path, fail="stop-hangs", token_seconds=0.05) as (program, memory):
        server = program.start().serving()
        asked = server.asked({"prompt": "hi", "max_tokens": 1000})
        server.until(lambda: server.running_requests() > 0)
        server.process.terminate()
        server.until(server.engine_gone)
        assert not memory.claims(), "the memory is back"
        assert not asked.answered(0.3)
        server.process.terminate()
        assert server.process.poll() is None, "a second SIGTERM changes nothing"
        asked.leave()
        assert server.ended() == 0


def test_one_process_may_hold_memory_on_several_gpus(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    (tmp_path / "gpu.json").write_text('{"gpus": [{}, {}]}')
    for gpu in (0, 1):
        memory.claim(os.getpid(), GIB, gpu=gpu)
    assert {claim.gpu: claim.size for claim in memory.claims()} == {0: GIB, 1: GIB}
    memory.release(os.getpid())
    assert memory.claims() == []
