"""What the well-known Xid errors of the NVIDIA driver mean, and what to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.findings import Severity

HOUR = 3600.0
DAY = 24 * HOUR

_PROGRAM = (
    "look at the log of the program that ran on the GPU; the GPU itself is well unless this comes again and again"
)
_RESET = "stop what runs on the GPU, then: sudo nvidia-smi --gpu-reset -i INDEX; where that is refused, reboot"
_REPLACE = f"{_RESET}; if it comes again, the GPU is to be replaced"
_BUS = "reboot, or power the machine off and on; check the seat of the card, its power cables and its cooling"
_DRIVER = "reboot; if it comes again, install another version of the driver"
_LINK = "sudo nvidia-smi nvlink -e -i INDEX shows the errors; check the bridge, reset or reboot"


@dataclass(frozen=True, slots=True)
class Meaning:
    text: str
    fix: str
    severity: Severity
    kept: float
    """Seconds for which it is worth telling."""


def _program(text: str) -> Meaning:
    return Meaning(text, _PROGRAM, Severity.INFO, HOUR)


def _hardware(text: str, fix: str, severity: Severity = Severity.ERROR) -> Meaning:
    return Meaning(text, fix, severity, DAY)


XIDS = {
    13: _program("a program made the GPU's engine fail"),
    31: _program("a program used memory of the GPU that is not its own"),
    32: _hardware("commands reached the GPU damaged", _BUS, Severity.WARNING),
    38: _hardware("the driver's firmware failed", _DRIVER),
    43: _program("the GPU stopped working for one program"),
    45: _program("the work of a program that ended or failed was cleared away"),
    48: _hardware("GPU memory had an error that cannot be corrected", _REPLACE),
    61: _hardware("a controller inside the GPU stopped", _RESET),
    62: _hardware("a controller inside the GPU stopped", _RESET),
    63: _hardware("bad GPU memory is replaced by spare memory at the next reset", _RESET, Severity.WARNING),
    64: _hardware("bad GPU memory could not be replaced by spare memory", _REPLACE),
    68: _program("the video decoder failed"),
    69: _program("a program sent the GPU what it does not know"),
    74: _hardware("an NVLink failed", _LINK),
    79: _hardware("the GPU has fallen off the bus", _BUS),
    92: _hardware("GPU memory needs many corrections", _REPLACE, Severity.WARNING),
    94: _hardware("an error of GPU memory ended one program and was contained", _RESET, Severity.WARNING),
    95: _hardware("an error of GPU memory was not contained: any program on the GPU may be wrong", _REPLACE),
    109: _program("the GPU could not change from one program to another in time"),
    119: _hardware("the GPU's own processor (GSP) does not answer", _DRIVER),
    120: _hardware("the GPU's own processor (GSP) failed", _DRIVER),
    140: _hardware("GPU memory had an error that was not recovered", _REPLACE),
    143: _hardware("the GPU could not be initialised", _BUS),
    154: _hardware("the driver wants the GPU to be reset or the machine rebooted", _RESET, Severity.WARNING),
}


def meaning(code: int) -> Meaning:
    """Also of a code that is not in the table."""
    other = _hardware(
        "see the list of Xid errors in NVIDIA's documentation", "see: journalctl -k -g Xid", Severity.WARNING
    )
    return XIDS.get(code, other)
