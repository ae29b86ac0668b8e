"""Fixtures of what is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from inspected import Children, Tree


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.end()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "cgroup")
    made.make("/user.slice", memory__max="max")
    made.make("/user.slice/app.slice", memory__max="4000")
    return made
