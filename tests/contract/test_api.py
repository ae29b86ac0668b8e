"""The HTTP API over its two real doors: a unix socket and loopback TCP, with plain values behind it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.operations import FakeOperations

from agentd.api import server, sockets, sse
from agentd.api.access import Access
from agentd.api.operations import Check, Operations
from agentd.api.routes import ROUTES
from agentd.api.server import ApiServer
from agentd.errors import AgentdError, ConfigError, ConfigProblem
from agentd.types import Outcome
from agentd.wire import LeaseRequest, SwitchRequest


class Doors:
    """One server with a client at each door."""

    def __init__(self, ops: FakeOperations, api: ApiServer, path: Path, unix: Any, tcp: Any) -> None:
        self.ops, self.api, self.path, self.unix, self.tcp = ops, api, path, unix, tcp

    async def json(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.unix.request(method, path, **more) as answer:
            return answer.status, json.loads(await answer.read())

    async def tcp_json(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.tcp.request(method, path, **more) as answer:
            return answer.status, json.loads(await answer.read())


@asynccontextmanager
async def serving(directory: Path, **options: Any) -> AsyncIterator[Doors]:
    ops, path = FakeOperations(), directory / "run" / "agentd.sock"
    api = ApiServer(ops, **options)
    await api.start(unix=str(path), listen="127.0.0.1:0")
    assert api.tcp_address is not None
    base = f"http://127.0.0.1:{api.tcp_address[1]}"
    connector = aiohttp.UnixConnector(path=str(path))
    try:
        async with (
            aiohttp.ClientSession("http://localhost", connector=connector) as unix,
            aiohttp.ClientSession(base) as tcp,
        ):
            yield Doors(ops, api, path, unix, tcp)
    finally:
        await api.stop()


def test_fake_has_every_operation() -> None:
    ops: Operations = FakeOperations.__new__(FakeOperations)
    wanted = {n for n in vars(Operations) if not n.startswith("_")}
    assert wanted <= {n for n in dir(ops) if not n.startswith("_")}


# -- reads --------------------------------------------------------------------------------------------------------


async def test_status_tells_everything_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("GET", "/v1/status")
        assert code == 200
        assert body["daemon"]["version"] == "0.1.0"
        assert body["ready"] is True
        assert body["slots"][0]["resident"] == "qwen"
        assert [s["name"] for s in body["services"]] == ["qwen", "dolphin", "redis"]
        assert body["gpus"]["gpus"][0]["free"] == 16 << 30
        assert body["bus"] == {"connected": True, "reconnects": 1, "error": ""}
        assert body["ages"] == {"units": 0.5, "gpus": 1.5}
        assert await doors.tcp_json("GET", "/v1/status") == (code, body | {"time": pytest.approx(body["time"], abs=60)})


@pytest.mark.parametrize("path", ["/v1/status", "/v1/services", "/v1/services/redis", "/v1/models"])
async def test_password_in_a_url_never_leaves(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as doors, doors.tcp.get(path) as answer:
        assert "hunter2" not in await answer.text()


async def test_config_is_for_the_owner_alone_and_without_passwords(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("GET", "/v1/config")
        assert code == 200
        assert body["settings"]["services"]["redis"]["url"] == "redis://:***@h"
        code, body = await doors.tcp_json("GET", "/v1/config")
        assert (code, body["kind"]) == (403, "local-only")


async def test_lists_and_single_items(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.finding_list.append({"subject": "qwen"})
        _, models = await doors.json("GET", "/v1/models")
        assert [(m["name"], m["active"]) for m in models["models"]] == [("qwen", True), ("dolphin", False)]
        _, services = await doors.json("GET", "/v1/services")
        assert len(services["services"]) == 3
        _, one = await doors.json("GET", "/v1/services/dolphin")
        assert one["unit"] == "vllm-dolphin.service"
        _, slots = await doors.json("GET", "/v1/slots")
        assert slots["slots"][0]["name"] == "gpu0"
        _, gpus = await doors.json("GET", "/v1/gpus")
        assert gpus["source"] == "nvml"
        assert await doors.json("GET", "/v1/findings") == (200, {"findings": [{"subject": "qwen"}]})


async def test_unknown_names_are_problems_with_a_suggestion(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        async with doors.unix.get("/v1/services/dolfin") as answer:
            assert answer.status == 404
            assert answer.headers["Content-Type"] == "application/problem+json"
            body = json.loads(await answer.read())
        assert body["kind"] == "service-not-found"
        assert body["status"] == 404
        assert body["hint"] == 'did you mean "dolphin"?'
        code, body = await doors.json("GET", "/v1/servces")
        assert (code, body["kind"], body["hint"]) == (404, "not-found", 'did you mean "/v1/services"?')
        code, body = await doors.json("GET", "/v1/changes/nope")
        assert (code, body["kind"]) == (404, "change-not-found")
        code, body = await doors.json("GET", "/v1/changes/nope/events")
        assert (code, body["kind"]) == (404, "change-not-found")


async def test_wrong_method_names_the_right_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors, doors.unix.delete("/v1/status") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"
        assert (await answer.json(content_type=None))["kind"] == "method-not-allowed"


async def test_changes_have_a_limit(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.instant = True
        for target in ("dolphin", "qwen", "dolphin"):
            await doors.json("POST", "/v1/switch", json={"target": target})
        _, body = await doors.json("GET", "/v1/changes?limit=2")
        assert [c["id"] for c in body["changes"]] == ["s0000000003", "s0000000002"]
        for wrong in ("x", "-1", "1001", "٣"):
            code, body = await doors.json("GET", "/v1/changes", params={"limit": wrong})
            assert (code, body["kind"]) == (400, "bad-request")
            assert "allowed: 0 to 1000" in body["detail"]


async def test_livez_and_readyz_in_kubernetes_form(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        async with doors.tcp.get("/livez") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with doors.tcp.get("/readyz?verbose") as answer:
            text = await answer.text()
            assert (answer.status, text) == (200, "[+]config ok\n[+]bus ok\n[+]first-pass ok\nreadyz check passed\n")
        doors.ops.checks[1] = Check("bus", ok=False, detail="connection refused")
        async with doors.tcp.get("/readyz") as answer:
            assert answer.status == 503
            assert "[-]bus failed: connection refused\n" in await answer.text()
        async with doors.tcp.get("/livez?verbose=0") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")


async def test_metrics_pass_through(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors, doors.tcp.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert await answer.text() == "agentd_ready 1.0\n"


async def test_page_is_self_contained_and_its_policy_fits(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors, doors.tcp.get("/") as answer:
        text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"""\son\w+\s*=|(?:src|href)=["'](?:https?:)?//""", text)
    import base64
    import hashlib

    for tag in ("script", "style"):
        inline = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inline is not None
        digest = base64.b64encode(hashlib.sha256(inline[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "/*STYLE*/" not in text
    assert "innerHTML" not in text


async def test_every_answer_has_our_headers(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        for path in ("/v1/status", "/nowhere", "/"):
            async with doors.tcp.get(path) as answer:
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["Server"].startswith("agentd/")
                assert "Access-Control-Allow-Origin" not in answer.headers


async def test_openapi_names_every_route_and_resolves(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, body = await doors.json("GET", "/openapi.json")
    described = {(m.upper(), p) for p, methods in body["paths"].items() for m in methods}
    assert described == {(r.method, re.sub(r":[^}]+", "", r.path)) for r in ROUTES}
    schemas = body["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(body)):
        assert name in schemas
    request = schemas["SwitchRequest"]
    assert request["required"] == ["target"]
    assert "origin" not in request["properties"]
    assert schemas["Change"]["properties"]["outcome"]["anyOf"][0]["enum"] == [o.value for o in Outcome]


def test_nothing_that_acts_is_public() -> None:
    acting = [r for r in ROUTES if r.method != "GET"]
    assert acting
    assert all(r.access is Access.OWNER for r in acting)
    assert all(r.access is not Access.OWNER for r in ROUTES if r.method == "GET")


# -- actions ------------------------------------------------------------------------------------------------------


async def test_switch_is_accepted_joined_and_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        wanted = {"target": "dolphin", "drain": 5, "on_busy": "refuse", "force": True, "rollback": False}
        async with doors.unix.post("/v1/switch", json=wanted) as answer:
            assert answer.status == 202
            body = json.loads(await answer.read())
            assert answer.headers["Location"] == f"/v1/changes/{body['change']['id']}"
        assert body["joined"] is False
        assert doors.ops.calls == [("switch", SwitchRequest("dolphin", 5, "refuse", force=True, rollback=False))]
        code, again = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        assert (code, again["joined"], again["change"]["id"]) == (202, True, body["change"]["id"])
        code, refused = await doors.json("POST", "/v1/switch", json={"target": "qwen"})
        assert (code, refused["kind"], refused["change"]) == (409, "conflict", body["change"]["id"])


async def test_dry_run_answers_with_a_plan(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin", "dry_run": True})
        assert code == 200
        assert body["plan"]["checks"][1] == {"check": "vram", "ok": False, "detail": "needs 14G, 2G would be free"}
        assert [name for name, *_ in doors.ops.calls] == ["plan"]


async def test_unload_lease_cancel_and_services(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("POST", "/v1/unload")
        assert (code, body["change"]["kind"]) == (202, "unload")
        code, body = await doors.json("POST", f"/v1/changes/{body['change']['id']}/cancel")
        assert (code, body["change"]["outcome"]) == (202, "cancelled")
        code, body = await doors.json("POST", "/v1/changes/u0000000001/cancel")
        assert (code, body["kind"]) == (404, "no-change")
        code, body = await doors.json("POST", "/v1/lease", json={"seconds": 7200, "slot": "gpu0"})
        assert (code, body["change"]["kind"]) == (202, "lease")
        assert doors.ops.calls[-1] == ("lease", LeaseRequest(7200, "gpu0"))
        assert await doors.json("DELETE", "/v1/lease?slot=gpu0") == (200, {"change": None, "joined": False})
        code, body = await doors.json("POST", "/v1/services/redis/restart")
        assert (code, body["name"]) == (200, "redis")
        assert doors.ops.calls[-1] == ("service_action", "redis", "restart")
        code, body = await doors.json("POST", "/v1/services/redis/explode")
        assert (code, body["kind"]) == (404, "not-found")
        code, body = await doors.json("POST", "/v1/services/reddis/stop")
        assert (code, body["hint"]) == (404, 'did you mean "redis"?')


async def test_unknown_model_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("POST", "/v1/switch", json={"target": "qwne"})
        assert (code, body["kind"], body["hint"]) == (404, "model-not-found", 'did you mean "qwen"?')
        assert doors.ops.calls == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"", '"target" is missing'),
        (b'{"target": 1}', '"target" must be a string'),
        (b'{"target": "a", "drain": "5s"}', '"drain" must be a number or null'),
        (b'{"target": "a", "drain": true}', '"drain" must be a number or null'),
        (b'{"target": "a", "drain": -1}', '"drain" must be a number of seconds from 0'),
        (b'{"target": "a", "drain": NaN}', "NaN is not a JSON number"),
        (b'{"target": "a", "drain": 1e999}', '"drain" must be a number of seconds from 0'),
        (b'{"target": "a", "on_busy": "wait"}', '"on_busy" must be one of abort, refuse'),
        (b'{"target": "a", "force": 1}', '"force" must be true or false'),
        (b'{"target": "a", "origin": "default"}', 'unknown field "origin"'),
        (b'{"target": "a", "forse": true}', 'unknown field "forse", did you mean "force"?'),
    ],
)
async def test_bad_bodies_say_what_is_wrong(tmp_path: Path, body: bytes, expected: str) -> None:
    async with serving(tmp_path) as doors:
        code, answer = await doors.json("POST", "/v1/switch", data=body)
        assert (code, answer["kind"]) == (400, "bad-request")
        assert expected in answer["detail"]
        assert doors.ops.calls == []


async def test_all_errors_of_a_body_are_listed_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, answer = await doors.json("POST", "/v1/switch", json={"drain": "x", "forse": 1, "dry_run": 0})
        for part in ('"target" is missing', '"drain" must be', 'unknown field "forse"', '"dry_run" must be'):
            assert part in answer["detail"]


async def test_large_body_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, answer = await doors.json("POST", "/v1/switch", data=b" " * (65 * 1024))
        assert (code, answer["kind"]) == (413, "body-too-large")


async def test_errors_map_to_statuses(tmp_path: Path) -> None:
    cases = [
        (AgentdError("bus-down", "cannot reach systemd: the bus is gone"), 503),
        (AgentdError("job-timeout", "the stop job did not end"), 504),
        (AgentdError("not-resident", "qwen is not resident"), 409),
        (AgentdError("slot-not-found", "no slot"), 404),
    ]
    async with serving(tmp_path) as doors:
        for error, expected in cases:
            doors.ops.fail["unload"] = error
            code, body = await doors.json("POST", "/v1/unload")
            assert (code, body["kind"], body["detail"]) == (expected, error.kind, error.message)


async def test_invalid_config_lists_its_problems(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.fail["reload"] = ConfigError([ConfigProblem("a.toml", "slots.x", "unknown key")])
        code, body = await doors.json("POST", "/v1/reload")
        assert (code, body["kind"], body["problems"]) == (422, "config-invalid", ["a.toml: slots.x: unknown key"])


async def test_a_bug_is_internal_and_its_text_stays_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.fail |= {"live": RuntimeError("secret detail"), "unload": KeyError("secret detail")}
        for method, path in (("GET", "/livez"), ("POST", "/v1/unload")):
            async with doors.unix.request(method, path) as answer:
                text = await answer.text()
            assert answer.status == 500
            assert json.loads(text)["kind"] == "internal"
            assert "secret" not in text
            assert "Traceback" not in text
    assert "secret detail" in caplog.text


async def test_action_goes_on_when_the_client_hangs_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.hold.clear()
        reader, writer = await asyncio.open_unix_connection(str(doors.path))
        body = b'{"target": "dolphin"}'
        writer.write(b"POST /v1/switch HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await doors.ops.began.wait()
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        await doors.json("GET", "/v1/status")  # the server has seen the connection go
        doors.ops.hold.set()
        await doors.ops.until(lambda: bool(doors.ops.change_list))
        assert [c.target for c in doors.ops.change_list.values()] == ["dolphin"]


# -- doors --------------------------------------------------------------------------------------------------------


async def test_tcp_is_read_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        for method, path in [(r.method, r.path) for r in ROUTES if r.method != "GET"]:
            code, body = await doors.tcp_json(method, re.sub(r"\{[^}]*\}", "x", path), data=b"{}")
            assert (code, body["kind"]) == (405, "read-only")
            assert "unix socket" in body["hint"]
        assert doors.ops.calls == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", "[::1", "localhost.evil"])
async def test_foreign_host_header_is_refused(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.tcp_json("GET", "/v1/status", headers={"Host": host})
        assert (code, body["kind"]) == (403, "bad-host")


@pytest.mark.parametrize("host", ["localhost", "localhost:9775", "127.0.0.1:1", "[::1]:9775", "127.9.9.9"])
async def test_loopback_host_headers_are_taken(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path) as doors:
        code, _ = await doors.tcp_json("GET", "/v1/slots", headers={"Host": host})
        assert code == 200


_AS_OTHER = """
import os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
for request in sys.argv[3:]:
    s = socket.socket(socket.AF_UNIX); s.connect(path)
    s.sendall(request.encode() + b" HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n")
    print(s.makefile("rb").read().split(b"\\r\\n")[0].decode().split()[1])
"""


async def _as_uid(uid: int, path: Path, *requests: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _AS_OTHER, str(path), str(uid), *requests, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else to try")
async def test_only_owner_and_root_may_act(tmp_path: Path) -> None:
    requests = ("POST /v1/unload", "GET /v1/status", "GET /v1/config")
    owner, stranger = 61001, 61002
    async with serving(tmp_path, owner=owner) as doors:
        # The modes already keep others out; they are lifted so that the credentials are what decides.
        doors.path.chmod(0o666)
        for directory in (doors.path.parent, *[p for p in doors.path.parents if p.is_relative_to("/tmp")]):
            if directory != Path("/tmp"):
                directory.chmod(directory.stat().st_mode | 0o011)
        assert await _as_uid(stranger, doors.path, *requests) == ["403", "200", "403"]
        assert doors.ops.calls == []
        assert await _as_uid(owner, doors.path, *requests) == ["202", "200", "200"]
        assert await _as_uid(0, doors.path, *requests) == ["202", "200", "200"]


async def test_socket_is_private_and_taken_away(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        assert stat.S_IMODE(doors.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(doors.path.parent.stat().st_mode) == 0o700
    assert not doors.path.exists()


async def test_stale_socket_is_replaced_but_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agentd.sock"
    path.parent.mkdir()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    async with serving(tmp_path) as doors:
        second = ApiServer(doors.ops)
        with pytest.raises(AgentdError, match="another agentd listens") as refused:
            await second.start(unix=str(path))
        assert refused.value.kind == "already-running"
        assert (await doors.json("GET", "/v1/slots"))[0] == 200


async def test_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agentd.sock"
    path.write_text("mine")
    with pytest.raises(AgentdError, match="not a socket"):
        await ApiServer(FakeOperations()).start(unix=str(path))
    assert path.read_text() == "mine"


async def test_foreign_socket_survives_our_stop(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(doors.path))
    assert doors.path.exists()
    other.close()


async def test_sockets_of_systemd_are_served_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "activated.sock"
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(path))
    given.listen()
    api = ApiServer(FakeOperations())
    await api.start(unix=str(tmp_path / "other.sock"), listen="127.0.0.1:0", sockets=[given])
    try:
        assert not (tmp_path / "other.sock").exists()
        assert api.tcp_address is not None
        connector = aiohttp.UnixConnector(path=str(path))
        async with (
            aiohttp.ClientSession("http://localhost", connector=connector) as session,
            session.post("/v1/unload") as answer,
        ):
            assert answer.status == 202
    finally:
        await api.stop()
    assert path.exists()  # systemd's, not ours


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:80", "[::]:0"])
async def test_tcp_never_leaves_loopback(listen: str) -> None:
    with pytest.raises(AgentdError, match="not a loopback address"):
        sockets.tcp_socket(listen)


@pytest.mark.parametrize("listen", ["127.0.0.1", "host:1", "127.0.0.1:x", "127.0.0.1:99999"])
async def test_bad_listen_address_is_named(listen: str) -> None:
    with pytest.raises(AgentdError, match=re.escape(listen)):
        sockets.tcp_socket(listen)


async def test_taken_port_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with sockets.tcp_socket("127.0.0.1:0") as taken:
        port, path = taken.getsockname()[1], tmp_path / "agentd.sock"
        with pytest.raises(AgentdError, match=f"127.0.0.1:{port}: address already in use"):
            await ApiServer(FakeOperations()).start(unix=str(path), listen=f"127.0.0.1:{port}")
        assert not path.exists()


async def test_tcp_port_can_move_and_close(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        before = doors.api.tcp_address
        await doors.api.listen("127.0.0.2:0")
        after = doors.api.tcp_address
        assert after is not None
        assert after[0] == "127.0.0.2"
        assert before is not None
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*before)
        with pytest.raises(AgentdError):
            await doors.api.listen("192.0.2.1:1")
        assert doors.api.tcp_address == after
        await doors.api.listen("")
        assert doors.api.tcp_address is None


# -- streams ------------------------------------------------------------------------------------------------------


class Frames:
    """Server-sent events, one at a time."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> str | None:
        lines: list[str] = []
        while (line := await self._answer.content.readline()) not in (b"\n", b""):
            lines.append(line.decode().rstrip("\n"))
        return "\n".join(lines) if lines else None


async def test_progress_is_streamed_to_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        change_id = body["change"]["id"]
        async with doors.tcp.get(f"/v1/changes/{change_id}/events") as answer:
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            frames, phases = Frames(answer), []
            while (text := await frames.next()) is not None and text.startswith("data: "):
                change = json.loads(text.removeprefix("data: "))
                phases.append(change["phase"])
                if change["finished"] is None:
                    doors.ops.advance(change_id)
            assert text == "event: done\ndata: {}"
            assert await frames.next() is None
        assert phases[0] == "precheck"
        assert phases[-1] == "active"
        assert doors.ops.followers == 0


async def test_finished_change_is_one_frame_and_done(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.instant = True
        _, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        async with doors.unix.get(f"/v1/changes/{body['change']['id']}/events") as answer:
            text = await answer.text()
        assert text.count("data: ") == 2
        assert text.endswith("event: done\ndata: {}\n\n")


async def test_stream_ends_with_its_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        async with doors.unix.get(f"/v1/changes/{body['change']['id']}/events") as answer:
            await Frames(answer).next()
            assert doors.ops.followers == 1
            answer.close()
        await doors.ops.until(lambda: not doors.ops.followers)


async def test_streams_end_at_shutdown_without_done(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin"})
        async with doors.tcp.get(f"/v1/changes/{body['change']['id']}/events") as answer:
            frames = Frames(answer)
            await frames.next()
            async with asyncio.timeout(server.SHUTDOWN + 5):
                await doors.api.stop()
            assert await frames.next() is None
        assert doors.ops.followers == 0


async def test_quiet_stream_is_kept_alive(tmp_path: Path) -> None:
    async with serving(tmp_path, keep_alive=0.01) as doors, doors.tcp.get("/v1/events?follow=1") as answer:
        assert await Frames(answer).next() == ": keep-alive"


async def test_events_history_then_live_without_gap_or_double(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        for n in range(5):
            doors.ops.emit("unit.state", "qwen", f"fact {n}")
        assert [e["seq"] for e in (await doors.json("GET", "/v1/events?limit=2"))[1]["events"]] == [4, 5]
        assert [e["seq"] for e in (await doors.json("GET", "/v1/events?after=3"))[1]["events"]] == [4, 5]
        assert (await doors.json("GET", "/v1/events?limit=0"))[1] == {"events": []}
        async with doors.tcp.get("/v1/events?follow=1&limit=2") as answer:
            frames = Frames(answer)
            seen = [await frames.next(), await frames.next()]
            for n in range(600):  # more than the live feed's queue holds
                doors.ops.emit("unit.state", "qwen", f"burst {n}")
            seen += [await frames.next() for _ in range(600)]
        numbers = [int(re.match(r"id: (\d+)\ndata: ", text or "")[1]) for text in seen]  # type: ignore[index]
        assert numbers == list(range(4, 606))


async def test_events_resume_where_a_browser_was(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        for n in range(5):
            doors.ops.emit("unit.state", "qwen", f"fact {n}")
        async with doors.tcp.get("/v1/events?follow=1", headers={"Last-Event-ID": "4"}) as answer:
            assert (await Frames(answer).next() or "").startswith("id: 5\n")


async def test_number_of_streams_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_STREAMS", 1)
    async with serving(tmp_path, keep_alive=0.01) as doors, doors.tcp.get("/v1/events?follow=1") as answer:
        await Frames(answer).next()
        code, body = await doors.tcp_json("GET", "/v1/events?follow=1")
        assert (code, body["kind"]) == (503, "too-many-streams")
