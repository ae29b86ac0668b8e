"""How much GPU memory a model needs to start, on each of its GPUs, and where that figure comes from. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from agentd.core.quantities import told_bytes
from agentd.gpu import Gpu

USUAL_UTILIZATION = 0.90
"""vLLM's own for most of its history; newer ones take RECENT_UTILIZATION."""
RECENT_UTILIZATION = 0.92
RECENT_VERSION = (0, 25)
"""From here on the higher one is certain."""

_UTILIZATION = ("--gpu-memory-utilization", "--gpu_memory_utilization")
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_VARIABLE = re.compile(r"(?<!\$)\$\{?(\w+)\}?")


@dataclass(frozen=True, slots=True)
class Utilization:
    """vLLM's share of a GPU; `source` is a clause that follows the figure."""

    share: float
    source: str


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes on one GPU; 0: nobody knows. `source` follows the figure in a sentence: "as configured"."""

    size: int
    source: str = ""


UNKNOWN = Need(0)
CONFIGURED = "as configured"


def utilization_of(argv: Sequence[str], version: str = "") -> Utilization | None:
    """What a unit's command line asks for; None when it is no vLLM server or takes the value from where we cannot see.

    `version`: of vLLM, where it is known: its default has changed.
    """
    words = _words(argv)
    if not _serves(words):
        return None
    said = _last_value(words, _UTILIZATION)
    if said is None:
        if _last_value(words, ("--config",)) is not None:
            return None
        return Utilization(_default(version), "vLLM's default")
    try:
        share = float(said)
    except ValueError:
        return None
    return Utilization(share, "as its unit says") if 0.0 < share <= 1.0 else None


def expanded(argv: Sequence[str], environment: Sequence[str]) -> tuple[str, ...]:
    """Words with variables of the unit's Environment= ("NAME=value") put in; figures alone, so no secret gets in."""
    known = dict(line.split("=", 1) for line in environment if "=" in line)
    figures = {name: value for name, value in known.items() if re.fullmatch(r"\d+(\.\d+)?", value)}
    return tuple(_VARIABLE.sub(lambda found: figures.get(found[1], found[0]), word) for word in argv)


def need_on(gpu: Gpu, *, configured: int, utilization: Utilization | None, learned: int) -> Need:
    """Of one GPU. vLLM starts only where free >= total x utilization: a smaller figure in the configuration does not
    help then, a larger one counts. What was learned counts where nothing else is known."""
    by_share = int(gpu.total * utilization.share) if utilization is not None else 0
    if utilization is not None and by_share >= configured:
        return Need(by_share, f"{utilization.share:.2f} of {told_bytes(gpu.total)}, {utilization.source}")
    if configured:
        return Need(configured, CONFIGURED)
    return Need(learned, "as it held last time") if learned else UNKNOWN


def highest_share(gpu: Gpu, available: int) -> float:
    """The largest utilization that `available` bytes allow, in whole hundredths."""
    return max(0, int(available / gpu.total * 100)) / 100 if gpu.total else 0.0


def _words(argv: Sequence[str]) -> list[str]:
    """The arguments, those of a command that a shell is given (`sh -c "exec vllm serve ..."`) one by one."""
    words: list[str] = []
    for word in argv:
        if not any(char.isspace() for char in word):
            words.append(word)
            continue
        try:
            words += shlex.split(word)
        except ValueError:
            words += word.split()
    return words


def _serves(words: Sequence[str]) -> bool:
    if _SERVER_MODULE in words:
        return True
    return any(PurePosixPath(word).name == "vllm" and after == "serve" for word, after in pairwise(words))


def _last_value(words: Sequence[str], flags: Sequence[str]) -> str | None:
    """Of a flag that may be written "--flag value" or "--flag=value"; the last one wins, as in vLLM."""
    found = None
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in flags:
            found = value if equals else (words[index + 1] if index + 1 < len(words) else "")
    return found


def _default(version: str) -> float:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return RECENT_UTILIZATION if numbers >= RECENT_VERSION else USUAL_UTILIZATION
