"""Index, checksum lists and other formats: what is understood; strange files give clauses, never exceptions."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core import model_files
from agentd.core.model_files import BadText

DIGEST = "0123456789abcdef" * 4


def test_an_index() -> None:
    weight_map = {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
    found = model_files.parse_index(json.dumps({"metadata": {"total_size": 12.0}, "weight_map": weight_map}).encode())
    assert found.shards == {"one.safetensors": ("a", "c"), "two.safetensors": ("b",)}
    assert found.total_size == 12


@pytest.mark.parametrize("total", [None, "12", -1, True, 1e400, 2**70, []])
def test_a_total_that_is_none_is_not_compared(total: object) -> None:
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": {}})
    assert model_files.parse_index(text.encode()).total_size == 0


@pytest.mark.parametrize("shard", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\nb", 1, None])
def test_a_shard_is_a_file_beside_the_index(shard: object) -> None:
    with pytest.raises(BadText):
        model_files.parse_index(json.dumps({"weight_map": {"a": shard}}).encode())


def test_tensors_that_are_missing() -> None:
    assert model_files.missing_tensors(["a"], ["a", "b"]) == ""
    assert model_files.missing_tensors(["a", "b", "c"], ["b"]).startswith('lacks the tensor "a" and 1 more')


def test_shards_that_count_themselves() -> None:
    names = ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors", "adapter.safetensors"]
    assert model_files.missing_shards(names) == ("model-00002-of-00003.safetensors",)
    assert model_files.missing_shards(["x-1-of-999999.bin"]) == (), "no model, and a list without end"
    assert model_files.missing_shards([]) == ()


def test_lists_of_checksums() -> None:
    text = f"{DIGEST}  a.safetensors\n{DIGEST.upper()} *./b.bin\nSHA256 (c d.gguf) = {DIGEST}\n# no\n{DIGEST} sub/e\n"
    assert model_files.parse_sums(text) == {"a.safetensors": DIGEST, "b.bin": DIGEST, "c d.gguf": DIGEST}
    assert model_files.parse_sums(f"{DIGEST}\n", alone="x") == {"x": DIGEST}
    assert model_files.parse_sums(f"{DIGEST}\n") == {}


def test_blobs_of_hugging_face() -> None:
    assert model_files.blob_digest(DIGEST) == DIGEST
    assert model_files.blob_digest(DIGEST[:40]) == "", "named by Git"
    assert model_files.blob_digest(DIGEST + ".incomplete") == ""


def test_what_are_weights() -> None:
    weights = [name for name in ("a.safetensors", "b.gguf", ".c.bin", "training_args.bin", "d.pt", "e.json", "f.pth")
               if model_files.is_weights(name)]  # fmt: skip
    assert weights == ["a.safetensors", "b.gguf", "d.pt", "f.pth"]


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(0, 2**62))
def test_any_bytes(head: bytes, tail: bytes, size: int) -> None:
    for clause in (
        model_files.gguf_problem(head, size),
        model_files.torch_problem(head, tail, size),
        model_files.gguf_problem(b"GGUF" + head, size),
        model_files.torch_problem(b"PK\x03\x04" + head, tail, size),
    ):
        assert clause.isprintable()
    for parse in (model_files.parse_json, model_files.parse_index):
        with contextlib.suppress(BadText):
            parse(head)
    assert model_files.ends_like_json(head, tail) in (True, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.fixed_dictionaries({"weight_map": JSON | st.dictionaries(st.text(max_size=4), JSON), "metadata": JSON}))
def test_any_index(value: dict[str, object]) -> None:
    with contextlib.suppress(BadText):
        found = model_files.parse_index(json.dumps(value).encode())
        assert all("/" not in shard for shard in found.shards)


@given(st.text(max_size=200), st.text(max_size=10))
def test_any_list(text: str, alone: str) -> None:
    assert all("/" not in name for name in model_files.parse_sums(text, alone=alone.replace("/", "")))
