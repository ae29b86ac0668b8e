"""agentctl smoke-test against a gateway that answers in every way."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from fakegateway import fake_gateway
from gatewayhome import Home

CONFIG = """
[services.slow]
unit = "slow.service"
role = "model"
url = "http://127.0.0.1:8"
[services.slow.model]
slot = "gpu0"
served_name = "m6"
[slots.gpu0]
"""
PROVIDERS = """
providers:
  here: {kind: local, base_url: 'http://127.0.0.1:9/v1'}
  slot: {kind: vllm, base_url: 'http://127.0.0.1:8/v1', service: slow}
"""
MODELS = """
models:
  one: {provider: here, model: m1, capabilities: [chat], aliases: [uno]}
  two: {provider: here, model: m2, capabilities: [embedding]}
  three: {provider: here, model: m3, capabilities: [completion]}
  closed: {provider: here, model: m4, capabilities: [chat], status: disabled}
"""
SLOT = """
  sorter: {provider: here, model: m5, capabilities: [rerank]}
  gone: {provider: slot, model: m6, when_absent: refuse}
  asked: {provider: slot, model: m6, when_absent: switch}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.put_config(CONFIG)
    made.sources.mkdir()
    (made.sources / "providers.yaml").write_text(PROVIDERS)
    (made.sources / "ports.yaml").write_text("ports: {gateway: 4001}\n")
    generate(made, MODELS)
    return made


def generate(home: Home, models: str) -> None:
    (home.sources / "model-mappings.yaml").write_text(models)
    assert home.ctl("secrets", "init").code == 0
    done = home.ctl("gateway", "generate", "--no-network")
    assert done.code == 0, done.out + done.err


def test_every_model_of_the_generated_file_is_asked_what_it_can(home: Home) -> None:
    key = home.keys()["LITELLM_MASTER_KEY"]
    (home.sources / "model-mappings.yaml").write_text("models: {}\n")  # What is served is still the old one.
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


def test_a_model_that_its_slot_does_not_hold_is_no_failure(home: Home) -> None:
    generate(home, MODELS + SLOT)
    key = home.keys()["LITELLM_MASTER_KEY"]
    with fake_gateway(key, one="ok", two="ok", three="ok", gone="absent", asked="ok") as gateway:
        done = home.ctl("smoke-test", "--url", gateway.url)
        assert done.code == 0, done.out
        assert "as when_absent says: gone\n" in done.out
        assert "no question for them: sorter\n" in done.out
        assert "sorter" not in [model for _, model, _ in gateway.asked]
    with fake_gateway(key, one="absent", asked="absent", gone="fail") as gateway:
        for model in ("one", "asked", "gone"):
            done = home.ctl("smoke-test", "--url", gateway.url, "--model", model, "--json")
            assert (done.code, done.json[0]["absent"]) == (1, False), "no slot; a switch that failed; another error"


def test_who_answers_in_the_place_of_another_is_told(home: Home) -> None:
    key = home.keys()["LITELLM_MASTER_KEY"]
    with fake_gateway(key, one="three/here/1", uno="one/here/1", three="odd/one") as gateway:
        asked = [
            home.ctl("smoke-test", "--url", gateway.url, "--model", model, "--json").json[0]["by"]
            for model in ("one", "uno", "three")
        ]
        assert asked == ["three", "", ""]
        assert "(by three) Hello" in home.ctl("smoke-test", "--url", gateway.url, "--model", "one").out


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


def test_an_interrupt_does_not_wait_for_the_answer(home: Home) -> None:
    with fake_gateway(home.keys()["LITELLM_MASTER_KEY"], one="hang") as gateway:
        process = home.start("smoke-test", "--url", gateway.url, "--model", "one")
        assert gateway.hanging.wait(30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert not gateway.release.is_set()
    assert (process.returncode, "Traceback" in err) == (130, False), err


def test_without_a_key_nothing_is_asked(home: Home) -> None:
    home.env_file.unlink()
    with fake_gateway("x", one="ok") as gateway:
        done = home.ctl("smoke-test", "--url", gateway.url)
    assert (done.code, gateway.asked) == (1, [])
    assert "agentctl secrets init" in done.err


def test_without_a_generated_file_a_model_has_to_be_named(home: Home) -> None:
    key = home.keys()["LITELLM_MASTER_KEY"]
    home.generated.unlink()
    done = home.ctl("smoke-test")
    assert (done.code, done.out, "or name a model with --model" in done.err) == (1, "", True)
    with fake_gateway(key, one="ok") as gateway:
        assert home.ctl("smoke-test", "--url", gateway.url, "--model", "one").code == 0
