"""What agentd shows to the outside, on a live stack: every address, the doors' rules, streams, Prometheus, the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.looks import PORT, tcp
from integration.stack import Follower, Stack, until
from userunits import manager_pid

from agentd.client import ApiProblem

PROMETHEUS_PORT = 9190
PROMETHEUS_YML = f"""\
global: {{scrape_interval: 500ms}}
scrape_configs:
  - job_name: agentd
    static_configs: [{{targets: ["127.0.0.1:{PORT}"]}}]
"""
FORWARD = ["precheck", "drain", "release", "evict", "wait-vram", "start", "wait-ready", "verify"]


@pytest.fixture(scope="module")
def live(shared_stack: Stack) -> Stack:
    """qwen serves; the module's tests leave it so."""
    shared_stack.start()
    return shared_stack


def test_every_get_answers(live: Stack) -> None:
    described = live.client.get("/openapi.json")
    change = live.client.get("/v1/changes")["changes"][0]["id"]
    seen = 0
    for path, verbs in described["paths"].items():
        get = verbs.get("get")
        if get is None or ("text/event-stream" in json.dumps(get) and path.endswith("/events") and "{" in path):
            continue
        real = path.replace("{name}", "qwen").replace("{id}", change)
        answer = fetch(live, real)
        assert answer[0] == 200, (real, answer)
        if "application/json" in answer[1]:
            json.loads(answer[2])
        else:
            assert answer[1].startswith("text/"), (real, answer[1])
        seen += 1
    assert seen >= 14


