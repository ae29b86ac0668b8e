"""The program that tries, inside a service's sandbox, what the sandbox should deny and what it must allow."""

from __future__ import annotations

import re
from pathlib import Path

PARTS = ("calls", "world", "acts", "program")
_OURS = re.compile(r"^from (?:__future__|agentd\.canary\.\w+) import (?:\([^)]*\)|.*)\n", re.MULTILINE)
"""Imports that the joined text has no use for."""


def source() -> str:
    """The program's text for a bare interpreter's standard input: its sandbox may hide every file of ours."""
    folder = Path(__file__).parent
    texts = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in PARTS]
    return "from __future__ import annotations\n" + "\n".join(_OURS.sub("", text) for text in texts)
