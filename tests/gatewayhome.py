"""A home directory with the gateway's sources and keys, and agentctl as a real process in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from agentd.cli.main import main
from agentd.core.gateway import env_text

ROOT = Path(__file__).resolve().parents[1]
ETC = ROOT / "etc/gateway"


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Home:
    """`outputs`: everything that was printed so far, to be searched for secrets."""

    path: Path
    outputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.path / ".config/agentd"
        self.sources = self.config / "gateway"
        self.generated = self.path / ".config/litellm/litellm-unified.yaml"
        self.env_file = self.config / "litellm.env"
        self.config.mkdir(parents=True)
        self.put_config("")

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("XDG_") and k != "AGENTD_CONFIG_DIR"}
        return kept | {
            "HOME": str(self.path),
            "AGENTD_CONFIG_DIR": str(self.config),
            "AGENTD_SOCKET": str(self.path / "none.sock"),
            "XDG_RUNTIME_DIR": str(self.path / "run"),
            "DBUS_SESSION_BUS_ADDRESS": "",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "PATH": "/usr/bin:/bin",
        }

    def put_config(self, text: str) -> None:
        (self.config / "agentd.toml").write_text(text)

    def put_sources(self) -> None:
        """Those that come with agentd."""
        shutil.copytree(ETC, self.sources, dirs_exist_ok=True)

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "agentd.cli.main", *words]

    def ctl(self, *words: str) -> Done:
        """In this process, which is quick; as agentctl would be in the home."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.env, clear=True),
            contextlib.chdir(self.path),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code = main(words)
            except SystemExit as end:
                code = int(end.code or 0)
        return self._done(code, out.getvalue(), err.getvalue())

    def run(self, *words: str, preexec: Callable[[], None] | None = None, timeout: float = 60.0) -> Done:
        """As a process of its own."""
        done = subprocess.run(
            self.argv(*words),
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.path,
            timeout=timeout,
            check=False,
            preexec_fn=preexec,
        )
        return self._done(done.returncode, done.stdout, done.stderr)

    def _done(self, code: int, out: str, err: str) -> Done:
        self.outputs += [out, err]
        assert "Traceback" not in err, err
        assert "internal error" not in err, err
        return Done(code, out, err)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """It goes on while the test does."""
        return subprocess.Popen(
            self.argv(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
            cwd=self.path,
        )

    def keys(self) -> dict[str, str]:
        return env_text.parse(self.env_file.read_text()) if self.env_file.exists() else {}

    def told(self, secrets: Sequence[str]) -> list[str]:
        """Secrets that were printed, or that lie in a file that is not meant to hold them."""
        files = (path for path in self.path.rglob("*") if path.is_file() and path.suffix != ".env")
        texts = [*self.outputs, *(path.read_text(errors="replace") for path in files)]
        return [secret for secret in secrets if any(secret in text for text in texts)]
