"""Warming of weight files: the fake and the real reader, and what only the real one can get wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pagecache
import pytest
from fakes.weights import FakeWeights

from agentd.adapters import page_cache, page_reader, weights
from agentd.adapters.page_cache import weight_files
from agentd.adapters.weights import WeightFiles
from agentd.errors import AgentdError

MIB = 1024**2
ALL = 1 << 40


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shards of 20 MiB in all, out of the page cache; so little is worth it here."""
    monkeypatch.setattr(page_cache, "WORTH", 2 * MIB)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name, size in (("model-00001-of-00002.safetensors", 12), ("model-00002-of-00002.safetensors", 8)):
        (folder / name).write_bytes(os.urandom(MIB) * size)
        pagecache.drop(folder / name)
    return folder


def in_cache(folder: Path) -> int:
    """Bytes."""
    found = [pagecache.cached(path) for path in folder.glob("*.safetensors")]
    assert None not in found, "the kernel does not tell what is cached"
    return sum(filter(None, found))


@pytest.fixture(params=["fake", "real"])
def files(request: pytest.FixtureRequest, model: Path) -> FakeWeights | WeightFiles:
    if request.param == "real":
        return WeightFiles()
    fake = FakeWeights()
    fake.sizes[str(model)], fake.worth, fake.bytes_per_second = 20 * MIB, 2 * MIB, 80 * MIB
    return fake


def nothing(_done: int, _whole: int) -> None:
    pass


async def test_it_reads_all_of_it_and_tells_how_far_it_is(files: FakeWeights | WeightFiles, model: Path) -> None:
    told: list[tuple[int, int]] = []
    assert await files.warm(str(model), ALL, lambda done, whole: told.append((done, whole))) == 20 * MIB
    assert told[-1] == (20 * MIB, 20 * MIB)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


async def test_it_reads_no_more_than_it_may(files: FakeWeights | WeightFiles, model: Path) -> None:
    assert await files.warm(str(model), 13 * MIB, nothing) == 13 * MIB
    assert await files.warm(str(model), 0, nothing) == 0


async def test_what_is_not_there_is_no_error(files: FakeWeights | WeightFiles, tmp_path: Path) -> None:
    assert await files.warm(str(tmp_path / "none"), ALL, nothing) == 0


async def test_little_is_not_worth_a_process(
    files: FakeWeights | WeightFiles, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "WORTH", 21 * MIB)
    if isinstance(files, FakeWeights):
        files.worth = 21 * MIB
    assert await files.warm(str(model), ALL, nothing) == 0


