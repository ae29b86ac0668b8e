"""Models on the disk as small as they come: real headers, real indexes, a few bytes of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Tensors = Mapping[str, Sequence[int]]
"""Name -> shape, of F32."""


def safetensors(tensors: Tensors, *, metadata: Mapping[str, str] | None = None) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(at)


def model(directory: Path, *, shards: int = 1, tokenizer: bool = True) -> Path:
    """A whole model; with more than one shard it has an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}\n')
    if tokenizer:
        (directory / "tokenizer.json").write_text('{"version": "1.0"}\n')
    if shards == 1:
        (directory / "model.safetensors").write_bytes(safetensors({"a": [2, 3], "b": [4]}))
        return directory
    weight_map: dict[str, str] = {}
    for number in range(1, shards + 1):
        name, tensor = shard(number, shards), f"layer.{number}"
        (directory / name).write_bytes(safetensors({tensor: [8]}))
        weight_map[tensor] = name
    index = {"metadata": {"total_size": 32 * shards}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def shard(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def cached(hub: Path, repo: str = "org/tiny", *, shards: int = 1) -> Path:
    """The same in the layout of Hugging Face's cache; the directory that holds its snapshots."""
    root = hub / ("models--" + repo.replace("/", "--"))
    plain = model(root / "plain", shards=shards)
    snapshot, blobs = root / "snapshots" / ("0" * 40), root / "blobs"
    for directory in (snapshot, blobs, root / "refs"):
        directory.mkdir(parents=True)
    for file in plain.iterdir():
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        digest = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        (blobs / digest).write_bytes(content)
        (snapshot / file.name).symlink_to(f"../../blobs/{digest}")
        file.unlink()
    plain.rmdir()
    (root / "refs" / "main").write_text("0" * 40)
    return root


def torn(path: Path, *, by: int = 1) -> None:
    """Cut the end of a file off."""
    content = path.read_bytes()
    path.write_bytes(content[:-by])
