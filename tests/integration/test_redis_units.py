"""Stores as a user has them: the shipped units of Redis and agentd, and agentctl. Kept, healed, proven."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.profiled import readonly, root_of
from integration.stack import Stack
from integration.stored import RDB_ONLY, UNIT, Stored
from integration.test_surface import fetch
from userunits import systemctl

from agentd import resources

KEYS = 500
OVERRIDE = """\
[Service]
ExecStart=
ExecStart=redis-server %h/.config/agentd/redis.conf --dir %h/.local/state/agentd-redis --supervised systemd \
--daemonize no --appendonly no
"""


@pytest.fixture(scope="module")
def stored(shared_stack: Stack) -> Iterator[Stored]:
    made = Stored(shared_stack)
    yield made
    made.fresh()
    made.stop()


def test_durable_from_the_first_start(stored: Stored) -> None:
    """Nothing to do but to install; then a day with it."""
    stored.fresh()
    stored.stack.start_agentd()
    stored.durable()
    assert stored.config_file.read_text() == (resources.directory("etc") / "redis.conf").read_text()
    stored.seed(KEYS)
    stored.restart()
    assert stored.keys() == KEYS
    found = stored.durable()
    assert found["state"]["keys"] == KEYS
    assert (found["runtime"], found["file"], found["proven"]) == (True, True, True)
    for words, code in ((("status",), 0), (("verify",), 0), (("enforce", "--dry-run"), 0), (("drill",), 0)):
        done = stored.ctl(*words)
        assert done.code == code, (words, done)
    enforced = stored.ctl("enforce", "--json")
    assert (enforced.code, enforced.json["outcome"]) == (0, "already")
    status, kind, metrics = fetch(stored.stack, "/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    labels = {frozenset(found.split(",")) for found in re.findall(r"(?m)^agentd_redis_durability{(.*)} 1\b", metrics)}
    assert labels == {frozenset({'store="redis"', 'state="durable"'})}
    assert fetch(stored.stack, "/readyz")[0] == 200


def test_backup_and_restore(stored: Stored) -> None:
    stored.fresh(keys=KEYS)
    stored.stack.start_agentd()
    stored.durable()
    done = stored.ctl("backup", "--json")
    assert done.code == 0, done
    (backup,) = stored.backups.iterdir()
    stored.seed(10, prefix="later")
    refused = stored.ctl("restore", str(backup))
    assert refused.code == 3, refused
    assert "is active" in refused.err
    assert stored.keys() == KEYS + 10
    assert stored.ctl("restore", str(backup), "--check").code == 0
    stored.stop()
    assert stored.ctl("verify").code == 1
    restored = stored.ctl("restore", str(backup))
    assert restored.code == 0, restored
    stored.start()
    assert stored.keys() == KEYS
    stored.durable()
    assert stored.ctl("verify").code == 0


def test_healed_behind_its_back(stored: Stored) -> None:
    """Nobody does anything: by the next look, half a minute later at the most, it is as it was."""
    stored.fresh(keys=KEYS)
    stored.stack.start_agentd()
    stored.durable()
    stored.set(appendonly="no", save="")
    stored.seed(KEYS, prefix="newer")
    done = stored.ctl("verify")
    assert done.code == 1
    assert 'appendonly is "no"' in done.out
    assert fetch(stored.stack, "/readyz")[0] == 503
    stored.durable(timeout=35)
    assert (stored.get("appendonly"), stored.get("save")) == ("yes", "3600 1 300 100 60 10000")
    stored.restart()
    assert stored.keys() == 2 * KEYS
    assert (stored.get("appendonly"), stored.get("save")) == ("yes", "3600 1 300 100 60 10000")


def test_an_argument_of_the_unit_that_overrides(stored: Stored) -> None:
    stored.fresh(RDB_ONLY)
    dropin = stored.stack.dropin(UNIT, "50-override.conf", OVERRIDE)
    systemctl("daemon-reload")
    stored.restart()
    stored.seed(KEYS)
    stored.stack.start_agentd()
    found = stored.becomes("runtime-only")
    assert stored.get("appendonly") == "yes"
    (finding,) = (f for f in found["findings"] if f["aspect"] == "file:appendonly")
    assert UNIT in finding["cause"]
    assert "--appendonly" in finding["cause"] + finding["fix"]
    assert stored.ctl("verify").code == 1
    assert stored.ctl("enforce").code == 6
    dropin.unlink()
    systemctl("daemon-reload")
    stored.restart()
    assert stored.keys() == KEYS
    stored.durable()
    assert stored.get("appendonly") == "yes"
    assert stored.ctl("verify").code == 0


def test_in_its_sandbox(stored: Stored) -> None:
    """The profile hides agentd's state from Redis and makes its own file read only for it: agentd edits the file."""
    stored.fresh(RDB_ONLY, keys=KEYS)
    stored.stack.write_config("60-report.toml", '[redis]\nmode = "report"\n')
    stored.stack.start_agentd()
    done = stored.stack.ctl("dropins", "apply", "redis", "--restart")
    assert done.code == 0, done
    root = root_of(stored.stack, UNIT)
    assert readonly(root / str(stored.config_file)[1:])
    assert stored.keys() == KEYS
    stored.becomes("at-risk")
    done = stored.ctl("enforce")
    assert done.code == 0, done
    stored.durable()
    assert "\nappendonly yes\n" in stored.config_file.read_text()
    with stored.client() as client, pytest.raises(Exception, match="Read-only file system"):
        client.config_rewrite()
    stored.restart()
    assert stored.keys() == KEYS
    stored.durable()
    assert stored.ctl("drill").code == 0
    assert stored.ctl("backup").code == 0
    (backup,) = stored.backups.iterdir()
    assert {path.name for path in Path(backup).iterdir()} >= {"dump.rdb", "backup.json"}
