"""agentd installed as its user would, in a machine where limits bite."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from system.guest.services import INSIDE, show, systemctl, write

ROOT = Path("/srv/agentd")
AGENTCTL = Path.home() / ".local/bin/agentctl"
CONFIG = """\
[services.hog]
unit = "hog.service"
profile = "none"

[services.gateway]
unit = "gateway.service"
profile = "gateway"
"""
HOG = f"[Service]\nType=exec\nExecStart=/usr/bin/python3 -I {INSIDE} eat:120\nMemoryMax=64M\nMemorySwapMax=0\n"
GATEWAY = "[Service]\nType=exec\nExecStart=/bin/sleep 1000\n"


@pytest.fixture(scope="module", autouse=True)
def agentd() -> Iterator[None]:
    subprocess.run([ROOT / "packaging/install", "--link"], check=True, timeout=120, cwd=ROOT)
    config = Path.home() / ".config/agentd/agentd.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(CONFIG)
    write("hog.service", HOG)
    write("gateway.service", GATEWAY)
    systemctl("daemon-reload")
    systemctl("enable", "--now", "agentd.socket", "agentd.service")
    yield
    systemctl("stop", "agentd.socket", "agentd.service")


def agentctl(*words: str, status: int = 0) -> Any:
    done = subprocess.run([AGENTCTL, *words, "--json"], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == status, f"agentctl {' '.join(words)}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def test_a_kill_for_memory_is_told_within_a_second() -> None:
    command = [str(AGENTCTL), "events", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        try:
            systemctl("start", "hog.service")
            event = next_event(follower, "service.oom-killed")
        finally:
            follower.terminate()
    assert event["subject"] == "hog"
    died = int(show("hog.service", "ExecMainExitTimestampMonotonic")) / 1e6
    assert 0 <= event["time"] - (time.time() - time.monotonic()) - died < 1.0


def next_event(follower: subprocess.Popen[str], kind: str) -> Mapping[str, Any]:
    """The test's timeout ends a wait in vain."""
    assert follower.stdout is not None
    for line in follower.stdout:
        event: Mapping[str, Any] = json.loads(line)
        if event["kind"] == kind:
            return event
    raise AssertionError(f"agentctl ended before there was an event {kind}")


def test_a_profile_is_installed_and_all_of_it_proven_in_effect() -> None:
    systemctl("start", "gateway.service")
    agentctl("dropins", "apply", "gateway", "--restart")
    found = agentctl("dropins", "prove", "gateway", "--all")
    not_shown = {f["aspect"]: f["cause"] for f in found if f["verdict"] != "effective"}
    # Most of the paths that the profile names are not there.
    assert not_shown.keys() <= {"ReadWritePaths", "InaccessiblePaths"}
    assert all("does not exist" in cause for cause in not_shown.values())
    assert len(found) > 30
