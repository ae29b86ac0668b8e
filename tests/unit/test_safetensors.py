"""The header of a safetensors file: what is accepted, and that nothing else ever comes out than its own exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfiles import safetensors as made

from agentd.core import safetensors
from agentd.core.safetensors import BadHeader, Tensor


def read(content: bytes) -> dict[str, Tensor]:
    """As the adapter does: the length first, then so many bytes and no more."""
    length = safetensors.header_length(content[:8], len(content))
    return dict(safetensors.parse(content[8 : 8 + length], len(content)))


def with_header(header: object, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def entry(begin: object, end: object, shape: object = (1,), dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_whole_file() -> None:
    assert read(made({"a": [2, 3], "b": [4], "scalar": []}, metadata={"format": "pt"})) == {
        "a": Tensor("F32", (2, 3), 0, 24), "b": Tensor("F32", (4,), 24, 40), "scalar": Tensor("F32", (), 40, 44),
    }  # fmt: skip


def test_no_tensor_at_all_and_empty_ones() -> None:
    assert read(with_header({})) == {}
    assert read(with_header({"a": entry(0, 0, [0, 7]), "b": entry(0, 1)}, 1))["a"].shape == (0, 7)


def test_a_type_that_nobody_knows_yet_is_taken_as_it_comes() -> None:
    assert read(with_header({"a": entry(0, 3, [100], "F2_NEW")}, 3))["a"].dtype == "F2_NEW"


def test_half_bytes() -> None:
    assert read(with_header({"a": entry(0, 2, [4], "F4")}, 2))["a"].end == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"1234", "ends after 4 bytes, within the length of its header"),
        (bytes(8), "is no safetensors file"),
        (b"\xff" * 16, "is no safetensors file"),
        (b"<!DOCTYPE html><html>", "is no safetensors file"),
        ((1000).to_bytes(8, "little") + b"{}", "ends after 10 bytes, within its header of 1000 bytes"),
        (with_header(b"[1]"), "no JSON object"),
        (with_header(b"{\x00}"), "not valid JSON"),
        (with_header(b'{"a": ' + b"[" * 100_000), "nested too deeply"),
        (with_header(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
        (with_header(b'{"a": "\xff"}'), "not valid JSON"),
        (with_header(b'{"a": {}, "a": {}}'), "twice"),
        (with_header({"__metadata__": {"a": 1}}), "metadata"),
        (with_header({"a": 1}), 'does not describe the tensor "a"'),
        (with_header({"a": {"dtype": "F32"}}), "does not describe"),
        (with_header({"a": entry(0, True)}, 1), "does not describe"),
        (with_header({"a": entry(-1, 0)}), "does not describe"),
        (with_header({"a": entry(0, 1, [1.0])}, 1), "does not describe"),
        (with_header({"a": entry(0, 1, dtype=None)}, 1), "does not describe"),
        (with_header({"a": entry(1, 0)}, 1), "ends before it begins"),
        (with_header({"a": entry(0, 4, [2])}, 4), 'has 4 bytes where the tensor "a" has 2'),
        (with_header({"a": entry(0, 4, [2**62, 2**62])}, 4), "impossible size"),
        (with_header({"a": entry(0, 2, [2]), "b": entry(1, 3, [2])}, 3), "overlap"),
        (with_header({"a": entry(0, 1), "b": entry(2, 3)}, 3), 'hole of 1 bytes before "b"'),
        (with_header({"a": entry(1, 2)}, 2), 'hole of 1 bytes before "a"'),
        (made({"a": [4]})[:-1], "ends after"),
        (made({"a": [4]}) + b"x", "has 1 bytes more than its header tells of"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, problem: str) -> None:
    with pytest.raises(BadHeader, match=problem.replace("[", r"\[")):
        read(content)


def test_names_from_the_file_are_harmless_in_messages() -> None:
    with pytest.raises(BadHeader) as error:
        read(with_header({"\x1b[2J\n" + "x" * 500: 1}))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 150


def test_only_the_header_is_wanted() -> None:
    """A prefix of 8 bytes tells how much has to be read; the rest of a file of terabytes stays where it is."""
    header = json.dumps({"a": entry(0, 2**40, [2**40])}).encode()
    size = 8 + len(header) + 2**40
    assert safetensors.header_length(len(header).to_bytes(8, "little"), size) == len(header)
    assert safetensors.parse(header, size)["a"].end == 2**40


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
NUMBER = st.integers(-2, 40) | st.integers()
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BF16", "F4", "?"]) | JSON,
        "shape": st.lists(NUMBER, max_size=3) | JSON,
        "data_offsets": st.lists(NUMBER, min_size=1, max_size=3) | JSON,
    }
)


def never_anything_else(content: bytes) -> None:
    try:
        tensors, problem = read(content), ""
    except BadHeader as error:
        tensors, problem = {}, str(error)
    if problem:
        assert problem.isprintable()
        return
    ends = max((t.end for t in tensors.values()), default=0)
    assert 8 + int.from_bytes(content[:8], "little") + ends == len(content)


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    never_anything_else(content)


@given(st.binary(max_size=200), st.integers(0, 40))
def test_any_bytes_as_header(header: bytes, data: int) -> None:
    never_anything_else(with_header(header, data))


@given(JSON | st.dictionaries(st.text(max_size=4), TENSOR | JSON, max_size=4), st.integers(0, 60))
def test_any_json_as_header(header: object, data: int) -> None:
    never_anything_else(with_header(header, data))


@given(st.data())
def test_a_whole_file_with_one_byte_changed_cut_or_added(data: st.DataObject) -> None:
    content = bytearray(made({"a": [2, 3], "b": [4]}, metadata={"format": "pt"}))
    at = data.draw(st.integers(0, len(content) - 1))
    what = data.draw(st.sampled_from(["change", "cut", "add"]))
    if what == "change":
        content[at] = data.draw(st.integers(0, 255))
    elif what == "cut":
        del content[at:]
        with pytest.raises(BadHeader):
            read(bytes(content))
    else:
        content += bytes(at + 1)
        with pytest.raises(BadHeader):
            read(bytes(content))
    never_anything_else(bytes(content))
