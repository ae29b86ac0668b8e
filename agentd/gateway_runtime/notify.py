"""sd_notify: what systemd is told. Nothing happens when it did not start us."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """Takes NOTIFY_SOCKET out of the environment, so that children do not speak for us."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        self._address = (os.environ if environ is None else environ).pop("NOTIFY_SOCKET", "")

    def ready(self, text: str) -> None:
        self._send(f"READY=1\nSTATUS={text}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def stopping(self, text: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={text}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(1.0)
            out.connect(address)
            out.sendall(text.encode())
