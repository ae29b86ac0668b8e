"""A model's files looked at on a real disk: what is whole passes, and each kind of damage is named with its file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import struct
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from modelfiles import cached, model, safetensors, shard, torn

from agentd.adapters import weight_checks
from agentd.adapters.weights import WeightFiles
from agentd.errors import AgentdError
from agentd.ports_models import CheckedFiles


def problems(found: CheckedFiles) -> dict[str, str]:
    return {os.path.basename(p.path): p.problem for p in found.problems}  # noqa: PTH119


@pytest.mark.parametrize("shards", [1, 3])
def test_a_whole_model(tmp_path: Path, shards: int) -> None:
    found = weight_checks.check(str(model(tmp_path / "m", shards=shards)))
    assert found.problems == ()
    assert found.notes == ()
    assert found.files == shards
    assert found.size == sum(p.stat().st_size for p in (tmp_path / "m").glob("*.safetensors"))


def cut_shard(root: Path) -> None:
    torn(root / shard(2, 3))


def no_shard(root: Path) -> None:
    (root / shard(3, 3)).unlink()


def dangling(root: Path) -> None:
    (root / shard(3, 3)).unlink()
    (root / shard(3, 3)).symlink_to("../../blobs/gone")


def another_tensor(root: Path) -> None:
    (root / shard(1, 3)).write_bytes(safetensors({"other": [8]}))


def pointer(root: Path) -> None:
    (root / shard(1, 3)).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


def directory(root: Path) -> None:
    (root / shard(1, 3)).unlink()
    (root / shard(1, 3)).mkdir()


def fifo(root: Path) -> None:
    (root / shard(1, 3)).unlink()
    os.mkfifo(root / shard(1, 3))


def torn_index(root: Path) -> None:
    torn(root / "model.safetensors.index.json", by=9)


def escaping_index(root: Path) -> None:
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))


def no_config(root: Path) -> None:
    (root / "config.json").unlink()


def torn_config(root: Path) -> None:
    torn(root / "config.json", by=3)


def torn_large_tokenizer(root: Path) -> None:
    (root / "tokenizer.json").write_text('{"vocab": "' + "x" * weight_checks.SMALL_JSON + '"')


def counted_without_index(root: Path) -> None:
    (root / "model.safetensors.index.json").unlink()
    (root / shard(2, 3)).unlink()


@pytest.mark.parametrize(
    ("damage", "file", "problem"),
    [
        (cut_shard, shard(2, 3), "ends after"),
        (no_shard, shard(3, 3), "is missing"),
        (dangling, shard(3, 3), "is a link to ../../blobs/gone, which is not there"),
        (another_tensor, shard(1, 3), 'lacks the tensor "layer.1", which the index expects in it'),
        (pointer, shard(1, 3), "is only a pointer of Git LFS"),
        (directory, shard(1, 3), "is a directory"),
        (fifo, shard(1, 3), "is no regular file"),
        (torn_index, "model.safetensors.index.json", "is not valid JSON"),
        (escaping_index, "model.safetensors.index.json", "names a shard that is no file beside it"),
        (no_config, "config.json", "is missing"),
        (torn_config, "config.json", "is not valid JSON"),
        (torn_large_tokenizer, "tokenizer.json", "breaks off"),
        (counted_without_index, shard(2, 3), "is missing, by the count in the names of the others"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage: Callable[[Path], None], file: str, problem: str) -> None:
    root = model(tmp_path / "m", shards=3)
    damage(root)
    found = problems(weight_checks.check(str(root)))
    assert list(found) == [file]
    assert problem in found[file]


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root reads everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = model(Path(folder) / "m")
        (root / "model.safetensors").chmod(0)
        with as_ordinary_user():
            found = problems(weight_checks.check(str(root)))
    assert found == {"model.safetensors": "cannot be read: permission denied"}


def test_nothing_there(tmp_path: Path) -> None:
    assert problems(weight_checks.check(str(tmp_path / "none"))) == {"none": "does not exist"}
    (tmp_path / "empty").mkdir()
    assert problems(weight_checks.check(str(tmp_path / "empty"))).keys() == {"empty", "config.json"}


def test_unusual_and_harmless(tmp_path: Path) -> None:
    root = model(tmp_path / "m", shards=2, tokenizer=False)
    index = json.loads((root / "model.safetensors.index.json").read_text())
    index["metadata"]["total_size"] = 1
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    (root / "consolidated.safetensors").write_bytes(b"not in the index, not loaded")
    found = weight_checks.check(str(root))
    assert found.problems == ()
    assert found.notes == (
        "there is no tokenizer beside the weights", "the index tells of 1 bytes of tensors, there are 64",
    )  # fmt: skip


def test_other_formats(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    assert weight_checks.check(str(gguf)) == CheckedFiles(1, 24)
    assert weight_checks.check(str(tmp_path)).problems == (), "a GGUF model brings its configuration along"
    gguf.write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 0, 0))
    assert problems(weight_checks.check(str(gguf))) == {"tiny.gguf": "has GGUF version 9, which nobody knows"}
    root = tmp_path / "torch"
    root.mkdir()
    (root / "config.json").write_text("{}")
    (root / "training_args.bin").write_text("not looked at")
    with zipfile.ZipFile(root / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", "x" * 1000)
    assert problems(weight_checks.check(str(root))) == {}
    torn(root / "pytorch_model.bin", by=30)
    assert "the end of its zip archive is missing" in problems(weight_checks.check(str(root)))["pytorch_model.bin"]


def test_hugging_face_cache_and_its_checksums(tmp_path: Path) -> None:
    root = cached(tmp_path, shards=2)
    found = weight_checks.check(str(root), checksums=True)
    assert (found.problems, found.files, found.checksums) == ((), 2, 2)
    blob = (root / "snapshots" / ("0" * 40) / shard(1, 2)).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert weight_checks.check(str(root)).problems == (), "headers alone cannot show it"
    assert "is damaged: its SHA-256 is" in problems(weight_checks.check(str(root), checksums=True))[shard(1, 2)]
    blob.unlink()
    assert "is a link to" in problems(weight_checks.check(str(root)))[shard(1, 2)]


def test_lists_of_checksums(tmp_path: Path) -> None:
    root = model(tmp_path / "m", shards=2)
    digest = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.glob("*.safetensors")}
    (root / "SHA256SUMS").write_text(f"{digest[shard(1, 2)]}  ./{shard(1, 2)}\n{'0' * 64} *gone.safetensors\n")
    (root / f"{shard(2, 2)}.sha256").write_text("f" * 64 + "\n")
    seen: list[tuple[int, int]] = []
    found = weight_checks.check(str(root), checksums=True, told=lambda done, whole: seen.append((done, whole)))
    assert problems(found).keys() == {"gone.safetensors", shard(2, 2)}
    assert found.checksums == 2
    assert max(seen)[0] == seen[0][1] == sum((root / shard(n, 2)).stat().st_size for n in (1, 2))


def test_beside_a_model_of_one_file_the_checksums_of_others_do_not_count(tmp_path: Path) -> None:
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)
    ours, other = tmp_path / "ours.gguf", tmp_path / "other.gguf"
    ours.write_bytes(content)
    other.write_bytes(content + b"not what the list says")
    (tmp_path / "other.gguf.sha256").mkdir()
    digest = hashlib.sha256(content).hexdigest()
    listed = [f"{digest}  {name}" for name in ("other.gguf", "gone.gguf")]
    (tmp_path / "SHA256SUMS").write_text("\n".join(listed))
    found = weight_checks.check(str(ours), checksums=True)
    assert (found.problems, found.checksums) == ((), 0)
    assert found.notes[0].startswith("no checksums of ours.gguf are there")
    (tmp_path / "SHA256SUMS").write_text("\n".join([*listed, f"{digest}  ours.gguf"]))
    found = weight_checks.check(str(ours), checksums=True)
    assert (found.problems, found.checksums) == ((), 1)
    ours.write_bytes(content + b"damaged")
    assert problems(weight_checks.check(str(ours), checksums=True)).keys() == {"ours.gguf"}


def test_no_checksums_are_there(tmp_path: Path) -> None:
    found = weight_checks.check(str(model(tmp_path / "m")), checksums=True)
    assert (found.problems, found.checksums) == ((), 0)
    assert "no checksums are there" in found.notes[0]


def test_it_can_be_ended(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def beat() -> None:
        raise Enough

    root = cached(tmp_path)
    with pytest.raises(Enough):
        weight_checks.check(str(root), beat=beat)


def test_only_headers_are_read(tmp_path: Path) -> None:
    """A hundred shards of a gigabyte each, of which nothing is on the disk: reading them would take minutes."""
    root = model(tmp_path / "m", shards=100)
    for number in range(1, 101):
        header = json.dumps({f"layer.{number}": {"dtype": "U8", "shape": [2**30], "data_offsets": [0, 2**30]}}).encode()
        with (root / shard(number, 100)).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 2**30)
    begun = time.process_time()
    found = weight_checks.check(str(root))
    assert (found.problems, found.files) == ((), 100)
    assert time.process_time() - begun < 5.0


async def test_the_port(tmp_path: Path) -> None:
    files = WeightFiles()
    assert (await files.check(str(model(tmp_path / "m")))).problems == ()
    assert (await files.check(str(cached(tmp_path)), checksums=True)).checksums == 1
    torn(tmp_path / "m" / "model.safetensors")
    assert problems(await files.check(str(tmp_path / "m"))).keys() == {"model.safetensors"}


@pytest.mark.parametrize("checksums", [False, True])
async def test_cancelling_ends_the_reading(monkeypatch: pytest.MonkeyPatch, checksums: bool) -> None:
    began, ended = threading.Event(), threading.Event()

    def endless(path: str, *, checksums: bool, beat: Callable[[], None], told: object) -> CheckedFiles:
        try:
            while True:
                beat()
                began.set()
                time.sleep(0.001)
        finally:
            ended.set()

    monkeypatch.setattr(weight_checks, "check", endless)
    task = asyncio.ensure_future(WeightFiles().check("/m", checksums=checksums))
    assert await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 10)


async def test_a_disk_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def stuck(path: str, *, checksums: bool, beat: Callable[[], None], told: object) -> CheckedFiles:
        release.wait(30)
        return CheckedFiles(0, 0)

    monkeypatch.setattr(weight_checks, "check", stuck)
    monkeypatch.setattr("agentd.adapters.weight_threads.PATIENCE", 0.05)
    files = WeightFiles()
    for said in ("did not answer within", "an earlier access to files still hangs"):
        with pytest.raises(AgentdError, match=said):
            await files.check("/m")
    release.set()
