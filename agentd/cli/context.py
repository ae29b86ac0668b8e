"""What a command's `run` gets: its arguments, the daemon, the terminal."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from agentd.cli.terminal import Terminal

if TYPE_CHECKING:
    import argparse

    from agentd.client import Client


class Context:
    def __init__(self, args: argparse.Namespace, command: str) -> None:
        self.args = args
        self.command = command
        self.json: bool = getattr(args, "json", False)
        self.out = Terminal(sys.stdout)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            from agentd.client import Client

            self._client = Client(self.args.socket or "")
        return self._client

    def now(self) -> float:
        return time.time()

    def print_json(self, value: Any, *, compact: bool = False) -> None:
        """Indented for one answer; one line each, at once, for a stream."""
        print(json.dumps(value, indent=None if compact else 2, ensure_ascii=False), flush=compact)
