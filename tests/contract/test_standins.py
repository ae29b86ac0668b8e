"""The stand-ins speak the protocols that agentd relies on, start quickly, and fail in the ways they promise."""

from __future__ import annotations

import http.client
import importlib.util
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentd.sandbox import home as sandbox_home
from agentd.sandbox.gpu import GIB, Memory
from agentd.sandbox.standins import behaviour

MIB = 1024**2
KEY = {"Authorization": "Bearer secret"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(condition: Any, seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
    return value


class Rig:
    """Stand-in programs in a home of their own, with a GPU of 16 GiB of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.memory = Memory(home / "gpu")
        self.processes: list[subprocess.Popen[bytes]] = []
        sandbox_home.programs(
            home / ".local/bin", os.path.realpath("/proc/self/exe"), os.path.realpath("/proc/self/exe")
        )

    def behave(self, name: str, **values: object) -> None:
        behaviour.save(self.home, name, **{"load_seconds": 0.0, "vram_release_seconds": 0.0, **values})

    def start(self, program: str, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        environment = {
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin",
            "AGENTD_STANDIN_GPU": str(self.home / "gpu"),
            **env,
        }
        # A file, not a pipe: an orphaned engine would keep a pipe open.
        self.log = self.home / f"log-{len(self.processes)}"
        with self.log.open("w") as log:
            process = subprocess.Popen([self.home / ".local/bin" / program, *argv], env=environment, stderr=log)
        self.processes.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """The exit code, and what the process that was started last has written."""
        code = process.wait(10)
        return code, self.log.read_text()

    def vllm(self, *flags: str, name: str = "qwen", **env: str) -> subprocess.Popen[bytes]:
        argv = ("serve", str(self.home), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(self.port))
        return self.start("vllm", *argv, *flags, **env)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def json(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
        status, data = self.ask(method, path, body, headers)
        assert status == 200, data
        return json.loads(data)

    def up(self, path: str = "/health") -> bool:
        try:
            return self.ask("GET", path)[0] == 200
        except ConnectionError:
            return False

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for claim in self.memory.claims():
            if claim.alive and claim.pid > 1:
                with suppress(ProcessLookupError):
                    os.kill(claim.pid, signal.SIGKILL)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.behave("qwen")
    yield rig
    rig.close()


def test_vllm_answers_within_a_quarter_of_a_second(rig: Rig) -> None:
    times = []
    for _ in range(3):
        start = time.monotonic()
        process = rig.vllm()
        wait_for(rig.up)
        times.append(time.monotonic() - start)
        process.terminate()
        assert process.wait(10) == 0
    assert min(times) < 0.25


def test_vllm_openai_surface(rig: Rig) -> None:
    rig.vllm("--max-model-len", "512", "--some-new-flag", "value", VLLM_API_KEY="secret")
    wait_for(rig.up)
    assert rig.ask("GET", "/v1/models")[0] == 401
    assert rig.ask("POST", "/v1/completions", {"prompt": "hi"})[0] == 401
    (card,) = rig.json("GET", "/v1/models", headers=KEY)["data"]
    assert (card["id"], card["max_model_len"]) == ("qwen", 512)
    answer = rig.json("POST", "/v1/completions", {"model": "qwen", "prompt": "hi", "max_tokens": 1}, KEY)
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert rig.ask("POST", "/v1/completions", {"model": "other", "prompt": "hi"}, KEY)[0] == 404
    assert rig.ask("POST", "/sleep?level=1")[0] == 404, "no development mode, no sleep"
    assert rig.json("GET", "/version")["version"]


def test_vllm_holds_memory_in_an_engine_process(rig: Rig) -> None:
    process = rig.vllm("--gpu-memory-utilization", "0.5")
    wait_for(rig.up)
    (claim,) = rig.memory.claims()
    assert claim.size == 8 * GIB
    assert claim.pid != process.pid
    assert Path(f"/proc/{claim.pid}/comm").read_text() == "VLLM::EngineCor\n"
    assert Path(f"/proc/{claim.pid}/cmdline").read_bytes().rstrip(b"\0") == b"VLLM::EngineCore"
    process.terminate()
    assert process.wait(10) == 0
    assert not rig.memory.claims()


def test_memory_comes_back_later_than_the_process_goes(rig: Rig) -> None:
    rig.behave("qwen", vram_release_seconds=0.4)
    process = rig.vllm()
    wait_for(rig.up)
    process.terminate()
    process.wait(10)
    (claim,) = rig.memory.claims()
    assert not claim.alive
    wait_for(lambda: not rig.memory.claims())


def test_vllm_refuses_a_gpu_that_is_not_free(rig: Rig) -> None:
    rig.memory.claim(1, 4 * GIB, held=True)
    process = rig.vllm()
    returned, error = rig.end(process)
    assert returned == 1
    assert "Free memory on device cuda:0 (11.75/16.00 GiB) on startup is less than desired" in error


def test_vllm_dies_when_memory_is_given_back_while_it_loads(rig: Rig) -> None:
    rig.behave("qwen", load_seconds=0.6, vram_bytes=4 * GIB)
    stranger = rig.memory.claim(1, 4 * GIB, held=True)
    process = rig.vllm("--gpu-memory-utilization", "0.3")
    wait_for(lambda: len(rig.memory.claims()) == 2)
    stranger.unlink()
    returned, error = rig.end(process)
    assert returned == 1
    assert "Error in memory profiling" in error


def test_vllm_sleep_and_pause(rig: Rig) -> None:
    rig.vllm("--enable-sleep-mode", VLLM_SERVER_DEV_MODE="1")
    wait_for(rig.up)
    assert rig.json("POST", "/pause?mode=wait") == {"status": "paused"}
    status, body = rig.ask("POST", "/v1/completions", {"prompt": "hi"})
    assert (status, json.loads(body)["error"]["code"]) == (503, "engine_paused")
    assert rig.json("POST", "/sleep?level=1&mode=abort") == {"status": "sleeping", "level": 1}
    assert rig.json("GET", "/is_sleeping") == {"is_sleeping": True}
    assert rig.memory.claims()[0].size == 512 * MIB
    assert rig.up(), "/health does not tell that it sleeps"
    assert b'sleep_state="weights_offloaded"} 1.0' in rig.ask("GET", "/metrics")[1]
    rig.memory.claim(1, 8 * GIB, held=True)
    assert rig.ask("POST", "/wake_up")[0] == 500, "no memory to wake up into"
    rig.memory.release(1)
    assert rig.json("POST", "/wake_up") == {"status": "awake", "tags": None}
    assert rig.json("GET", "/is_paused") == {"is_paused": False}
    assert rig.json("POST", "/v1/completions", {"prompt": "hi"})["choices"]


@pytest.mark.parametrize(
    ("fail", "code", "text"),
    [
        ("exit-at-once", 1, "CUDA out of memory"),
        ("die-while-loading", 1, "Engine core initialization failed"),
    ],
)
def test_vllm_start_failures(rig: Rig, fail: str, code: int, text: str) -> None:
    rig.behave("qwen", fail=fail)
    process = rig.vllm()
    returned, error = rig.end(process)
    assert returned == code
    assert text in error
    wait_for(lambda: not rig.memory.claims())


def test_vllm_never_ready_ends_cleanly_on_sigterm(rig: Rig) -> None:
    rig.behave("qwen", fail="never-ready")
    process = rig.vllm()
    wait_for(lambda: any(c.size > 14 * GIB for c in rig.memory.claims()))
    assert not rig.up()
    process.terminate()
    assert process.wait(10) == -signal.SIGINT
    wait_for(lambda: not rig.memory.claims())


def test_vllm_wrong_name_and_broken_canary(rig: Rig) -> None:
    rig.behave("qwen", fail="wrong-name")
    process = rig.vllm()
    wait_for(rig.up)
    assert rig.json("GET", "/v1/models")["data"][0]["id"] == "not-qwen"
    process.terminate()
    process.wait(10)
    rig.behave("qwen", fail="canary-500")
    rig.vllm()
    wait_for(rig.up)
    assert rig.ask("POST", "/v1/completions", {"prompt": "hi"})[0] == 500


def test_vllm_ignores_sigterm_when_told(rig: Rig) -> None:
    rig.behave("qwen", fail="ignore-sigterm")
    process = rig.vllm()
    wait_for(rig.up)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    assert rig.up()


def test_vllm_orphan_outlives_its_parent(rig: Rig) -> None:
    rig.behave("qwen", fail="orphan")
    process = rig.vllm()
    wait_for(rig.up)
    (claim,) = rig.memory.claims()
    process.terminate()
    assert process.wait(10) == 0
    os.kill(claim.pid, signal.SIGTERM)
    assert rig.memory.claims()[0].alive
    os.kill(claim.pid, signal.SIGKILL)
    wait_for(lambda: not rig.memory.claims())


def test_a_wrong_setting_is_an_error(rig: Rig) -> None:
    (rig.home / ".config/agentd-standin/qwen.json").write_text('{"fail": "explode"}')
    _, error = rig.end(rig.vllm())
    assert "fail must be one of" in error
    with pytest.raises(TypeError):
        behaviour.save(rig.home, "qwen", lode_seconds=1)


def test_ollama_loads_and_unloads(rig: Rig) -> None:
    rig.behave("ollama", vram_release_seconds=0.3)
    rig.start("ollama", "serve", OLLAMA_HOST=f"127.0.0.1:{rig.port}")
    wait_for(lambda: rig.up("/api/version"))
    assert rig.json("GET", "/api/ps") == {"models": []}
    name = rig.json("GET", "/api/tags")["models"][0]["name"]
    answer = rig.json("POST", "/api/generate", {"model": name, "prompt": "hi", "stream": False})
    assert answer["done_reason"] == "stop"
    (loaded,) = rig.json("GET", "/api/ps")["models"]
    assert (loaded["name"], loaded["size_vram"]) == (name, 5 * GIB)
    assert rig.memory.claims()[0].size == 5 * GIB
    answer = rig.json("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
    assert answer["done_reason"] == "unload"
    assert rig.memory.claims(), "the answer comes before the memory"
    wait_for(lambda: rig.json("GET", "/api/ps") == {"models": []})
    wait_for(lambda: not rig.memory.claims())
    assert rig.ask("POST", "/api/generate", {"model": "nope", "prompt": "x"})[0] == 404


def test_ollama_keeps_a_model_only_as_long_as_asked(rig: Rig) -> None:
    rig.behave("ollama")
    rig.start("ollama", "serve", OLLAMA_HOST=f"127.0.0.1:{rig.port}")
    wait_for(lambda: rig.up("/api/version"))
    rig.json("POST", "/api/generate", {"model": "llama3:8b", "prompt": "x", "stream": False, "keep_alive": "0.2s"})
    assert rig.json("GET", "/api/ps")["models"]
    wait_for(lambda: rig.json("GET", "/api/ps") == {"models": []})


def test_litellm_wants_its_key(rig: Rig) -> None:
    config = rig.home / "config.yaml"
    config.write_text("model_list:\n  - model_name: qwen\n    litellm_params:\n      model: hosted_vllm/qwen\n")
    rig.behave("litellm")
    argv = ("--config", str(config), "--host", "127.0.0.1", "--port", str(rig.port))
    rig.start("litellm", *argv, LITELLM_MASTER_KEY="secret")
    wait_for(lambda: rig.up("/health/liveliness"))
    assert rig.json("GET", "/health/liveliness") == "I'm alive!"
    assert rig.json("GET", "/health/readiness")["status"] == "healthy"
    assert rig.ask("GET", "/v1/models")[0] == 401
    assert [m["id"] for m in rig.json("GET", "/v1/models", headers=KEY)["data"]] == ["qwen"]


def load_module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def test_nvml_has_the_real_modules_names_and_parameters() -> None:
    real_path = importlib.util.find_spec("pynvml")
    assert real_path is not None
    assert real_path.origin is not None
    assert "sandbox" not in real_path.origin
    real = load_module("real_pynvml", Path(real_path.origin))
    ours = load_module("standin_pynvml", sandbox_home.NVML / "pynvml.py")
    names = [n for n in vars(ours) if n.startswith(("nvml", "NVML"))]
    assert len(names) > 30
    for name in names:
        mine, theirs = getattr(ours, name), getattr(real, name)
        if inspect.isfunction(mine):
            assert list(inspect.signature(mine).parameters) == list(inspect.signature(theirs).parameters), name
        elif isinstance(mine, int):
            assert mine == theirs, name


def test_nvml_shows_the_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml: Any = load_module("standin_pynvml", sandbox_home.NVML / "pynvml.py")
    with pytest.raises(nvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    monkeypatch.delenv("AGENTD_STANDIN_GPU", raising=False)
    with pytest.raises(nvml.NVMLError_LibraryNotFound):
        nvml.nvmlInit()
    monkeypatch.setenv("AGENTD_STANDIN_GPU", str(tmp_path))
    (tmp_path / "gpu.json").write_text(json.dumps({"gpus": [{"total": 8 * GIB}, {"total": 4 * GIB}], "reserved": MIB}))
    Memory(tmp_path).claim(os.getpid(), GIB, gpu=1)
    nvml.nvmlInit()
    assert nvml.nvmlDeviceGetCount() == 2
    handle = nvml.nvmlDeviceGetHandleByIndex(1)
    info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    assert (info.total, info.used, info.reserved) == (4 * GIB, GIB, MIB)
    assert info.free == info.total - info.used - info.reserved
    (process,) = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert (process.pid, process.usedGpuMemory) == (os.getpid(), GIB)
    assert not nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(0))
    with pytest.raises(nvml.NVMLError_InvalidArgument) as caught:
        nvml.nvmlDeviceGetHandleByIndex(2)
    assert str(caught.value) == "Invalid Argument"
    (tmp_path / "gpu.json").write_text('{"nvml_error": 15}')
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        nvml.nvmlDeviceGetCount()
