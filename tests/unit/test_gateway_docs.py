"""docs/gateway.md tells the checks, the settings and the metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

from agentd.core.gateway.checks import CHECKS
from agentd.core.schema_gateway import GatewayPolicy

TEXT = (Path(__file__).resolve().parents[2] / "docs/gateway.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the section's last table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_check_in_its_order() -> None:
    assert rows("Validation") == [[f"`{check.id}`", check.severity.value, check.about] for check in CHECKS]


def test_every_setting() -> None:
    told = [name for row in rows("Settings of agentd") for name in re.findall(r"`(\w+)`", row[0])]
    assert told == list(GatewayPolicy.__struct_fields__)
