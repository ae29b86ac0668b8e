"""Durations and sizes are systemd's, exact in both directions."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.quantities import (
    MAX_BYTES,
    MAX_SECONDS,
    QuantityError,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_seconds,
)

BRIEFLY = settings(max_examples=60, deadline=None)

SPANS = {
    "90s": 90.0,
    "1min 30s": 90.0,
    "1 min 30 s": 90.0,
    "1min 5": 65.0,
    "5 6": 11.0,
    "2h": 7200.0,
    "1.5h": 5400.0,
    "1h1m": 3660.0,
    "3hr": 10800.0,
    ".5s": 0.5,
    "500ms": 0.5,
    "2µs": 0.000002,
    "1.5us": 0.000001,
    "0.3us": 0.0,
    "00012s": 12.0,
    "1.1234567s": 1.123456,
    "1M 1y": 34187400.0,
    "1y 2month 3w 4d 5h 6min 7s 8ms 9us": 38995567.008009,
    "0": 0.0,
}


@pytest.mark.parametrize(("text", "seconds"), SPANS.items())
def test_spans(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def test_spans_are_what_systemd_says() -> None:
    output = subprocess.run(["systemd-analyze", "timespan", *SPANS], capture_output=True, text=True, check=True).stdout
    theirs = [int(value) / 1_000_000 for value in re.findall(r"μs: (\d+)", output)]
    assert theirs == [parse_seconds(text) for text in SPANS]


def test_formatted_spans_are_read_back_by_systemd() -> None:
    seconds = [90.0, 0.5, 1.5, 61.25, 0.0015, 0.000001, 86399.999999, 38995567.008009]
    texts = [format_seconds(value) for value in seconds]
    assert texts[:5] == ["1min 30s", "500ms", "1.5s", "1min 1.25s", "1.5ms"]
    output = subprocess.run(["systemd-analyze", "timespan", *texts], capture_output=True, text=True, check=True).stdout
    assert [int(value) / 1_000_000 for value in re.findall(r"μs: (\d+)", output)] == seconds


@pytest.mark.parametrize(("number", "seconds"), [(90, 90.0), (0, 0.0), (1.5, 1.5), (0.1, 0.1), (1e-9, 0.0)])
def test_numbers_are_seconds(number: float, seconds: float) -> None:
    assert parse_seconds(number) == seconds


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("infinity", "must be finite"),
        (float("inf"), "must be finite"),
        (float("nan"), "must be finite"),
        (-1, "must not be negative"),
        ("-5s", "must not be negative"),
        ("s", "is not a duration"),
        ("1.s", "is not a duration"),
        ("1.5.5s", "is not a duration"),
        ("5s -3s", "is not a duration"),
        ("soon", "is not a duration"),
        ("5ns", 'has an unknown time unit "ns"'),
        ("1H", 'has an unknown time unit "H"'),
        ("1s,", 'has an unknown time unit "s,"'),
        ("101y", "is longer than 100y"),
        ("9" * 5000 + "s", "is longer than 100y"),
        (10**400, "is longer than 100y"),
        (True, "expected a duration"),
        ([90], "expected a duration"),
    ],
)
def test_bad_durations(value: object, reason: str) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_seconds(value)
    assert str(caught.value) == reason


@BRIEFLY
@given(st.integers(0, MAX_SECONDS * 1_000_000))
def test_durations_survive_a_round_trip(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert parse_seconds(format_seconds(seconds)) == seconds
    assert parse_seconds(seconds) == seconds


@BRIEFLY
@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_reason(text: str) -> None:
    try:
        seconds = parse_seconds(text)
    except QuantityError:
        return
    assert 0 <= seconds <= MAX_SECONDS


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("14G", 14 * 1024**3),
        ("14 G", 14 * 1024**3),
        ("1.5G", 1536 * 1024**2),
        ("1K", 1024),
        ("7E", 7 * 1024**6),
        ("7B", 7),
        ("7", 7),
        (7, 7),
        ("0", 0),
        (0, 0),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_bytes(value) == size


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty"),
        ("infinity", "must be finite"),
        ("-1G", "must not be negative"),
        (-1, "must not be negative"),
        ("G", "is not a size"),
        ("1e3", "is not a size"),
        ("1G 5M", "is not a size"),
        ("14GB", 'has an unknown size unit "GB", did you mean "G"?'),
        ("14GiB", 'has an unknown size unit "GiB", did you mean "G"?'),
        ("14g", 'has an unknown size unit "g", did you mean "G"?'),
        ("14X", 'has an unknown size unit "X"'),
        ("8E", "must be less than 8E"),
        (10**30, "must be less than 8E"),
        (1.5, "expected a size"),
        (True, "expected a size"),
    ],
)
def test_bad_sizes(value: object, reason: str) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_bytes(value)
    assert str(caught.value) == reason


@BRIEFLY
@given(st.integers(0, MAX_BYTES))
def test_sizes_survive_a_round_trip(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size


@BRIEFLY
@given(st.integers(1, 1023), st.integers(0, 5))
def test_round_sizes_are_written_with_their_suffix(number: int, power: int) -> None:
    assert format_bytes(number * 1024**power) == f"{number}{['', 'K', 'M', 'G', 'T', 'P'][power]}"
