"""The default policy against the real LiteLLM: every promise measured true; and a wrong config, found wrong.

Both proofs run beside each other, once for the module.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd import offline_prove
from agentd.adapters.litellm_install import find_install
from agentd.core.gateway.model import SOURCES, Catalog, Model
from agentd.core.gateway.promises import Measured, promises
from agentd.core.gateway.proof_catalog import rig
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.yaml_text import parse
from agentd.managers.gateway.prove import prove

ROOT = Path(__file__).resolve().parents[2]
LITELLM = ROOT / ".cache/litellm-venv/bin/litellm"
pytestmark = pytest.mark.timeout(170)
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "gpt": {"enabled": True, "fallbacks": ("claude", "llama")},
    "claude": {"enabled": True, "fallbacks": ("dolphin",)},
    "dolphin": {"context_fallbacks": ("gpt",)},
}
"""Chains of several models over all kinds of providers; the defaults have short ones alone."""


def catalog() -> Catalog:
    """The default policy, with more of the default models in use."""
    texts = {name: (ROOT / "etc/gateway" / name).read_text() for name in SOURCES}
    found, problems = read_catalog({name: parse(text, name) for name, text in texts.items()})
    assert found is not None, problems
    providers = tuple(replace(p, enabled=p.name != "embedding") for p in found.providers)
    return replace(found, providers=providers, models=tuple(map(changed, found.models)))


def changed(model: Model) -> Model:
    return replace(model, **CHANGES.get(model.name, {}))


def spoiled(text: str) -> str:
    """A config that looks as if it kept the policy."""
    document = yaml.safe_load(text)
    settings = document["router_settings"]
    settings["allowed_fails"] = 5
    settings["allowed_fails_policy"] = dict.fromkeys(settings["allowed_fails_policy"], 5)
    del settings["optional_pre_call_checks"], settings["enable_pre_call_checks"]  # either holds a limit of requests
    settings["fallbacks"] = [entry for entry in settings["fallbacks"] if "qwen" not in entry]  # its alias keeps one
    document["litellm_settings"] = {"request_timeout": 9}
    for deployment in document["model_list"]:
        del deployment["litellm_params"]["timeout"]
    return yaml.safe_dump(document)


def plain() -> Catalog:
    """All by one API, so that the slow failures of a wrong config are waited for once."""
    found = catalog()
    return replace(found, providers=tuple(replace(p, api="openai") for p in found.providers))


def names(of: Catalog) -> list[str]:
    return list(promises(rig(of, url="http://127.0.0.1:1/v1", refused="http://127.0.0.1:2/v1")))


WRONG = {
    *(name for name in names(plain()) if name.startswith(("breaker-", "rpm-", "tpm-"))),
    *("try-timeout", "stream-try", "stream-chain", "fallback-limit", "fallback-open", "chain:qwen"),
} - {"breaker-retries"}
"""What the spoiled config does not keep."""


@pytest.fixture(scope="module")
def proofs() -> tuple[Mapping[str, Measured], Mapping[str, Measured]]:
    """The real policy's, and the spoiled one's."""
    install = find_install(str(LITELLM))

    async def proof(sources: Catalog, change: Callable[[str], str]) -> Mapping[str, Measured]:
        async with offline_prove.bench(install) as place:
            found = await prove(sources, install, place, change=change)
        return {one.promise.name: one for one in found.measured}

    async def both() -> tuple[Mapping[str, Measured], Mapping[str, Measured]]:
        async with asyncio.TaskGroup() as group:
            true = group.create_task(proof(catalog(), str))
            wrong = group.create_task(proof(plain(), spoiled))
        return true.result(), wrong.result()

    return asyncio.run(both())


@pytest.mark.parametrize("name", names(catalog()))
def test_the_default_policy_holds(name: str, proofs: tuple[Mapping[str, Measured], ...]) -> None:
    found = proofs[0][name]
    assert found.ok, f"{found.promise.text}; measured: {found.measured}; {found.detail}"


@pytest.mark.parametrize("name", names(plain()))
def test_a_wrong_config_is_told_apart(name: str, proofs: tuple[Mapping[str, Measured], ...]) -> None:
    found = proofs[1][name]
    assert found.ok == (name not in WRONG), f"{found.promise.text}; measured: {found.measured}; {found.detail}"


INTERRUPTED = """
import sys
import time
from agentd import offline
from agentd.cli.main import main
sys.exit(main(["gateway", "prove", "--sources", sys.argv[1], "--config", sys.argv[2]]))
"""


def test_an_interrupted_proof_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "agentd").mkdir()
    (tmp_path / "agentd/agentd.toml").write_text(f'[gateway]\nexecutable = "{LITELLM}"\n')
    environment = {**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-c", INTERRUPTED, str(ROOT / "etc/gateway"), str(tmp_path / "agentd")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("starting LiteLLM")
        children = child_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert len(children) == 1
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert [path.name for path in tmp_path.iterdir()] == ["agentd"]


def child_of(pid: int) -> list[int]:
    """Once there is one: it is started after the line that says so."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    for _ in range(1000):
        found = [int(word) for word in file.read_text().split()]
        if found:
            return found
        time.sleep(0.01)
    return []
