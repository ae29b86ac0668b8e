"""The header of a safetensors file: 8 bytes of length (little-endian), JSON, and then the tensors without a gap. Pure.

Two steps, so that nobody reads more than the header: `header_length` of the first 8 bytes, `parse` of what follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = 8
LARGEST_HEADER = 100 * 1000 * 1000
"""What the library itself accepts."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""A type that is not here is taken as it comes: new ones are added every year."""


class BadHeader(Exception):
    """The file is torn or no safetensors file; the text is a clause without a subject."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies, in bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header_length(prefix: bytes, size: int) -> int:
    """Bytes of JSON after the prefix, of a file with `size` bytes. Raises BadHeader."""
    if size == 0:
        raise BadHeader("is empty")
    if size < PREFIX or len(prefix) < PREFIX:
        raise BadHeader(f"ends after {size} bytes, within the length of its header")
    length = int.from_bytes(prefix[:PREFIX], "little")
    if not 0 < length <= LARGEST_HEADER:
        raise BadHeader("is no safetensors file, or its beginning is damaged")
    if PREFIX + length > size:
        raise BadHeader(f"ends after {size} bytes, within its header of {length} bytes")
    return length


def parse(header: bytes, size: int) -> Mapping[str, Tensor]:
    """The tensors by name, of a file with `size` bytes in all. Raises BadHeader."""
    raw = _json(header)
    tensors = {name: _tensor(name, value) for name, value in raw.items() if name != "__metadata__"}
    _contiguous(tensors)
    told = PREFIX + len(header) + max((t.end for t in tensors.values()), default=0)
    if told > size:
        raise BadHeader(f"ends after {size} of {told} bytes")
    if told < size:
        raise BadHeader(f"has {size - told} bytes more than its header tells of")
    return tensors


def _json(header: bytes) -> dict[str, Any]:
    if not header.startswith(b"{"):
        raise BadHeader("has a header that is no JSON object")
    try:
        raw = json.loads(header, object_pairs_hook=_unique)
    except RecursionError:
        raise BadHeader("has a header that is nested too deeply") from None
    except ValueError:  # Also what is no UTF-8, and numbers with too many digits.
        raise BadHeader("has a header that is not valid JSON") from None
    assert isinstance(raw, dict)
    metadata = raw.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadHeader("has metadata that are not texts by name")
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadHeader("names something twice in its header")
    return found


def _tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, dict):
        raise BadHeader(f"does not describe the tensor {_shown(name)}")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    numbers = isinstance(shape, list) and isinstance(offsets, list) and all(map(_natural, [*shape, *offsets]))
    if not isinstance(dtype, str) or not numbers or len(offsets) != 2:  # type: ignore[arg-type]
        raise BadHeader(f"does not describe the tensor {_shown(name)}")
    tensor = Tensor(dtype, tuple(shape), *offsets)  # type: ignore[arg-type, misc]
    if tensor.begin > tensor.end:
        raise BadHeader(f"has a tensor that ends before it begins: {_shown(name)}")
    _fits(name, tensor)
    return tensor


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _fits(name: str, tensor: Tensor) -> None:
    """Its bytes are as many as its shape and type want."""
    bits = _BITS.get(tensor.dtype)
    if bits is None:
        return
    for length in tensor.shape:
        bits *= length
        if bits >= 2**67:
            raise BadHeader(f"has a tensor of impossible size: {_shown(name)}")
    if 0 in tensor.shape:
        bits = 0
    if bits != 8 * (tensor.end - tensor.begin):
        raise BadHeader(f"has {tensor.end - tensor.begin} bytes where the tensor {_shown(name)} has {bits / 8:g}")


def _contiguous(tensors: Mapping[str, Tensor]) -> None:
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin < at:
            raise BadHeader(f"has tensors that overlap at {_shown(name)}")
        if tensor.begin > at:
            raise BadHeader(f"has a hole of {tensor.begin - at} bytes before {_shown(name)}")
        at = tensor.end


def _shown(name: str) -> str:
    """A name from the file, as short and harmless as a message wants it."""
    plain = "".join(c if c.isprintable() else "?" for c in name[:80])
    return f'"{plain}"'
