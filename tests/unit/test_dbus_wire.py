"""Framing, headers and partial decoding against messages that the D-Bus libraries make."""

from __future__ import annotations

from typing import Any

import dbus_next
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentd.adapters.bus_codec import Codec, choose
from agentd.core.dbus_frame import ERROR, METHOD_RETURN, SIGNAL, Header, frame_size, header_key, parse_header
from agentd.core.dbus_value import wanted_entries
from agentd.errors import AgentdError

LIBRARIES = ("next", "fast")
V = dbus_next.Variant


def marshal(**fields: Any) -> bytes:
    return bytes(dbus_next.Message(**{"serial": 7, **fields})._marshall(False))


def changed(serial: int, path: str = "/unit/x", body: str = "s") -> bytes:
    return marshal(
        message_type=dbus_next.MessageType.SIGNAL,
        path=path,
        interface="a.b",
        member="Changed",
        signature=body,
        body=["x" * serial] if body == "s" else [serial],
        serial=serial,
    )


def properties(values: dict[str, dbus_next.Variant]) -> bytes:
    return marshal(
        message_type=dbus_next.MessageType.METHOD_RETURN,
        reply_serial=3,
        signature="a{sv}",
        body=[values],
        sender=":1.0",
    )


def test_headers_of_every_kind() -> None:
    assert parse_header(changed(9)) == Header(SIGNAL, path="/unit/x", interface="a.b", member="Changed", signature="s")
    reply = marshal(message_type=dbus_next.MessageType.METHOD_RETURN, reply_serial=77, destination=":1.1")
    assert parse_header(reply) == Header(METHOD_RETURN, reply_serial=77)
    error = marshal(
        message_type=dbus_next.MessageType.ERROR, reply_serial=78, error_name="a.b.C", signature="s", body=["no"]
    )
    assert parse_header(error) == Header(ERROR, error_name="a.b.C", reply_serial=78, signature="s")


def test_header_of_a_big_endian_message() -> None:
    fields = b"\x01\x01o\x00" + b"\x00\x00\x00\x02/x\x00"
    frame = b"B\x04\x00\x01" + bytes(4) + b"\x00\x00\x00\x01" + len(fields).to_bytes(4, "big") + fields + b"\x00" * 5
    assert frame_size(frame, 0) == len(frame)
    assert parse_header(frame) == Header(SIGNAL, path="/x")


def test_frames_in_a_row() -> None:
    frames = [changed(n) for n in range(1, 20)]
    stream, at, found = b"".join(frames), 0, []
    while size := frame_size(stream, at):
        found.append(stream[at : at + size])
        at += size
    assert found == frames


@pytest.mark.parametrize("length", range(16))
def test_incomplete_fixed_part(length: int) -> None:
    assert frame_size(changed(1)[:length], 0) == 0


def test_key_ignores_serial_and_body_but_nothing_else() -> None:
    assert header_key(changed(1)) == header_key(changed(2))
    assert header_key(changed(1)) != header_key(changed(1, path="/unit/y"))
    assert header_key(changed(1)) != header_key(changed(1, body="u"))


@pytest.mark.parametrize(
    "frame",
    [b"HTTP/1.1 400 Bad", b"l\x01\x00\x02" + bytes(12), b"l\x01\x00\x01\xff\xff\xff\xff" + bytes(8)],
    ids=["text", "version", "size"],
)
def test_no_message_at_all(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"byte order|version|bytes"):
        frame_size(frame, 0)


@given(st.binary(max_size=200))
@example(b"l\x04\x00\x01" + bytes(8) + b"\x08\x00\x00\x00" + b"\x01\x01o\x00\xff\xff\xff\xff")
def test_garbage_is_an_error_and_nothing_else(garbage: bytes) -> None:
    frame = b"l\x04\x00\x01" + garbage
    for read in (parse_header, lambda data: wanted_entries(data, ["A"])):
        try:
            read(frame)
        except ValueError:
            continue


_VALUES: st.SearchStrategy[dbus_next.Variant] = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(lambda v: V("s", v)),
    st.integers(0, 2**32 - 1).map(lambda v: V("u", v)),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: V("x", v)),
    st.integers(-(2**15), 2**15 - 1).map(lambda v: V("n", v)),
    st.integers(0, 255).map(lambda v: V("y", v)),
    st.booleans().map(lambda v: V("b", v)),
    st.floats(allow_nan=False).map(lambda v: V("d", v)),
    st.lists(st.sampled_from(["a", "bb.service", ""])).map(lambda v: V("as", v)),
    st.binary(max_size=20).map(lambda v: V("ay", v)),
    st.lists(st.integers(0, 9)).map(lambda v: V("a(sxas)", [["n", i, ["x"] * i] for i in v])),
    st.sampled_from(["i", "a{sv}", ""]).map(lambda v: V("g", v)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)).map(
        lambda v: V("a{sv}", {k: V("t", n) for k, n in v.items()})
    ),
    st.integers(0, 9).map(lambda v: V("v", V("(sb)", ["x", v > 4]))),
)


@given(st.dictionaries(st.text("ABCDEFGH", min_size=1, max_size=3), _VALUES), st.sets(st.text("ABC", max_size=2)))
def test_wanted_entries_are_what_the_library_reads(values: dict[str, dbus_next.Variant], wanted: set[str]) -> None:
    codec = Codec("next")
    frame = properties(values)
    (whole,) = codec.body(frame)
    expected = {name: codec.plain(whole[name]) for name in wanted if name in whole}
    assert wanted_entries(frame, wanted) == expected
    assert Codec("fast").entries(frame, wanted) == expected


def test_wanted_entries_of_cut_bytes() -> None:
    frame = properties({"A": V("s", "text"), "B": V("as", ["x", "y"])})
    for end in range(16, len(frame)):
        with pytest.raises(ValueError, match="broken body"):
            wanted_entries(frame[:end], ["A", "B"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_codec_says_so_when_a_body_is_broken(library: str) -> None:
    codec = Codec(library)
    with pytest.raises(ValueError, match="broken body"):
        codec.body(changed(30)[:-10])


@pytest.mark.parametrize("library", LIBRARIES)
def test_codec_calls_never_start_a_service(library: str) -> None:
    frame = Codec(library).call(5, ("x.y", "/x", "x.y", "Do"), "sas", ["a", ["b"]])
    no_auto_start = 2
    assert frame[2] & no_auto_start
    assert frame_size(frame, 0) == len(frame)
    assert Codec(library).body(frame) == ["a", ["b"]]


def test_choice_of_the_library() -> None:
    assert choose("auto", {}).name == "fast"
    assert choose("auto", {"AGENTD_DBUS": "next"}).name == "next"
    assert choose("next", {"AGENTD_DBUS": "fast"}).name == "next"
    with pytest.raises(AgentdError, match=r"'sd' .AGENTD_DBUS.: allowed are auto, next, fast"):
        choose("auto", {"AGENTD_DBUS": "sd"})


def test_auto_falls_back_to_dbus_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dbus_fast", None)
    assert choose("auto", {}).name == "next"
    with pytest.raises(AgentdError, match="cannot use the D-Bus library 'fast'"):
        choose("fast", {})
