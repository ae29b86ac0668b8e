"""What the files of a model must be to one another: index and shards, configuration, checksums, other formats. Pure.

Texts and bytes come in, clauses without a subject come out ("ends after 3 of 4 bytes"); the reading is an adapter's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

INDEX = "model.safetensors.index.json"
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "tiktoken.model")
"""One of them is there in every model that has a tokenizer of its own; its name differs by family."""
JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
              "special_tokens_map.json", "preprocessor_config.json")  # fmt: skip
"""Looked at where they are there."""
FORMATS = ((".safetensors",), (".bin", ".pt", ".pth"), (".gguf",))
"""The one first that vLLM takes where a directory has several."""
NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scheduler.bin", "rng_state.pth")
"""Left behind by training, never loaded."""
LFS_POINTER = b"version https://git-lfs"

_SUM_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+[*]?(\S.*)")
_BSD_LINE = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ZIP_END = b"PK\x05\x06"
ZIP_TAIL = 65557
"""The record that ends a zip file, with the longest comment that may follow it."""
_GGUF_VERSIONS = range(1, 4)
_NUMBERED = re.compile(r"(.*-)(\d{1,6})(-of-)(\d{1,6})(\.[a-z]+)")
_MOST_SHARDS = 10_000


class BadText(Exception):
    """A file that cannot be understood; the text is a clause without a subject."""


@dataclass(frozen=True, slots=True)
class Index:
    """model.safetensors.index.json: which shard holds which tensor."""

    shards: Mapping[str, tuple[str, ...]]
    total_size: int
    """Bytes of all tensors, 0 where it is not told."""


def is_weights(name: str) -> bool:
    return name.endswith(WEIGHTS) and not name.startswith(".") and name not in NO_WEIGHTS


def preferred(names: Iterable[str]) -> list[str]:
    """The weights among these names; of several formats in one directory only one is loaded."""
    weights = [name for name in names if is_weights(name)]
    kinds = ([name for name in weights if name.endswith(endings)] for endings in FORMATS)
    return next(filter(None, kinds), [])


def parse_json(content: bytes) -> dict[str, Any]:
    """Raises BadText."""
    if content.startswith(LFS_POINTER):
        raise BadText("is only a pointer of Git LFS, the file itself was not fetched")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise BadText("is empty" if not content.strip() else "is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadText("is not a JSON object")
    return value


def parse_index(content: bytes) -> Index:
    """Raises BadText."""
    value = parse_json(content)
    weight_map = value.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BadText("has no weight_map")
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if "/" in shard or shard in ("", ".", "..") or not shard.isprintable():
            raise BadText("names a shard that is no file beside it")
        shards.setdefault(shard, []).append(tensor)
    metadata = value.get("metadata")
    total = metadata.get("total_size", 0) if isinstance(metadata, dict) else 0
    known = isinstance(total, int | float) and not isinstance(total, bool) and 0 <= total < 2**63
    return Index({shard: tuple(names) for shard, names in shards.items()}, int(total) if known else 0)


def missing_tensors(wanted: Collection[str], there: Collection[str]) -> str:
    """A clause about a shard that lacks what the index says; "" when it has all."""
    lacking = sorted(set(wanted) - set(there))
    if not lacking:
        return ""
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f'lacks the tensor "{lacking[0][:80]}"{more}, which the index expects in it'


def missing_shards(names: Collection[str]) -> tuple[str, ...]:
    """Of shards that count themselves ("model-00001-of-00003.safetensors") and have no index: those not there."""
    lacking: set[str] = set()
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None or not 0 < int(match[4]) <= _MOST_SHARDS:
            continue
        width = len(match[2])
        every = {f"{match[1]}{n:0{width}d}{match[3]}{match[4]}{match[5]}" for n in range(1, int(match[4]) + 1)}
        lacking |= every - set(names)
    return tuple(sorted(lacking))


def ends_like_json(head: bytes, tail: bytes) -> bool:
    """Of a file that is too large to be parsed for this: its first and last bytes."""
    return head.lstrip()[:1] == b"{" and tail.rstrip()[-1:] == b"}"


def gguf_problem(head: bytes, size: int) -> str:
    """Of the first 24 bytes of a .gguf file."""
    if size == 0:
        return "is empty"
    if not head.startswith(b"GGUF"):
        return "is no GGUF file, or its beginning is damaged"
    if size < 24 or len(head) < 24:
        return f"ends after {size} bytes, within its header"
    version = int.from_bytes(head[4:8], "little")
    return "" if version in _GGUF_VERSIONS else f"has GGUF version {version}, which nobody knows"


def torch_problem(head: bytes, tail: bytes, size: int) -> str:
    """Of a file that torch.save wrote: its first bytes, and its last ZIP_TAIL bytes. An old one is a bare pickle."""
    if size == 0:
        return "is empty"
    if head.startswith(LFS_POINTER):
        return "is only a pointer of Git LFS, the file itself was not fetched"
    if head.startswith(b"PK\x03\x04"):
        return "" if _ZIP_END in tail else f"breaks off after {size} bytes: the end of its zip archive is missing"
    if head[:1] == b"\x80":
        return ""
    return "is no file of torch's, or its beginning is damaged"


def parse_sums(text: str, *, alone: str = "") -> dict[str, str]:
    """Name -> SHA-256 of a list as sha256sum writes it. A list that is one bare digest is that of the file `alone`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if match := _SUM_LINE.fullmatch(line):
            found[match[2].removeprefix("./")] = match[1].lower()
        elif match := _BSD_LINE.fullmatch(line):
            found[match[1].removeprefix("./")] = match[2].lower()
        elif alone and _DIGEST.fullmatch(line.lower()):
            found[alone] = line.lower()
    return {name: digest for name, digest in found.items() if "/" not in name}


def blob_digest(name: str) -> str:
    """What the name of a blob in Hugging Face's cache says of its content: its SHA-256 for large files, else "" (the
    small ones are named by Git's own digest)."""
    return name if _DIGEST.fullmatch(name) else ""
