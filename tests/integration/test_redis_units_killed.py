"""Stores through systemd when something goes wrong: the file changed first, agentd, Redis or both killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.stack import LONG, Stack, until, wait_end
from integration.stored import RDB_ONLY, SLOW, UNIT, Stored, Writer

KEYS = 1000
REPORT = '[redis]\nmode = "report"\n'
ROUNDS = 10


@pytest.fixture(scope="module")
def stored(shared_stack: Stack) -> Iterator[Stored]:
    made = Stored(shared_stack)
    yield made
    made.fresh()
    made.stop()


@pytest.mark.parametrize("known", [True, False], ids=["recorded", "first-seen"])
def test_the_file_changed_first(stored: Stored, known: bool) -> None:
    """The classic loss, while agentd is away: held still through restarts, until the repair that was printed."""
    stack = stored.stack
    stored.fresh(RDB_ONLY, keys=KEYS)
    if known:
        stack.write_config("60-report.toml", REPORT)
        stack.start_agentd()
        stored.becomes("at-risk")
        stack.stop_agentd()
        (stack.config / "config.d/60-report.toml").unlink()
    stored.edit("appendonly no", "appendonly yes")
    stored.restart()
    assert stored.keys() == 0
    dump = (stored.data / "dump.rdb").read_bytes()
    stack.start_agentd()
    found = stored.becomes("data-loss")
    evidence = Path(found["record"]["evidence"])
    assert (evidence / "dump.rdb").read_bytes() == dump
    assert stored.ctl("verify").code == 1
    for refused in (("enforce",), ("backup",)):
        assert stored.ctl(*refused).code == 3, refused
    for _ in range(2):
        before = stored.pid()
        done = stack.ctl("restart", "redis")
        assert done.code == 0, done
        assert stored.pid() != before
        stored.becomes("data-loss")
        until(lambda: stored.get("save") == "")
        assert (stored.data / "dump.rdb").read_bytes() == dump
    summary = found["summary"]
    for step in ("SHUTDOWN NOSAVE", f"appendonly no in {stored.config_file}", f"start {UNIT}", str(evidence)):
        assert step in summary
    with stored.client() as client:
        client.shutdown(nosave=True)
    until(lambda: stack.show(UNIT, "ActiveState") == "inactive")
    stored.edit("appendonly yes", "appendonly no")
    stored.start()
    assert stored.keys() == KEYS
    stored.durable()
    assert stored.told("redis.data-back")
    stored.restart()
    assert stored.keys() == KEYS
    stored.durable()
    assert (evidence / "dump.rdb").read_bytes() == dump


def test_agentd_killed_in_an_enforcement(stored: Stored) -> None:
    """Nobody stops Redis meanwhile, systemd starts agentd again, and that ends what was begun."""
    stack = stored.stack
    stored.fresh(RDB_ONLY, keys=KEYS)
    stored.set(rdb_key_save_delay=SLOW)
    stack.start_agentd()
    until(lambda: stored.info("aof_rewrite_in_progress") == "1")
    change = stored.status()["enforcing"]
    for verb in ("restart", "stop"):
        refused = stack.ctl(verb, "redis")
        assert refused.code == 8, refused
        assert change in refused.err
    assert stored.info("aof_rewrite_in_progress") == "1", "it is to be killed in the middle"
    assert "\nappendonly no\n" in stored.config_file.read_text()
    before = stack.pid("agentd.service")
    stack.kill_agentd()
    until(lambda: stack.pid("agentd.service") not in (0, before))
    stored.durable()
    assert "\nappendonly yes\n" in stored.config_file.read_text()
    assert stored.keys() == KEYS
    assert stack.open_changes() == []
    (cut_off,) = (c for c in stack.client.get("/v1/changes")["changes"] if c["id"] == change)
    assert cut_off["finished"] is not None
    stored.set(rdb_key_save_delay="0")
    done = stack.ctl("restart", "redis")
    assert done.code == 0, done
    assert stored.keys() == KEYS


def test_redis_killed_under_writes(stored: Stored) -> None:
    """agentd knows at once, and nothing that was acknowledged is lost."""
    stored.fresh(keys=KEYS)
    stored.stack.start_agentd()
    stored.durable()
    with stored.stack.follow() as events, Writer(stored, "written") as writer:
        died = time.time()
        os.kill(stored.pid(), signal.SIGKILL)
        gone = events.kind("redis.unreachable", 10)
        assert 0 <= gone["time"] - died < 1.0
    stored.durable()
    assert writer.acknowledged > 100
    assert writer.kept() == writer.acknowledged
    assert stored.ctl("verify").code == 0


@pytest.mark.timeout(120)
def test_both_killed_at_once_again_and_again(stored: Stored) -> None:
    stored.fresh(RDB_ONLY, keys=KEYS)
    stored.set(rdb_key_save_delay="500")
    stack = stored.stack
    stack.start_agentd()
    written = 0
    for turn in range(ROUNDS):
        # By turns wherever it is just then, after another number of writes each time, and once it is durable.
        if turn % 2:
            stored.durable()
        promised = "\nappendonly yes\n" in stored.config_file.read_text()
        with Writer(stored, f"turn{turn}") as writer:
            until(lambda turn=turn, writer=writer: writer.acknowledged > 400 * turn)  # type: ignore[misc]
            before = (stored.pid(), stack.pid("agentd.service"))
            kill_at_once(*before)
        back_again(stored, before)
        if promised:
            assert writer.kept() == writer.acknowledged
            written += writer.acknowledged
        assert stored.keys() >= KEYS
    stored.durable()
    assert written > 400 * ROUNDS
    assert stack.open_changes() == []
    assert not stored.told("redis.data-loss")
    assert stored.ctl("verify").code == 0


def back_again(stored: Stored, before: tuple[int, int]) -> None:
    """Both, as other processes."""
    pids = (0, *before)
    until(lambda: stored.pid() not in pids and stored.stack.pid("agentd.service") not in pids)
    until(lambda: stored.stack.show(UNIT, "ActiveState") == "active")


def kill_at_once(*pids: int) -> None:
    handles = [os.pidfd_open(pid) for pid in pids]
    try:
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            wait_end(handle, LONG)
    finally:
        for handle in handles:
            os.close(handle)
