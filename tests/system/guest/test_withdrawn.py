"""A controller that is taken away while the service runs: systemd goes on showing the limit."""

from __future__ import annotations

import asyncio
from pathlib import Path

from system.guest.services import show, systemctl, write
from system.guest.verdicts import verdicts

from agentd.findings import Finding, Verdict
from agentd.types import Scope

UNIT = "withdrawn.service"


def memory_max() -> Finding:
    async def look() -> Finding:
        async with verdicts(Scope.USER) as agentd:
            return next(f for f in await agentd.outside(UNIT) if f.aspect == "MemoryMax")

    return asyncio.run(look())


def test_a_controller_that_is_withdrawn_is_noticed() -> None:
    write(UNIT, "[Service]\nType=exec\nExecStart=/bin/sleep 1000\nMemoryMax=100M\n")
    systemctl("daemon-reload")
    systemctl("start", UNIT)
    try:
        assert memory_max().verdict is Verdict.EFFECTIVE
        parent = Path("/sys/fs/cgroup" + show(UNIT, "ControlGroup")).parent
        (parent / "cgroup.subtree_control").write_text("-memory")
        assert show(UNIT, "MemoryMax") == str(100 << 20), "what systemd says has not changed"
        found = memory_max()
        assert found.verdict is Verdict.NOT_EFFECTIVE
        assert "memory controller" in found.cause
        assert found.fix
        (parent / "cgroup.subtree_control").write_text("+memory")
    finally:
        systemctl("stop", UNIT)
