"""What validating and generating a gateway's config costs for 10 to 1000 models, beside the least that it could: PyYAML
reading the same sources and writing the same document, and LiteLLM itself reading the config."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from figures import Goal, Row, Section
from rig import load_average, say

from agentd.adapters.litellm_install import find_install
from agentd.core.gateway.checks import check
from agentd.core.gateway.document import render
from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import MODELS, PORTS, PROVIDERS, Catalog
from agentd.core.gateway.problems import errors
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.yaml_text import parse
from agentd.errors import AgentdError

COUNTS = (10, 100, 500, 1000)
VALIDATE_GOAL, LINEAR_GOAL = 1000.0, 1.5
LITELLM = Path(__file__).resolve().parents[2] / ".cache/litellm-venv/bin/litellm"
UNIT = "us/model"

LOAD = """
import asyncio, json, sys, time, logging
logging.disable(logging.CRITICAL)
from litellm.proxy.proxy_server import ProxyConfig
async def main():
    found = []
    for path in json.load(sys.stdin):
        start = time.process_time()
        await ProxyConfig().load_config(router=None, config_file_path=path)
        found.append(time.process_time() - start)
    print()
    print(json.dumps(found))
asyncio.run(main())
"""


def measure(rounds: int) -> list[Section]:
    install = _install()
    sources = {count: _sources(count) for count in COUNTS}
    made = {count: _generated(texts, install) for count, texts in sources.items()}
    plain = {count: _timed(rounds, count, lambda c=count: _plain(sources[c], made[c])) for count in COUNTS}
    checked = {count: _timed(rounds, count, lambda c=count: _validated(sources[c])) for count in COUNTS}
    whole = {count: _timed(rounds, count, lambda c=count: _generated(sources[c], install)) for count in COUNTS}
    rows = [Row(f"PyYAML alone (libyaml), {COUNTS[-1]} models", plain[COUNTS[-1]], UNIT)]
    rows += [Row(f"agentd validate, {count} models", checked[count], UNIT) for count in COUNTS]
    rows += [Row(f"agentd generate, {count} models", whole[count], UNIT) for count in COUNTS]
    rows += _litellm(install, made, rounds)
    goals = [
        Goal("validate 500 models", min(checked[500]) * 500 / 1000, VALIDATE_GOAL),
        Goal("validate, 1000 models against 100", min(checked[1000]) / min(checked[100]), LINEAR_GOAL, "times"),
        Goal("generate, 1000 models against 100", min(whole[1000]) / min(whole[100]), LINEAR_GOAL, "times"),
    ]
    size = len(made[COUNTS[-1]].text) // 1024
    notes = [f"CPU time; the config of {COUNTS[-1]} models has {size} KiB; generate validates first"]
    return [Section("Gateway config", rows, goals, notes, load_average())]


def _install() -> Install:
    try:
        return find_install(str(LITELLM))
    except AgentdError as error:
        say(f"  gateway: {error.message}; LiteLLM itself is not measured")
        return Install("", "", "1.106.2")


def _timed(rounds: int, count: int, work: Callable[[], object]) -> tuple[float, ...]:
    """Microseconds of the processor for each model."""
    samples = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        samples.append((time.process_time() - start) * 1e6 / count)
    return tuple(samples)


def _sources(count: int) -> Mapping[str, str]:
    """Ten models to a provider; two of three models have a fallback, every fourth an alias."""
    providers = {f"p{n}": {"kind": "vllm", "port": f"p{n}", "key": "VLLM_KEY"} for n in range(max(1, count // 10))}
    ports: dict[str, Any] = {"gateway": 4001, **{name: 10_000 + n for n, name in enumerate(providers)}}
    models: dict[str, Any] = {}
    for n in range(count):
        models[f"model-{n}"] = {
            "provider": f"p{n % len(providers)}",
            "model": f"org/model-{n}",
            "capabilities": ["chat"],
        }
        if n % 3 != 2 and n + 1 < count:
            models[f"model-{n}"]["fallbacks"] = [f"model-{n + 1}"]
        if n % 4 == 0:
            models[f"model-{n}"]["aliases"] = [f"alias-{n}"]
    documents = {PROVIDERS: {"providers": providers}, PORTS: {"ports": ports}, MODELS: {"models": models}}
    return {name: yaml.safe_dump(document, sort_keys=False) for name, document in documents.items()}


def _validated(texts: Mapping[str, str]) -> Catalog:
    catalog, problems = read_catalog({name: parse(text, name) for name, text in texts.items()})
    if catalog is None or errors(found := (*problems, *check(catalog))):
        raise SystemExit(f"bench: the gateway's sources are wrong: {found[:3]}")
    return catalog


def _generated(texts: Mapping[str, str], install: Install) -> Rendered:
    return render(_validated(texts), install, {}, {})


def _plain(texts: Mapping[str, str], made: Rendered) -> None:
    """The same bytes in and about the same out, with nothing in between."""
    loader, dumper = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    for text in texts.values():
        yaml.load(text, loader)
    document = _DOCUMENTS.get(made.digest) or _DOCUMENTS.setdefault(made.digest, yaml.load(made.text, loader))
    yaml.dump(document, Dumper=dumper, sort_keys=False)


_DOCUMENTS: dict[str, Any] = {}


def _litellm(install: Install, made: Mapping[int, Rendered], rounds: int) -> list[Row]:
    """LiteLLM's own reading of the config, in one process that has imported it."""
    if not install.python:
        return []
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: f"{folder}/{count}.yaml" for count in made}
        for count, path in paths.items():
            Path(path).write_text(made[count].text)
        asked = [path for path in paths.values() for _ in range(rounds)]
        keys = {
            "LITELLM_MASTER_KEY": "sk-of-the-bench-0123456789",
            "VLLM_KEY": "k",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        done = subprocess.run(
            [install.python, "-c", LOAD],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
            env={"PATH": os.environ["PATH"], "HOME": folder, **keys},
        )
    seconds = json.loads(done.stdout.splitlines()[-1])
    return [
        Row(
            f"LiteLLM loads it, {count} models",
            tuple(s * 1e6 / count for s in seconds[n * rounds : (n + 1) * rounds]),
            UNIT,
        )
        for n, count in enumerate(paths)
    ]
