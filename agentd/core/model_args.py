"""What `agentctl models add` is told, checked: names, numbers, and arguments that contradict the unit's own. Pure.

Everything here raises AgentdError("bad-request") with what is wrong and what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agentd.core.leaves import NAME, NAME_FORM
from agentd.errors import AgentdError

OWNED: Mapping[str, str] = {
    "--model": "the model is told by --path or --id",
    "--host": "it listens on loopback, or on a socket by --uds",
    "--port": "write --port before the --",
    "--uds": "write --uds before the --",
    "--served-model-name": "write --served-name before the --",
    "--gpu-memory-utilization": "write --utilization before the --",
    "--tensor-parallel-size": "write --tensor-parallel before the --",
    "-tp": "write --tensor-parallel before the --",
    "--max-model-len": "write --max-model-len before the --",
    "--enable-sleep-mode": "write --switch before the --",
    "--load-format": "write --loader before the --",
    "--api-key": "every user of the machine could read it in ps; use --api-key-credential or --env-file",
    "--ssl-keyfile": "agentd asks it by plain HTTP on loopback",
    "--ssl-certfile": "agentd asks it by plain HTTP on loopback",
}
"""Arguments of vLLM that the unit has, or must not have."""

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_LOADER = re.compile(r"[a-z][a-z0-9_]*")
_LENGTH = re.compile(r"(?:auto|-1|[0-9]+(?:\.[0-9]+)?[kKmM]?)")
LARGEST_TP = 1024


def wrong(message: str, hint: str = "") -> AgentdError:
    return AgentdError("bad-request", message, hint=hint)


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise wrong(f'"{name}" is no usable name', f"allowed: {NAME_FORM}")


def check_repo(repo: str) -> None:
    if not _REPO.fullmatch(repo) or ".." in repo or len(repo) > 200:
        raise wrong(f'"{repo}" is no name of a repository', "write it as ORG/NAME; a directory is given by --path")


def utilization(text: str) -> float:
    """Above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        hint = "write a number like 0.85, the share of the GPU's memory that vLLM takes"
        raise wrong(f'--utilization "{text}" is not above 0 and at most 1', hint)
    return value


def tensor_parallel(text: str, slot: str, gpus: Sequence[int]) -> int:
    """How many GPUs; all of the slot where nothing is told."""
    if not text:
        return len(gpus)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= LARGEST_TP:
        raise wrong(f'--tensor-parallel "{text}" is no number of GPUs')
    if int(text) > len(gpus):
        have = f"slot {slot} has {len(gpus)} GPU{'' if len(gpus) == 1 else 's'}"
        raise wrong(f"--tensor-parallel {text} wants more GPUs than there are: {have}", f"see [slots.{slot}] gpus")
    return int(text)


def max_model_len(text: str) -> str:
    if text and not _LENGTH.fullmatch(text):
        raise wrong(f'--max-model-len "{text}" is no length', "write a number of tokens like 8192 or 32k, or auto")
    return text


def loader(text: str) -> str:
    if text and not _LOADER.fullmatch(text):
        raise wrong(f'--loader "{text}" is no load format of vLLM', "like auto, safetensors or runai_streamer")
    return text


def check_program(path: str) -> None:
    """systemd expands nothing in the first word of a command line, so that no "$$" stands for a "$" there either."""
    if "$" in path:
        raise wrong(
            f"a unit cannot start {path}: there is a $ in its path", "name it by a link without one: --vllm LINK"
        )


def printable(what: str, text: str) -> str:
    """A text that goes into a unit and a configuration file."""
    if not text or not text.isprintable():
        raise wrong(f"{what} is empty or has control characters")
    if text != text.strip() or text.endswith("\\"):  # A unit's line would lose the one, and be continued by the other.
        raise wrong(f"{what} begins or ends with a blank, or ends with a backslash")
    return text


def extra(arguments: Sequence[str]) -> tuple[str, ...]:
    """What comes after "--"."""
    for text in arguments:
        if any((ord(c) < 32 and c not in "\n\t") or ord(c) == 127 for c in text):
            raise wrong("an argument after -- has control characters")
        flag = text.partition("=")[0]
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        if flag in OWNED:
            raise wrong(f"{flag} cannot stand after --", OWNED[flag])
    return tuple(arguments)
