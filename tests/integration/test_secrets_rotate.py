"""New keys for a real LiteLLM and its model server, under agentd and under load: nobody is refused."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakegateway import fake_gateway
from integration.gatewayed import GATEWAY, KEY, PATIENCE, PORT, STANDBY, VLLM_KEY, Gateway, settled
from integration.stack import Done, Stack
from userunits import systemctl

from agentd.adapters import gateway_ask
from agentd.core.gateway import env_text, keys
from agentd.sandbox import home

pytestmark = pytest.mark.timeout(300)

MODELS = """\
models:
  qwen: {provider: vllm-qwen, model: qwen, fallbacks: [steady]}
  dolphin: {provider: vllm-dolphin, model: dolphin, when_absent: refuse}
  steady: {provider: steady, model: steady}
policy:
  limits: {vllm: {rpm: 0, tpm: 0}, local: {rpm: 0, tpm: 0}}
  timeouts: {try: 20s, silence: 20s, answer: 60s, wait: 40s}
  retries: 0
"""
PAUSE = 0.2
"""Seconds between two requests of a client; LiteLLM needs the processor to start."""
URL = f"http://127.0.0.1:{PORT}"


class Rotating(Gateway):
    """With a client whose file holds the gateway's key under a name of its own."""

    @property
    def client(self) -> Path:
        return self.stack.home / "webui.env"

    def install(self, steady: str = "") -> None:
        """`steady`: address of a server that is always there, for the time in which qwen is not."""
        super().install()
        self.write(MODELS)
        with (self.sources / "providers.yaml").open("a") as stream:
            stream.write(f"  steady: {{kind: local, base_url: '{steady}/v1'}}\n")
        self.client.write_text(f"# of the web UI\nOPENAI_API_KEY={KEY}\n")
        self.client.chmod(0o600)
        self.stack.write_config("80-keys.toml", f'[gateway]\nclient_env_files = ["{self.client}:OPENAI_API_KEY"]\n')

    def key(self) -> str:
        """As a client reads it before each request."""
        return env_text.parse(self.client.read_text())["OPENAI_API_KEY"]

    def held(self) -> dict[str, str]:
        files = {name: self.stack.config / f"{name}.env" for name in ("litellm", "vllm")}
        return {f"{n} {k}": v for n, path in files.items() for k, v in env_text.parse(path.read_text()).items()}


@dataclass
class Clients:
    """`failed`: what was no answer of a model, in words."""

    count: int = 0
    failed: list[str] = field(default_factory=list)


@contextlib.contextmanager
def clients(gateway: Rotating) -> Iterator[Clients]:
    """Two that stream and one that keeps its connection, until the block ends."""
    done, seen = threading.Event(), Clients()

    def streams() -> None:
        while not done.wait(PAUSE):
            answer = gateway_ask.chat(URL, gateway.key(), "qwen", "Who are you?", tokens=4, timeout=PATIENCE)
            seen.count += 1
            if answer.error:
                seen.failed.append(f"{answer.status} {answer.error}")

    def keeps() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        while not done.wait(PAUSE):
            try:
                connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {gateway.key()}"})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                seen.failed.append(f"kept: {type(error).__name__}: {error}")
                connection.close()
                continue
            seen.count += 1
            if response.status != 200:
                seen.failed.append(f"kept: {response.status} {body[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=work) for work in (streams, streams, keeps)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE + 10)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Rotating]:
    usual, home.API_KEY = home.API_KEY, VLLM_KEY
    made = Rotating(Stack())
    with contextlib.ExitStack() as ended:
        ended.callback(setattr, home, "API_KEY", usual)
        steady = ended.enter_context(fake_gateway(steady="ok"))
        steady.open = True
        ended.callback(made.stack.remove)
        ended.callback(made.remove)
        made.stack.install()
        made.install(steady.url)
        generated = made.stack.ctl("gateway", "generate", "--no-network")
        assert generated.code == 0, generated.out + generated.err
        systemctl("start", GATEWAY)
        made.stack.start()
        yield made


def test_a_rotation_under_load(gateway: Rotating) -> None:
    before = gateway.held()
    with clients(gateway) as seen:
        done = gateway.stack.ctl("secrets", "rotate", timeout=280.0)
        asked = seen.count
        while seen.count < asked + 10 and not seen.failed:
            threading.Event().wait(0.05)
    assert done.code == 0, f"{done.out}\n{done.err}\n{gateway.journal()}"
    assert "by systemd" not in done.out, done.out
    assert "standby: " in gateway.stack.journal(STANDBY), "it served while the gateway restarted"
    assert seen.failed == [], f"{done.out}\n{gateway.journal()}"
    after = gateway.held()
    assert (
        sorted(after) == sorted(before) == ["litellm LITELLM_MASTER_KEY", "litellm VLLM_API_KEY", "vllm VLLM_API_KEY"]
    )
    assert all(after[name] != before[name] for name in before)
    assert after["litellm VLLM_API_KEY"] == after["vllm VLLM_API_KEY"]
    assert after["litellm LITELLM_MASTER_KEY"] == gateway.key()
    statuses = [gateway_ask.models_status(URL, key, timeout=20.0) for key in (gateway.key(), KEY, None)]
    assert statuses == [200, 400, 401]
    settled(gateway, gateway.rests)
    check = gateway.stack.ctl("secrets", "check")
    assert check.code == 0, check.out
    assert shown(gateway, done, [*before.values(), *after.values()]) == []


def test_a_smoke_test_through_it(gateway: Rotating) -> None:
    done = gateway.stack.ctl("smoke-test", "--model", "qwen", "--json")
    assert done.code == 0, done.out
    assert "speaking" in json.loads(done.out)[0]["answer"]


def shown(gateway: Rotating, done: Done, secrets: list[str]) -> list[str]:
    """Secrets in what was printed, logged, in the arguments of processes, in agentd's state or in generated files."""
    texts = [done.out, done.err, *(gateway.stack.journal(u, 2000) for u in (GATEWAY, STANDBY, "agentd.service"))]
    argv = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, timeout=30, check=True).stdout
    files = [p for d in (gateway.stack.state, gateway.file.parent) for p in d.rglob("*") if p.is_file()]
    texts += [argv, *(path.read_bytes().decode("latin-1") for path in files)]
    assert keys.PREVIOUS not in "".join(gateway.held())
    return [secret for secret in secrets if any(secret in text for text in texts)]