def fetch(stack: Stack, path: str, method: str = "GET", host: str = "agentd") -> tuple[int, str, str]:
    """Raw, over the unix socket: status, content type, body."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(30)
        door.connect(stack.client.path)
        door.sendall(f"{method} {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        text = b""
        while data := door.recv(65536):
            text += data
    head, _, body = text.decode().partition("\r\n\r\n")
    kind = re.search(r"(?im)^content-type: *(.*?)\r?$", head)
    return int(head.split()[1]), kind[1] if kind else "", body


def test_tcp_reads_only(live: Stack) -> None:
    for path in ("/v1/switch", "/v1/reload", "/v1/services/qwen/stop", "/v1/unload"):
        answer = tcp(path, method="POST")
        assert answer.status == 405, path
        assert answer.json["kind"] == "read-only"
        assert "unix socket" in answer.json["hint"]
    assert tcp("/v1/lease", method="DELETE").status == 405
    assert tcp("/v1/config").status == 403, "where files lie is for the owner"
    assert live.slot()["resident"] == "qwen"
    assert live.slot()["change"] is None


def test_a_foreign_host_name_is_refused(live: Stack) -> None:
    """A page that rebinds its name to 127.0.0.1 reads nothing."""
    for host in ("evil.example", "evil.example:9775", "127.0.0.1.evil.example"):
        answer = tcp("/v1/status", Host=host)
        assert answer.status == 403, host
        assert answer.json["kind"] == "bad-host"
    for host in ("localhost:9775", "127.0.0.1", "[::1]:9775"):
        assert tcp("/v1/status", Host=host).status == 200, host
    assert "access-control-allow-origin" not in tcp("/v1/status", Origin="http://evil.example").headers


def test_problems_are_in_one_form(live: Stack) -> None:
    for path, kind in (("/v1/services/nobody", "service-not-found"), ("/v1/changes/none", "change-not-found")):
        answer = tcp(path)
        assert answer.status == 404
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json["kind"] == kind
        assert answer.json["status"] == 404
        assert answer.json["detail"]
    assert "qwen" in tcp("/v1/services/qwne").json["hint"], "a suggestion"
    for body in ("text", {"target": 1}, {"target": "qwen", "colour": "red"}):
        with pytest.raises(ApiProblem) as caught:
            live.client.request("POST", "/v1/switch", body)
        assert caught.value.status == 400, caught.value.body


def test_the_stream_of_a_change_shows_every_phase_and_ends(live: Stack) -> None:
    change = live.post("/v1/switch", target="dolphin")
    messages: list[tuple[str, str]] = []
    with live.client.stream(f"/v1/changes/{change['id']}/events") as stream:
        while not messages or messages[-1][0] != "done":
            message = stream.next(60)
            assert message is not None, messages
            messages.append(message)
    steps = [json.loads(data) for event, data in messages if event == "message"]
    phases: list[str] = []
    for step in steps:
        assert step["id"] == change["id"]
        if not phases or phases[-1] != step["phase"]:
            phases.append(step["phase"])
    assert [p for p in phases if p in FORWARD] == [p for p in FORWARD if p in phases], "in order"
    assert phases[-1] == "active"
    assert [p["phase"] for p in steps[-1]["phases"]] == FORWARD
    assert all(p["seconds"] is not None for p in steps[-1]["phases"])
    # One who comes late gets the end at once.
    with live.client.stream(f"/v1/changes/{change['id']}/events") as stream:
        late = stream.next(30)
        assert late is not None
        assert json.loads(late[1])["outcome"] == "done"
        end = stream.next(30)
        assert end is not None
        assert end[0] == "done"
    assert live.switch("qwen")[0] == 0


def test_events_follow_and_go_on_where_they_were(live: Stack) -> None:
    before = live.last_event()
    with live.follow(before) as first, live.follow(before) as second:
        assert live.switch("dolphin")[0] == 0
        assert live.switch("qwen")[0] == 0
        seen: list[list[int]] = []
        for follower in (first, second):
            follower.until(lambda e: e["kind"] == "switch.done" and e["data"]["target"] == "qwen")
            seen.append([e["seq"] for e in follower.seen])
    assert seen[0] == seen[1] == list(range(before + 1, seen[0][-1] + 1)), "none lost, none twice"
    with live.client.stream(f"/v1/events?follow=1&limit=1000&after={before + 2}") as stream:
        assert Follower(stream).until(lambda _: True)["seq"] == before + 3
    over_tcp = urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v1/events?follow=1&limit=1", timeout=30)
    with over_tcp as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.readline().startswith(b"id: ")


def test_a_reader_that_does_not_read_slows_nobody(live: Stack) -> None:
    idle = []
    for _ in range(10):
        door = socket.create_connection(("127.0.0.1", PORT))
        door.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle.append(door)
    try:
        assert live.switch("dolphin")[0] == 0
        assert live.switch("qwen")[0] == 0
        assert tcp("/livez").status == 200
    finally:
        for door in idle:
            door.close()


def test_metrics_are_clean(live: Stack) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "the package prometheus is not installed"
    for accept in ("", "text/plain", "application/openmetrics-text; version=1.0.0"):
        answer = tcp("/metrics", **({"Accept": accept} if accept else {}))
        assert answer.status == 200
        if "openmetrics" in answer.headers["content-type"]:
            assert answer.text.endswith("# EOF\n")
            continue
        done = subprocess.run(
            [promtool, "check", "metrics"], input=answer.text, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr.strip()) == (0, ""), done.stderr
    text = tcp("/metrics").text
    assert re.search(r'^agentd_model_active\{.*"qwen".*\} 1(\.0)?$', text, re.MULTILINE)
    assert re.search(r'^agentd_model_active\{.*"dolphin".*\} 0(\.0)?$', text, re.MULTILINE)
    assert not re.search(r'(?:pid|path)="', text), "nothing of high cardinality in a label"


@pytest.fixture
def prometheus(live: Stack, tmp_path: Path) -> Iterator[str]:
    """A real one that scrapes agentd twice a second; its address."""
    program = shutil.which("prometheus")
    assert program, "the package prometheus is not installed"
    (tmp_path / "prometheus.yml").write_text(PROMETHEUS_YML)
    argv = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"]  # fmt: skip
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{PROMETHEUS_PORT}"
        finally:
            process.terminate()
            process.wait(60)


def query(address: str, expression: str) -> list[dict[str, Any]]:
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return []


@pytest.mark.timeout(180)
def test_a_real_prometheus_scrapes_it(live: Stack, prometheus: str) -> None:
    def value(expression: str) -> str:
        found = query(prometheus, expression)
        return str(found[0]["value"][1]) if found else ""

    until(lambda: value('up{job="agentd"}') == "1", 60)
    until(lambda: value('agentd_model_active{model="qwen"}') == "1", 60)
    assert live.switch("dolphin")[0] == 0
    until(lambda: value('agentd_model_active{model="dolphin"}') == "1", 60)
    assert value('agentd_model_active{model="qwen"}') == "0"
    assert value("agentd_config_valid") == "1"
    assert value("agentd_bus_connected") == "1"
    names = {series["metric"]["__name__"] for series in query(prometheus, '{job="agentd", __name__=~"agentd_.*"}')}
    assert len(names) >= 15, names
    assert live.switch("qwen")[0] == 0


def test_the_page_refers_to_nothing_but_itself(live: Stack) -> None:
    answer = tcp("/")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?(?:https?:)?//""", answer.text)
    assert not re.search(r"https?://", re.sub(r'xmlns="[^"]*"', "", answer.text))
    for path in set(re.findall(r"""["'](/v1/[a-z/]+)""", answer.text)):
        assert tcp(path).status == 200, path


def test_answers_never_wait_for_the_bus(live: Stack) -> None:
    """systemd hangs: every address answers from the last picture all the same."""
    pid = manager_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        for path in ("/livez", "/readyz", "/metrics", "/v1/status", "/v1/services/qwen", "/v1/slots", "/v1/findings"):
            begun = time.monotonic()
            tcp(path)
            assert time.monotonic() - begun < 2, path
    finally:
        os.kill(pid, signal.SIGCONT)
