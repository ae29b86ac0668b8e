"""agentctl smoke-test against a gateway that answers in every way."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakegateway import fake_gateway
from gatewayhome import Home

PROVIDERS = "providers:\n  here: {kind: local, base_url: 'http://127.0.0.1:9/v1'}\n"
MODELS = """
models:
  one: {provider: here, model: m1, capabilities: [chat], aliases: [uno]}
  two: {provider: here, model: m2, capabilities: [embedding]}
  three: {provider: here, model: m3, capabilities: [completion]}
  off: {provider: here, model: m4, capabilities: [chat], status: disabled}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.sources.mkdir()
    (made.sources / "providers.yaml").write_text(PROVIDERS)
    (made.sources / "ports.yaml").write_text("ports: {gateway: 4001}\n")
    (made.sources / "model-mappings.yaml").write_text(MODELS)
    assert made.ctl("secrets", "init").code == 0
    return made


def test_every_enabled_model_is_asked_what_it_can(home: Home) -> None:
    key = home.keys()["LITELLM_MASTER_KEY"]
    with fake_gateway(key, one="ok", two="ok", three="ok") as gateway:
        done = home.ctl("smoke-test", "--url", gateway.url)
    assert done.code == 0, done.out
    assert [(path, model) for path, model, _ in gateway.asked] == [
        ("/v1/chat/completions", "one"),
        ("/v1/embeddings", "two"),
        ("/v1/completions", "three"),
    ]
    lines = done.out.splitlines()
    assert lines[0].split() == ["MODEL", "STATUS", "FIRST", "TOTAL", "ANSWER"]
    assert lines[1].split()[:2] == ["one", "200"]
    assert lines[1].endswith("Hello there, [2J friend")
    assert lines[2].endswith("3 numbers")
    assert home.told([key]) == []


@pytest.mark.parametrize(
    ("way", "words", "status"),
    [
        ("fail", "it broke", 500),
        ("break", "it stalled", 200),
        ("silent", "the answer has no text", 200),
        ("odd", "the answer has no text", 200),
        ("hang", "no answer within 0.3 s", 0),
        ("echo", "wrong key ***", 401),
    ],
)
def test_what_does_not_count(home: Home, way: str, words: str, status: int) -> None:
    key = home.keys()["LITELLM_MASTER_KEY"]
    timeout = "300ms" if way == "hang" else "20s"
    with fake_gateway(key, one=way) as gateway:
        done = home.ctl("smoke-test", "--url", gateway.url, "--model", "one", "--json", "--timeout", timeout)
    found = done.json[0]
    assert (done.code, found["ok"], found["error"], found["status"]) == (1, False, words, status)
    assert home.told([key]) == []


def test_a_gateway_that_is_away_and_one_with_another_key(home: Home) -> None:
    with fake_gateway("sk-another", one="ok") as gateway:
        done = home.ctl("smoke-test", "--url", gateway.url)
        assert (done.code, done.out.count("Authentication Error")) == (1, 3)
        assert "3 of 3 did not answer: one, two, three\n" in done.out
        url = gateway.url
    done = home.ctl("smoke-test", "--url", url, "--model", "uno")
    assert (done.code, "connection refused" in done.out) == (1, True)


def test_several_at_once_are_told_in_order(home: Home) -> None:
    key = home.keys()["LITELLM_MASTER_KEY"]
    with fake_gateway(key, one="ok", two="ok", three="ok") as gateway:
        done = home.ctl("smoke-test", "--url", gateway.url, "--concurrency", "3", "--json")
    assert [found["model"] for found in done.json] == ["one", "two", "three"]
    assert all(found["first"] is not None and found["first"] <= found["total"] for found in done.json)


def test_without_a_key_nothing_is_asked(home: Home) -> None:
    home.env_file.unlink()
    with fake_gateway("x", one="ok") as gateway:
        done = home.ctl("smoke-test", "--url", gateway.url)
    assert (done.code, gateway.asked) == (1, [])
    assert "agentctl secrets init" in done.err


def test_without_sources_a_model_has_to_be_named(home: Home) -> None:
    (home.sources / "providers.yaml").unlink()
    done = home.ctl("smoke-test")
    assert (done.code, "name models with --model" in done.err) == (1, True)
