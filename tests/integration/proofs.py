"""The units that canaries are tried on, one for each directive that only behaviour shows, and some of several."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SECCOMP: Mapping[str, tuple[tuple[str, ...], str]] = {
    "RestrictAddressFamilies": (("RestrictAddressFamilies=AF_UNIX AF_INET",), "family:16"),
    "RestrictNamespaces": (("RestrictNamespaces=yes",), "unshare:user"),
    "RestrictSUIDSGID": (("RestrictSUIDSGID=yes",), "set-id"),
    "RestrictRealtime": (("RestrictRealtime=yes",), "realtime"),
    "LockPersonality": (("LockPersonality=yes",), "personality"),
    "MemoryDenyWriteExecute": (("MemoryDenyWriteExecute=yes",), "mmap-wx"),
    "SystemCallFilter": (("SystemCallFilter=@system-service", "SystemCallErrorNumber=EPERM"), "call:mount"),
    "SystemCallArchitectures": (("SystemCallArchitectures=native",), "foreign-abi"),
    "ProtectClock": (("ProtectClock=yes", "PrivateUsers=yes"), "call:clock_settime"),
}
"""Directive -> the lines of its unit, an act that shows it."""
SLEEP = "ExecStart=/bin/sleep infinity"
HIDDEN = ("InaccessiblePaths=-%t/bus -%t/systemd/private", "PrivateUsers=yes")
UNITS: Mapping[str, tuple[str, ...]] = {
    **{key.lower(): lines for key, (lines, _) in SECCOMP.items()},
    "keyringmode": ("KeyringMode=private",),
    "killing": ("SystemCallFilter=~@mount ptrace",),
    "masked": ("RestrictRealtime=yes", "SystemCallFilter=~sched_setscheduler", "SystemCallErrorNumber=EPERM"),
    "hidden": HIDDEN,
    "writable": ("ProtectSystem=strict", "ReadWritePaths=%h", "PrivateUsers=yes", "WorkingDirectory=%h"),
    "open": ("ProtectSystem=strict", "InaccessiblePaths=-%t/bus -%t/systemd/private"),
    "prefixed": ("RestrictRealtime=yes",),
    "broken": ("ReadWritePaths=/nowhere/at/all", "PrivateUsers=yes"),
    "whole": (
        *("PrivateUsers=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict"),
        *("ProtectHome=read-only", "InaccessiblePaths=-%t/bus -%t/systemd/private", "PrivateTmp=yes"),
        *("PrivateDevices=yes", "ProtectControlGroups=yes", "ProtectHostname=yes", "KeyringMode=private"),
        *(line for lines, _ in SECCOMP.values() for line in lines),
    ),
}


def name_of(which: str) -> str:
    return f"proof-{which}.service"


def text_of(which: str) -> str:
    command = SLEEP.replace("=", "=+") if which == "prefixed" else SLEEP
    return "\n".join(["[Service]", command, *UNITS[which], ""])


STARTED = tuple(which for which in UNITS if which != "broken")


def prepare() -> None:
    """What a manager of uid 0 puts over hidden paths; the one of a booted machine has it from the system manager."""
    place = Path("/run/systemd/inaccessible")
    if os.getuid() == 0 and not place.exists():
        place.symlink_to(Path(os.environ["XDG_RUNTIME_DIR"]) / "systemd/inaccessible")
