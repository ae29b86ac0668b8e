"""The HTTP API, actions: what is accepted, what is refused and how, what goes on without its client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from fakes.doors import serving

from agentd.errors import AgentdError, ConfigError, ConfigProblem
from agentd.wire import LeaseRequest, SleepCheckRequest, SwitchRequest


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


async def test_a_switch_for_somebodys_request_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, _ = await doors.json("POST", "/v1/switch", json={"target": "dolphin", "automatic": True})
        assert code == 202
        assert doors.ops.calls == [("switch", SwitchRequest("dolphin", automatic=True, origin="gateway"))]
        code, body = await doors.json("POST", "/v1/switch", json={"target": "dolphin", "origin": "gateway"})
        assert (code, body["kind"]) == (400, "bad-request"), "nobody names an origin of his own"


async def test_sleep_check_is_a_change_of_a_known_model(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("POST", "/v1/models/sleep-check", json={"model": "qwen", "level": 2})
        assert (code, body["change"]["kind"], body["change"]["target"]) == (202, "sleep-check", "qwen")
        assert doors.ops.calls == [("sleep_check", SleepCheckRequest("qwen", 2))]
        code, body = await doors.json("POST", "/v1/models/sleep-check", json={"model": "qwne"})
        assert (code, body["hint"]) == (404, 'did you mean "qwen"?')
        code, body = await doors.json("POST", "/v1/models/sleep-check", json={"model": "qwen", "level": 1.5})
        assert (code, body["kind"]) == (400, "bad-request")


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
