"""The stand-in vLLM as a program for tests/vllmserver.py, in a home and with GPUs of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from vllmserver import Program

from agentd.sandbox import home as sandbox_home
from agentd.sandbox.gpu import GIB, Memory
from agentd.sandbox.standins import behaviour

QUICK: dict[str, object] = {"load_seconds": 0.0, "vram_release_seconds": 0.0}


@contextmanager
def standin(home: Path, *, gpus: int = 1, **settings: object) -> Iterator[tuple[Program, Memory]]:
    """`gpus` cards of 16 GiB; `settings` are those of behaviour.py, on top of QUICK, until `prepare` sets others."""
    python = os.path.realpath("/proc/self/exe")
    sandbox_home.programs(home / "bin", python, python)
    (home / "gpu").mkdir()
    (home / "gpu/gpu.json").write_text(json.dumps({"gpus": [{"total": 16 * GIB}] * gpus}))
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "AGENTD_STANDIN_GPU": str(home / "gpu")}

    def prepare(more: dict[str, object]) -> None:
        behaviour.save(home, "qwen", **{**QUICK, **settings, **more})

    prepare({})
    with closing(Program([str(home / "bin/vllm")], home, environment, home, 10.0, prepare)) as program:
        yield program, Memory(home / "gpu")