async def test_cancelling_ends_it(
    files: FakeWeights | WeightFiles, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the middle: the real one is held after its first piece."""
    monkeypatch.setattr(page_cache, "_READER", str(script(tmp_path, HELD)))
    first, told = asyncio.Event(), list[int]()

    def tell(done: int, _whole: int) -> None:
        told.append(done)
        if done:
            first.set()

    task = asyncio.ensure_future(files.warm(str(model), ALL, tell))
    async with asyncio.timeout(20):
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert 0 < told[-1] < 20 * MIB
    if isinstance(files, WeightFiles):
        assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


HELD = """
import os, pathlib, sys, time
pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
print(8 * 1024**2, flush=True)
time.sleep(60)
"""


def script(folder: Path, text: str) -> Path:
    path = folder / "reader.py"
    path.write_text(text)
    return path


async def test_a_disk_that_does_not_answer_is_given_up(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page_cache, "_READER", str(script(tmp_path, HELD)))
    monkeypatch.setattr(page_cache, "PATIENCE", 0.5)
    with pytest.raises(AgentdError, match="did not answer within"):
        await WeightFiles().warm(str(model), ALL, nothing)
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


@pytest.mark.parametrize("text", ["raise SystemExit(1)", "print('nonsense'); print(-3); print()"])
async def test_a_reader_that_fails_is_no_error(
    text: str, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page_cache, "_READER", str(script(tmp_path, text)))
    assert await WeightFiles().warm(str(model), ALL, nothing) == 0


async def test_it_dies_with_us(model: Path, tmp_path: Path) -> None:
    program = (
        "import asyncio, os, signal, sys\nfrom agentd.adapters import page_cache\n"
        "page_cache.WORTH, page_cache._READER = 0, sys.argv[2]\n"
        "die = lambda done, _: done and os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(page_cache.PageCache().warm(sys.argv[1], 1 << 40, die))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(model), str(script(tmp_path, HELD))
    )
    assert await process.wait() == -signal.SIGKILL
    async with asyncio.timeout(10):
        await ended(int((tmp_path / "pid").read_text()))


async def ended(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, gone.set)
    await gone.wait()
    asyncio.get_running_loop().remove_reader(handle)
    os.close(handle)


async def test_the_kernel_has_it_then(model: Path) -> None:
    assert in_cache(model) == 0, "this file system keeps what it was told to drop"
    await WeightFiles().warm(str(model), ALL, nothing)
    # The kernel may take a few pages back at any time.
    assert in_cache(model) > 18 * MIB


async def test_a_scope_of_its_own_is_asked_for_where_we_are_a_service(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = tmp_path / "systemd-run"
    run.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    run.chmod(0o755)
    scope = (str(run), "--user", "--scope", "--")
    monkeypatch.setattr(page_cache.child, "apart", lambda _: scope)
    assert await WeightFiles().warm(str(model), ALL, nothing) == 20 * MIB
    assert (tmp_path / "words").read_text().startswith("--user --scope -p CPUWeight=10 -p IOWeight=10 -- ")


def test_the_reader_leaves_out_what_it_cannot_read(model: Path) -> None:
    shards = sorted(map(str, model.glob("*.safetensors")))
    command = [sys.executable, "-I", "-S", page_reader.__file__]

    def read(limit: int, *paths: str) -> list[int]:
        done = subprocess.run([*command, str(limit), *paths], capture_output=True, text=True, check=True, timeout=30)
        return [int(line) for line in done.stdout.split()]

    assert read(ALL, *shards) == [8 * MIB, 12 * MIB, 20 * MIB]
    assert read(9 * MIB, *shards) == [8 * MIB, 9 * MIB]
    assert read(ALL, str(model / "gone"), str(model), shards[1]) == [8 * MIB]
    assert read(0, *shards) == []
    empty = model / "empty.safetensors"
    empty.touch()
    assert read(ALL, str(empty)) == []
    fifo = model / "fifo.safetensors"
    os.mkfifo(fifo)
    assert read(ALL, str(fifo), shards[1]) == [8 * MIB], "nobody writes to it"


def test_the_files_that_vllm_will_read(tmp_path: Path) -> None:
    def names() -> list[str]:
        return [path.name for path, _ in weight_files(str(tmp_path))]

    assert names() == []
    (tmp_path / "a.gguf").write_bytes(b"12345")
    assert weight_files(str(tmp_path / "a.gguf")) == [(tmp_path / "a.gguf", 5)]
    assert names() == ["a.gguf"]
    (tmp_path / "training_args.bin").write_bytes(b"1234567")
    assert names() == ["a.gguf"]
    (tmp_path / "pytorch_model.bin").write_bytes(b"1")
    assert names() == ["pytorch_model.bin"]
    for name in ("model-2.safetensors", "model-1.safetensors", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(b"1")
    assert names() == ["consolidated.safetensors", "model-1.safetensors", "model-2.safetensors"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert names() == ["model-1.safetensors", "model-2.safetensors"]
    for broken in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "gone.safetensors"}}'):
        index.write_text(broken)
        assert len(names()) == 3
    (tmp_path / "model-3.safetensors").symlink_to(tmp_path / "gone")
    assert len(names()) == 3


async def test_the_size_is_that_of_the_files_that_vllm_will_read(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(bytes(MIB))
    assert await WeightFiles().weights(str(model)) == 20 * MIB
    assert await WeightFiles().weights(str(model / "gone")) == 0


async def test_the_size_is_not_known_where_the_disk_does_not_answer(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(weights, "weight_files", lambda _path: held.wait(30) and [])
    monkeypatch.setattr(weights, "PATIENCE", 0.1)
    try:
        assert await WeightFiles().weights(str(model)) == 0
    finally:
        held.set()
