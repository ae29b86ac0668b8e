"""PRECHECK's look at the target's files: a torn download is found before the running model is touched."""

from __future__ import annotations

import asyncio

from agentd.core.quantities import told_bytes
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext
from agentd.ports_models import CheckedFiles, FileProblem
from agentd.wire import PrecheckItem

HEADERS_SECONDS = 5.0
CHECKSUMS_SECONDS = 1800.0
SHOWN = 3
"""Problems that one sentence names."""


def seconds(target: ModelUnit) -> float:
    """The longest that it may take."""
    spec = target.spec
    limits = {"headers": HEADERS_SECONDS, "checksums": CHECKSUMS_SECONDS}
    return limits.get(spec.check_files, 0.0) if spec.path else 0.0


async def files_check(ctx: SlotContext, target: ModelUnit, *, dry: bool = False) -> PrecheckItem | None:
    """None when there is nothing to look at. A disk that does not answer in time refuses nothing. `dry`: somebody waits
    for the answer, so that only headers are read."""
    spec, limit = target.spec, seconds(target)
    checksums = spec.check_files == "checksums" and not dry
    if limit and not checksums:
        limit = HEADERS_SECONDS
    if not limit or not await ctx.ports.files.exists(spec.path):
        return None  # That it does not exist is said by a check of its own.
    try:
        async with asyncio.timeout(limit):
            found = await ctx.ports.weights.check(spec.path, checksums=checksums)
    except TimeoutError:
        return PrecheckItem("files", True, f"the files of {target.name} could not be checked within {limit:g} s")
    except AgentdError as error:
        return PrecheckItem("files", True, error.message)
    if found.problems:
        return PrecheckItem("files", False, told_problems(target.name, found.problems))
    later = "; checksums are compared by the switch itself" if spec.check_files == "checksums" and dry else ""
    return PrecheckItem("files", True, told_whole(target.name, found) + later)


def told_problems(name: str, problems: tuple[FileProblem, ...]) -> str:
    """One sentence; it names the command that shows the rest."""
    shown = "; ".join(f"{problem.path} {problem.problem}" for problem in problems[:SHOWN])
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"the files of {name} are not whole: {shown}{more} (see: agentctl models verify {name})"


def told_whole(name: str, found: CheckedFiles) -> str:
    how = f", {found.checksums} by checksum" if found.checksums else ""
    files = f"{found.files} file{'' if found.files == 1 else 's'} of weights"
    return f"the files of {name} are whole ({files}, {told_bytes(found.size)}{how})"
