"""Errors that a caller inspects. Everything else that is raised is a bug and is reported as `internal`."""

from __future__ import annotations

from collections.abc import Sequence


class AgentdError(Exception):
    """An expected failure, told to the user as one sentence.

    `kind` is a stable slug ("unit-not-found", "bus-down", "conflict", ...): the API, the metrics and
    the exit codes key on it. `hint` says what to do next, without repeating the message.
    """

    def __init__(self, kind: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class BusError(AgentdError):
    """A D-Bus call failed. `name` is the D-Bus error name ("" when the bus itself is gone)."""

    def __init__(self, kind: str, message: str, *, name: str = "", hint: str = "") -> None:
        super().__init__(kind, message, hint=hint)
        self.name = name


class ConflictError(AgentdError):
    """Another change holds the slot; `change_id` is the running one."""

    def __init__(self, message: str, change_id: str) -> None:
        super().__init__("conflict", message, hint=f"follow it with: agentctl switch status {change_id}")
        self.change_id = change_id


class ConfigProblem:
    """One thing wrong in the configuration: where (`line` 0: not known), which value, what is allowed."""

    __slots__ = ("allowed", "file", "key", "line", "message", "value")

    def __init__(self, file: str, key: str, message: str, *, value: str = "", allowed: str = "", line: int = 0) -> None:
        self.file = file
        self.line = line
        self.key = key
        self.message = message
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        if self.key:
            where += f"{self.key}: "
        text = where + self.message
        if self.value:
            text += f" (got {self.value})"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        return text


class ConfigError(AgentdError):
    """The configuration is not usable; `problems` lists every error found, not only the first."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        count = len(problems)
        lines = "\n".join(f"  {p}" for p in problems)
        super().__init__("config-invalid", f"{count} error{'s' if count != 1 else ''} in the configuration:\n{lines}")
        self.problems = tuple(problems)
