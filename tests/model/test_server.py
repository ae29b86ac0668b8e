"""The real vLLM is asked everything that the stand-in is held to: the suites of tests/contract/test_vllm_standin.py."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from lifecontract import LifeContract
from servercontract import ServerContract
from vllmserver import Program, Running

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
"""Seconds; a start takes 15 on a machine that does nothing else."""

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]


@contextmanager
def real() -> Iterator[Program]:
    """In a directory with a short name: a socket's path has a limit."""
    home = Path(tempfile.mkdtemp(prefix="v"))
    program = home / "vllm"
    program.write_text((ROOT / "tests/model/vllm").read_text().replace("@VENV@", str(ROOT / ".cache/vllm/venv")))
    program.chmod(0o755)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    try:
        with closing(Program([str(program)], ROOT / ".cache/vllm/models/qwen", environment, home, PATIENCE)) as found:
            yield found
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with real() as program:
        yield program.start("--max-model-len", "1024", dev=True).serving()


@pytest.fixture
def program() -> Iterator[Program]:
    with real() as program:
        yield program


class TestRealVllmServes(ServerContract):
    """0.32.0, as tests/model/install pins it."""


class TestRealVllmLives(LifeContract):
    """One server after the other."""


def test_the_cpu_build_has_no_sleep_mode(program: Program) -> None:
    """So that what a sleep does to a GPU's memory is known of the stand-in alone."""
    server = program.start("--enable-sleep-mode")
    assert server.ended() == 1
    assert "Sleep mode is not supported on current platform" in server.log.read_text()
