"""The line of a program's last output that says why it ended, with a name for what is well known. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 240
"""Characters of a quoted line."""

_PROCESS = re.compile(r"^\((?:EngineCore|APIServer|Worker|VllmWorker)\S*(?: pid=\d+)?\)\s?")
"""Which of vLLM's processes speaks."""
_ROUTINE = re.compile(r"^(?:DEBUG|INFO|WARNING)\b")
_PREFIXES = (
    re.compile(r"^(?:ERROR|CRITICAL|WARNING|INFO)[\s:]+\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]+\] ?"),
    re.compile(r"^(?:ERROR|CRITICAL|WARNING|INFO): +"),
    re.compile(r"^\d+:[A-Z] \d\d \w{3} \d{4} [\d:.]+ [#*.-] "),
)

_BY_SYSTEMD = re.compile(
    r"^\S+\.(?:service|socket|scope): |^(?:Starting|Started|Stopping|Stopped|Failed to start|Finished|Reloading) \S"
)
_NOISE = re.compile(
    r"^\s|^Traceback|^During handling of|^The above exception|^\^+$|resource_tracker|destroy_process_group|"
    r"Shutting down|Application shutdown complete|Waiting for application shutdown|Finished server process|"
    r"^\s*$|^warnings\.warn"
)
_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|See root cause above|Engine process failed|EngineDeadError|"
    r"WorkerProc initialization failed|(?:EngineCore|WorkerProc) failed to start"
)
_ERROR = re.compile(r"(?:^|\s)(?:[\w.]+(?:Error|Exception|Interrupt)\b|(?i:fatal|panic|error)[:\s])")

SYMPTOMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"free memory on device.*less than desired", "not enough free GPU memory"),
        (r"error in memory profiling", "another process freed GPU memory while it was loading"),
        (r"no available memory for the cache blocks|kv cache is needed, which is larger",
         "no GPU memory left for the KV cache"),
        (r"outofmemoryerror|cuda out of memory|cuda error: out of memory", "CUDA out of memory"),
        (r"no cuda gpus are available|failed to infer device type|libcuda\.so|found no nvidia driver", "no usable GPU"),
        (r"driver (?:version )?is (?:too old|insufficient)|driver/library version mismatch",
         "the GPU driver does not fit"),
        (r"address already in use|errno 98\b", "its port is already in use"),
        (
            r"repo id must be|not a valid model identifier|invalid repository id or local directory|"
            r"does not appear to have a file named config\.json|can't load the configuration of|"
            r"repositorynotfounderror|localentrynotfounderror|offlinemodeisenabled",
            "the model was not found",
        ),
        (r"no such file or directory|filenotfounderror|can't open config file", "a file is missing"),
        (r"no space left on device", "the disk is full"),
        (r"cannot allocate memory|\bmemoryerror\b|defaultcpuallocator", "not enough memory"),
        (r"bad file format reading the append only file|wrong signature trying to load db|fatal error loading the db",
         "its data file is damaged"),
        (r"modulenotfounderror|importerror", "a Python module is missing"),
        (r"unrecognized arguments|: error: argument|invalid choice|bad directive|fatal config file error",
         "its command line or configuration is not valid"),
        (r"permission denied", "permission denied"),
    )
)  # fmt: skip
"""Pattern and name, the most telling first."""


def last_words(lines: Sequence[str]) -> str:
    """The telling line, newest first among equals: a known symptom, else an error, else the last thing said."""
    said = _said(lines)
    grave = [line for line in said if not _ROUTINE.search(line)]
    for pattern, name in SYMPTOMS:
        for line in reversed(grave):
            if pattern.search(line):
                short = _short(_bare(line))
                return f"{name} ({short})" if short.strip(" .").lower() != name.lower() else name
    errors = [line for line in grave if _ERROR.search(line) and not _CONSEQUENCE.search(line)]
    return _short(_bare((errors or said or [""])[-1]))


def complaints(lines: Sequence[str]) -> tuple[str, ...]:
    """The program's own words above INFO and WARNING, bare, oldest first."""
    return tuple(_bare(line) for line in _said(lines) if not _ROUTINE.search(line))


def is_routine(line: str) -> bool:
    """Said at INFO, WARNING or below, by whichever of its processes. A line of a traceback is none."""
    return bool(_ROUTINE.search(_PROCESS.sub("", line)))


def _said(lines: Sequence[str]) -> list[str]:
    return [clean for clean in map(_clean, lines) if clean]


def _clean(line: str) -> str:
    """The program's own words; "" for systemd's lines, code lines of a traceback and farewells."""
    if _BY_SYSTEMD.search(line):
        return ""
    line = _PROCESS.sub("", line)
    return "" if _NOISE.search(_bare(line)) else line.rstrip()


def _bare(line: str) -> str:
    for prefix in _PREFIXES:
        line = prefix.sub("", line)
    return line


def _short(line: str) -> str:
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"
