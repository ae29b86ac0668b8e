"""The HTTP API, reads: over its two real doors, with plain values behind it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fakes.doors import serving
from fakes.hardening import VOID
from fakes.operations import FakeOperations

from agentd.api.access import Access
from agentd.api.operations import Check, Operations
from agentd.api.routes import ROUTES
from agentd.types import Outcome
from agentd.wire import plain


def test_fake_has_every_operation() -> None:
    ops: Operations = FakeOperations()
    wanted = {n for n in vars(Operations) if not n.startswith("_")}
    assert wanted <= {n for n in dir(ops) if not n.startswith("_")}


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
        doors.ops.finding_list.append(VOID)
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
        assert await doors.json("GET", "/v1/findings") == (200, {"findings": [plain(VOID)]})


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
