"""Environment files: what systemd itself makes of a text, and what we read from it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agentd.core.gateway.env_text import parse, with_values

TEXT = """\
# a comment
; another one
PLAIN=one
 SPACES =  two words\x20\x20
EMPTY=
SINGLE='one \\ "two" $X'
DOUBLE="a\\"b\\$c\\`d\\\\e\\f"
JOINED="x"'y'z
LATER=x"y" 'z'
CONTINUED=one \\
two
ESCAPED=a\\ b\\\\
LINES="first
second"
HASH=one # two
EQUAL=a=b==
no assignment here
1BAD=x
BAD-NAME=y
export EXPORTED=z
TWICE=first
TWICE=second
CR=value\r
LAST=without an end"""


@pytest.fixture(autouse=True)
def _inside() -> None:
    if os.environ.get("AGENTD_SANDBOX") != "1":
        pytest.fail("cannot run here: this wants `agentctl sandbox --bare -- pytest tests/integration`")


def by_systemd(path: Path) -> dict[str, str]:
    argv = ["systemd-run", "--user", "--wait", "--pipe", "--quiet", f"--property=EnvironmentFile={path}", "env", "-0"]
    done = subprocess.run(argv, capture_output=True, timeout=30, check=True)
    pairs = (item.partition("=") for item in done.stdout.decode().split("\0") if item)
    return {name: value for name, _, value in pairs}


def test_both_read_the_same() -> None:
    path = Path.home() / "strange.env"
    path.write_text(TEXT, newline="")
    path.chmod(0o600)
    theirs = by_systemd(path)
    ours = parse(TEXT)
    assert {name: theirs.get(name) for name in ours} == ours
    assert not {"1BAD", "BAD-NAME", "EXPORTED", "export EXPORTED"} & set(theirs) & set(ours)
    values = {"PLAIN": "sk-new", "LINES": 'a "b" $c `d` \\e', "ADDED": "x y"}
    path.write_text(with_values(TEXT, values), newline="")
    after = by_systemd(path)
    assert {name: after.get(name) for name in ours | values} == ours | values
