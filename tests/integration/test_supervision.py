"""Services under a running agentd: probes of every kind, crash loops, dependencies, liveness, recovery."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator

import pytest
from integration.looks import NO_DEFAULT, becomes, complaints, service, supervised
from integration.probed import Web
from integration.stack import Follower, Stack, until
from userunits import systemctl

FAST = 'period = "100ms", timeout = "2s"'
READINESS = f'readiness = {{ http = {{ path = "/health" }}, {FAST}, failure_threshold = 2 }}\n'


@pytest.fixture
def quiet(bare_stack: Stack) -> Stack:
    """Installed, with an empty slot; the test adds its services and starts agentd."""
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    return bare_stack


def begin(stack: Stack, config: str) -> None:
    stack.write_config("90-test.toml", config)
    stack.start(resident=None)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process hangs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def health_events(events: Follower, name: str) -> list[str]:
    return [e["data"]["health"] for e in events.seen if e["kind"] == "service.health" and e["subject"] == name]


def test_readiness_goes_and_comes_back(quiet: Stack) -> None:
    web = Web(quiet)
    begin(quiet, web.config(READINESS))
    with quiet.follow() as events:
        systemctl("start", web.unit)
        becomes(quiet, "web", "ready")
        web.mood = "503"
        seen = becomes(quiet, "web", "unready")
        assert "answered 503" in seen["cause"]
        assert seen["active_state"] == "active", "systemd knows nothing of it"
        web.mood = "200"
        assert becomes(quiet, "web", "ready")["cause"] == ""
        with stopped(web.pid):
            seen = becomes(quiet, "web", "unready")
            assert "no answer within 2 s" in seen["cause"]
        becomes(quiet, "web", "ready")
        systemctl("stop", web.unit)
        becomes(quiet, "web", "stopped")
        events.until(lambda e: e["kind"] == "service.health" and e["data"]["health"] == "stopped")
        told = [word for word in health_events(events, "web") if word not in ("starting", "stopping")]
        told = told[told.index("ready") :]  # A server that is slow to begin with is unready before.
        assert told == ["ready", "unready", "ready", "unready", "ready", "stopped"]


def test_one_slow_answer_is_no_alarm(quiet: Stack) -> None:
    """Below the threshold nothing is told."""
    web = Web(quiet)
    begin(quiet, web.config('readiness = { http = { path = "/" }, period = "100ms", failure_threshold = 1000 }\n'))
    systemctl("start", web.unit)
    becomes(quiet, "web", "ready")
    web.mood = "500"
    until(lambda: service(quiet, "web")["probes"][0]["failures"] >= 3)
    assert service(quiet, "web")["health"] == "ready"


def test_startup_hides_readiness_and_has_its_own_threshold(quiet: Stack) -> None:
    web = Web(quiet, mood="503")
    startup = f'startup = {{ http = {{ path = "/health" }}, {FAST}, failure_threshold = 5 }}\n'
    begin(quiet, web.config(startup + READINESS))
    systemctl("start", web.unit)
    seen = becomes(quiet, "web", "starting")
    until(lambda: service(quiet, "web")["probes"][0]["failures"] >= 1)
    assert all(p["failures"] == 0 for p in service(quiet, "web")["probes"] if p["kind"] == "readiness")
    seen = becomes(quiet, "web", "unready")
    assert seen["cause"].startswith("startup probe")
    assert "answered 503" in seen["cause"]
    web.mood = "200"
    becomes(quiet, "web", "ready")


def test_tcp_exec_and_none(quiet: Stack) -> None:
    web = Web(quiet)
    flag = quiet.home / "flag"
    flag.touch()
    (quiet.units / "test-plain.service").write_text("[Service]\nExecStart=/bin/sleep 1000\n")
    (quiet.units / "test-once.service").write_text(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
    )
    systemctl("daemon-reload")
    check = f'readiness = {{ exec = ["/usr/bin/test", "-e", "{flag}"], {FAST}, failure_threshold = 1 }}\n'
    plain = '[services.plain]\nunit = "test-plain.service"\n'
    once = f'[services.once]\nunit = "test-once.service"\n{check}'
    execs = f'[services.checked]\nunit = "test-plain.service"\n{check}'.replace("test-plain", "test-checked")
    (quiet.units / "test-checked.service").write_text("[Service]\nExecStart=/bin/sleep 1000\n")
    systemctl("daemon-reload")
    tcp = web.config(f"readiness = {{ tcp = true, {FAST}, failure_threshold = 1 }}\n")
    begin(quiet, tcp + plain + once + execs)
    systemctl("start", web.unit, "test-plain.service", "test-once.service", "test-checked.service")
    for name in ("web", "plain", "once", "checked"):
        becomes(quiet, name, "ready")
    assert service(quiet, "plain")["probes"] == []
    assert service(quiet, "once")["main_pid"] == 0, "a unit without a process is probed all the same"
    flag.unlink()
    for name in ("once", "checked"):
        assert "exited with status 1" in becomes(quiet, name, "unready")["cause"]
    assert service(quiet, "web")["health"] == "ready"
    flag.touch()
    becomes(quiet, "once", "ready")
    becomes(quiet, "checked", "ready")


def test_redis_and_who_depends_on_it(quiet: Stack) -> None:
    probes = f"readiness = {{ {FAST}, failure_threshold = 2 }}\nstartup = {{ {FAST} }}\n"
    begin(quiet, f"[services.redis]\n{probes}[services.litellm]\n{probes}")
    systemctl("start", "litellm.service")  # Wants= the redis
    becomes(quiet, "redis", "ready")
    becomes(quiet, "litellm", "ready")
    redis = quiet.pid("agentd-redis.service")
    with stopped(redis):
        assert "cannot ping redis://127.0.0.1:6379" in becomes(quiet, "redis", "unready")["cause"]
        seen = becomes(quiet, "litellm", "degraded")
        assert seen["blocked_by"] == ["redis"]
        assert "redis is unready" in seen["cause"]
    becomes(quiet, "redis", "ready")
    becomes(quiet, "litellm", "ready")
    systemctl("stop", "agentd-redis.service")
    becomes(quiet, "redis", "stopped")
    assert "redis is stopped" in becomes(quiet, "litellm", "degraded")["cause"]
    wrong = quiet.ctl("status")
    assert "litellm: degraded" in wrong.out
    assert quiet.ctl("status", "--check").code == 1


CRASHES = """\
[Unit]
StartLimitIntervalSec=5min
StartLimitBurst=4
[Service]
ExecStart=/bin/sh -c 'test -e {flag} && exec sleep 1000; echo "ValueError: the %% of my mood is wrong" >&2; exit 3'
Restart=always
RestartSec=100ms
"""


def crasher(stack: Stack) -> Callable[[], None]:
    """`test-crash.service` ends with status 3 until the returned function is called."""
    flag = stack.home / "crash-no-more"
    flag.unlink(missing_ok=True)
    (stack.units / "test-crash.service").write_text(CRASHES.format(flag=flag))
    systemctl("daemon-reload")
    return flag.touch


def test_a_crash_loop_is_seen_given_up_and_recovered(quiet: Stack) -> None:
    mend = crasher(quiet)
    recovery = '[services.crash]\nunit = "test-crash.service"\nrecovery = { base = "1s", max = "1s" }\n'
    begin(quiet, recovery)
    with quiet.follow() as events:
        systemctl("start", "test-crash.service")
        loop = events.kind("service.crash-loop")
        assert "crash restarted 3 times" in loop["message"]
        limit = events.kind("service.start-limit")
        for part in ("exited with status 3", "ValueError: the % of my mood is wrong", "given it up after"):
            assert part in limit["message"]
        assert "next try in" in events.kind("service.backoff")["message"]
        seen = becomes(quiet, "crash", "failed")
        assert seen["crash_loop"]
        assert "ValueError" in seen["cause"]
        assert "crash: crash loop" in quiet.ctl("status").out
        mend()
        becomes(quiet, "crash", "ready")
        events.until(lambda e: e["kind"] == "service.health" and e["data"]["health"] == "ready")
        assert [e["subject"] for e in events.seen if e["kind"] == "service.failed"] == []
    assert quiet.show("test-crash.service", "ActiveState") == "active"


def test_recovery_ends_after_its_attempts(quiet: Stack) -> None:
    crasher(quiet)
    begin(
        quiet,
        '[daemon]\nresync = "1s"\n[services.crash]\nunit = "test-crash.service"\n'
        'recovery = { base = "200ms", max = "200ms", attempts = 2 }\n',
    )
    with quiet.follow() as events:
        systemctl("start", "test-crash.service")
        events.kind("service.given-up")
        kinds = [e["kind"] for e in events.seen if e["subject"] == "crash"]
        assert kinds.count("service.backoff") == 2
        assert kinds.count("service.start-limit") == 3, "the first time and after each try"
        # Said once, however often it is looked at again.
        seq, passes = events.seen[-1]["seq"], service(quiet, "crash")["observed"] + 3
        until(lambda: service(quiet, "crash")["observed"] > passes)
        assert {e["kind"] for e in quiet.events(after=seq) if e["subject"] == "crash"} <= {"service.health"}


def test_recovery_policy_none_leaves_it_down(quiet: Stack) -> None:
    crasher(quiet)
    begin(quiet, '[services.crash]\nunit = "test-crash.service"\nrecovery = { policy = "none" }\n')
    with quiet.follow() as events:
        systemctl("start", "test-crash.service")
        events.kind("service.given-up")
        assert "service.backoff" not in [e["kind"] for e in events.seen]
    assert quiet.show("test-crash.service", "ActiveState") == "failed"


def test_a_single_failure_says_why_and_is_not_restarted_by_us(quiet: Stack) -> None:
    (quiet.units / "test-fail.service").write_text(
        "[Service]\nExecStart=/bin/sh -c 'echo \"OSError: no such device\" >&2; exit 4'\n"
    )
    systemctl("daemon-reload")
    begin(quiet, '[services.fail]\nunit = "test-fail.service"\nrecovery = { base = "1s" }\n')
    with quiet.follow() as events:
        systemctl("start", "test-fail.service", check=False)
        failed = events.kind("service.failed")
        assert "exited with status 4" in failed["message"]
        assert "OSError: no such device" in failed["message"]
    assert "OSError" in becomes(quiet, "fail", "failed")["cause"]


def test_a_missing_unit_is_missing(quiet: Stack) -> None:
    begin(quiet, '[services.ghost]\nunit = "test-ghost.service"\n')
    assert "there is no unit file of that name" in becomes(quiet, "ghost", "missing")["cause"]
    (quiet.units / "test-ghost.service").write_text("[Service]\nExecStart=/bin/sleep 1000\n")
    systemctl("daemon-reload")
    becomes(quiet, "ghost", "stopped")
    systemctl("start", "test-ghost.service")
    becomes(quiet, "ghost", "ready")


LIVENESS = f'liveness = {{ http = {{ path = "/health" }}, {FAST}, failure_threshold = 3 }}\n'


def test_a_failing_liveness_probe_restarts_only_where_it_is_asked_for(quiet: Stack) -> None:
    web = Web(quiet)
    # Readiness fails first, as it does with the usual periods; that must not hide the liveness probe.
    begin(quiet, web.config('on_liveness = "restart"\n' + READINESS + LIVENESS))
    systemctl("start", web.unit)
    becomes(quiet, "web", "ready")
    first = web.pid
    with quiet.follow() as events:
        web.mood = "503"
        events.kind("service.liveness-restart")
        web.mood = "200"
        until(lambda: web.pid not in (0, first))
        becomes(quiet, "web", "ready")
    assert web.pid != first


def test_a_failing_liveness_probe_is_reported_otherwise(quiet: Stack) -> None:
    web = Web(quiet)
    begin(quiet, web.config(LIVENESS))
    systemctl("start", web.unit)
    becomes(quiet, "web", "ready")
    first = web.pid
    web.mood = "503"
    assert "liveness probe" in becomes(quiet, "web", "unready")["cause"]
    until(lambda: service(quiet, "web")["probes"][0]["failures"] >= 6)
    assert web.pid == first
    web.mood = "200"
    becomes(quiet, "web", "ready")


def test_a_model_that_systemd_gave_up_comes_back_through_its_slot(bare_stack: Stack) -> None:
    stack = bare_stack
    limits = "[Unit]\nStartLimitIntervalSec=5min\nStartLimitBurst=3\n[Service]\nRestartSec=100ms\n"
    stack.dropin("vllm-qwen.service", "40-test.conf", limits)
    systemctl("daemon-reload")
    stack.write_config("90-test.toml", '[services.qwen.recovery]\nbase = "2s"\nmax = "2s"\n')
    stack.start()
    stack.behaviour("qwen", fail="exit-at-once", message="torch.OutOfMemoryError: CUDA out of memory")
    with stack.follow() as events:
        os.kill(stack.pid("vllm-qwen.service"), signal.SIGKILL)
        limit = events.kind("service.start-limit")
        assert "CUDA out of memory" in limit["message"]
        assert events.kind("service.backoff")["subject"] == "qwen"
        stack.behaviour("qwen")
        done = events.kind("switch.done")
        assert done["data"]["target"] == "qwen"
    slot = stack.settled("qwen")
    assert slot["state"] == "active"
    assert stack.client.get("/v1/changes")["changes"][0]["origin"] == "recovery"


def test_actions_answer_with_what_they_brought_about(quiet: Stack) -> None:
    web = Web(quiet)
    begin(quiet, web.config())
    assert quiet.client.post("/v1/services/web/start")["health"] == "ready"
    first = web.pid
    again = quiet.client.post("/v1/services/web/restart")
    assert again["health"] == "ready"
    assert again["main_pid"] == web.pid != first
    assert quiet.client.post("/v1/services/web/stop")["health"] == "stopped"
    done = quiet.ctl("start", "web")
    assert done.code == 0, done.err


def test_a_clean_stop_is_no_failure(quiet: Stack) -> None:
    web = Web(quiet)
    begin(quiet, web.config())
    with quiet.follow() as events:
        for _ in range(5):
            systemctl("start", web.unit)
            becomes(quiet, "web", "ready")
            systemctl("stop", web.unit)
            becomes(quiet, "web", "stopped")
            events.until(lambda e: e["kind"] == "service.health" and e["data"]["health"] == "stopped")
    assert "failed" not in health_events(events, "web")
    assert "unready" not in health_events(events, "web")
    assert complaints(quiet) == ""


def test_a_killed_process_is_visible_at_once(quiet: Stack) -> None:
    web = Web(quiet, unit="Restart=always\nRestartSec=200ms\n[Unit]\nStartLimitIntervalSec=0\n")
    begin(quiet, web.config())
    systemctl("start", web.unit)
    events, asked = [], []
    for number in range(20):
        becomes(quiet, "web", "ready")
        until(lambda: service(quiet, "web")["main_pid"] == web.pid != 0)
        pid = web.pid
        if number % 2:
            begun = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            while service(quiet, "web")["main_pid"] == pid:
                assert time.perf_counter() - begun < 5
            asked.append(time.perf_counter() - begun)
        else:
            with quiet.follow() as follower:
                begun = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                ended = follower.kind("service.process-ended", 5)
                events.append(time.perf_counter() - begun)
            assert str(pid) in ended["message"]
        until(lambda pid=pid: web.pid not in (0, pid))
    for how, times in (("event stream", events), ("GET of the service", asked)):
        print(f"SIGKILL to {how}: median {statistics.median(times) * 1e3:.1f} ms, worst {max(times) * 1e3:.1f} ms")
    assert statistics.median(events) < 0.5
    assert statistics.median(asked) < 0.5


def test_a_removed_service_is_not_recovered_any_more(quiet: Stack) -> None:
    crasher(quiet)
    path = quiet.write_config(
        "90-test.toml", '[services.crash]\nunit = "test-crash.service"\nrecovery = { base = "3s", max = "3s" }\n'
    )
    quiet.start(resident=None)
    with quiet.follow() as events:
        systemctl("start", "test-crash.service")
        events.kind("service.backoff")
    path.unlink()
    assert quiet.ctl("reload").code == 0
    assert not supervised(quiet, "crash")
    quiet_until = time.monotonic() + 4
    until(lambda: time.monotonic() > quiet_until or quiet.show("test-crash.service", "ActiveState") != "failed")
    assert quiet.show("test-crash.service", "ActiveState") == "failed"
