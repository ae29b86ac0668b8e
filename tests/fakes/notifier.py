"""What systemd would have been told."""

from __future__ import annotations


class FakeNotifier:
    """`sent` lists the calls in order: ("ready", ""), ("status", text), ..."""

    def __init__(self, watchdog_period: float | None = None) -> None:
        self.sent: list[tuple[str, str]] = []
        self.watchdog_period = watchdog_period

    def ready(self) -> None:
        self.sent.append(("ready", ""))

    def status(self, text: str) -> None:
        self.sent.append(("status", text))

    def reloading(self) -> None:
        self.sent.append(("reloading", ""))

    def stopping(self) -> None:
        self.sent.append(("stopping", ""))

    def watchdog(self) -> None:
        self.sent.append(("watchdog", ""))

    def count(self, call: str) -> int:
        return sum(1 for name, _ in self.sent if name == call)
