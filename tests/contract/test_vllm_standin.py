"""The stand-in vLLM is held to what the real one does; tests/model/test_server.py runs the same suites on that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lifecontract import LifeContract
from servercontract import ServerContract
from standinvllm import standin
from vllmserver import Program, Running

MEASURED = "0.32.0"
PACE = 0.006
"""Seconds per token, so that a long answer lasts."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with standin(tmp_path_factory.mktemp("v"), version=MEASURED, token_seconds=PACE) as (program, _):
        yield program.start("--max-model-len", "1024", dev=True).serving()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with standin(tmp_path, version=MEASURED, token_seconds=PACE) as (program, _):
        yield program


class TestStandInServes(ServerContract):
    """Without a GPU's memory to give back, as on the CPU."""


class TestStandInLives(LifeContract):
    """The same processes, the same ends."""
