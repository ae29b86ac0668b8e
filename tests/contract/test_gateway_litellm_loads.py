"""Every generated config, as the real LiteLLM reads it: exactly the expected models, no complaint, and the fallbacks in
the order that was worked out. One process loads all of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gatewaycatalogs import arbitrary, catalog, model

from agentd.adapters.litellm_install import find_install
from agentd.core.gateway.chains import reach
from agentd.core.gateway.checks import check
from agentd.core.gateway.document import render
from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.importing import import_config
from agentd.core.gateway.model import Catalog
from agentd.core.gateway.problems import errors
from agentd.core.gateway.prune import prune
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.yaml_text import parse

ROOT = Path(__file__).resolve().parents[2]
LITELLM = ROOT / ".cache/litellm-venv/bin/litellm"
WORKER = ROOT / "tests/gatewayworker.py"
ARBITRARY = 30
IMPORTS = ROOT / "tests/unit/gateway_imports"

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Loaded:
    sources: Catalog
    made: Rendered
    models: list[str]
    logs: list[str]
    router: dict[str, Any]
    walks: dict[str, list[str]]
    long: dict[str, list[str]]


def read(texts: Mapping[str, str]) -> Catalog:
    sources, _ = read_catalog({name: parse(text, name) for name, text in texts.items()})
    assert sources is not None
    return sources


def default_sources() -> Catalog:
    return read({path.name: path.read_text() for path in (ROOT / "etc/gateway").glob("*.yaml")})


def imported() -> list[Catalog]:
    """Hand-written configs, taken over; without those that make LiteLLM talk to a Redis of somebody's."""
    texts = {path.name: path.read_text() for path in sorted(IMPORTS.glob("*.yaml"))}
    return [read(import_config(parse(text, name)).texts) for name, text in texts.items() if "redis" not in text]


def accepted() -> Iterator[Catalog]:
    seed = 0
    while True:
        sources = arbitrary(Random(seed))
        if not errors(check(sources)):
            yield sources
        seed += 1


def odd() -> Catalog:
    """Names that lead LiteLLM astray: one looks like a provider's, one is another one's id."""
    return catalog(
        *(model("openai/a"), model("a", "team/z", aliases=("gpt-4", "b/c"))),
        *(model("team/z", "y:1"), model("y:1"), model("z"), model("a/local/1", "z")),
    )


WRONG = """\
model_list:
  - {model_name: a, litellm_params: {model: openai/a, api_key: k}, model_info: {id: "1"}}
  - {model_name: b, litellm_params: {model: nosuch/b, api_key: k}, model_info: {id: "2"}}
router_settings: {num_retries: 0, no_such_key: 1, fallbacks: [{a: [b]}]}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""


@dataclass(frozen=True)
class Session:
    """`configs`: the defaults, one of odd names, imports, then arbitrary ones. `wrong`: what came of WRONG."""

    configs: list[Loaded]
    wrong: dict[str, Any]
    router_keys: list[str]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("configs")
    install = find_install(str(LITELLM))
    some = accepted()
    catalogs = [default_sources(), odd(), *imported(), *(next(some) for _ in range(ARBITRARY))]
    made = [render(sources, install, {}, {}) for sources in catalogs]
    paths = [folder / f"{number}.yaml" for number in range(len(made) + 1)]
    for path, text in zip(paths, [*(one.text for one in made), WRONG], strict=True):
        path.write_text(text)
    answer = _asked(install.python, paths, folder)
    *right, wrong = answer["configs"]
    configs = [Loaded(sources, one, **found) for sources, one, found in zip(catalogs, made, right, strict=True)]
    return Session(configs, wrong, answer["router_keys"])


def _asked(python: str, paths: list[Path], folder: Path) -> dict[str, Any]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    variables = {name for path in paths for name in re.findall(r"os\.environ/(\w+)", path.read_text())}
    environment |= dict.fromkeys(variables, "sk-of-a-test-0123456789abcdefghijkl")
    done = subprocess.run(
        [python, str(WORKER)],
        input=json.dumps([str(path) for path in paths]),
        capture_output=True,
        text=True,
        timeout=150,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def loaded(session: Session) -> list[Loaded]:
    return session.configs


def test_it_lists_exactly_the_expected_models(loaded: list[Loaded]) -> None:
    assert [one.models for one in loaded] == [list(one.made.expected) for one in loaded]
    assert loaded[0].models == ["default", "dolphin", "llama", "qwen"]


def test_it_has_nothing_to_complain_about(loaded: list[Loaded]) -> None:
    assert [line for one in loaded for line in one.logs if not _of_the_proxy_itself(line)] == []


def _of_the_proxy_itself(line: str) -> bool:
    """Advice about sign-ins to its web pages, whatever the config says about models."""
    return line.startswith("WARNING trusted_proxy_ranges is not set")


def test_it_walks_the_fallbacks_as_worked_out(loaded: list[Loaded]) -> None:
    for one in loaded:
        if one.sources.policy.routing != "simple-shuffle":
            continue
        names = {name: m.name for m in one.sources.models for name in (m.name, *m.aliases)}
        assert one.walks == {name: list(one.made.chains[names[name]]) for name in one.models}
    assert max(len(way) for one in loaded for way in one.walks.values()) >= 3


def test_a_too_long_prompt_reaches_no_more_than_worked_out(loaded: list[Loaded]) -> None:
    further = 0
    for one in loaded:
        served = prune(one.sources).models
        names = {name: m.name for m in served for name in (m.name, *m.aliases)}
        ways = reach(served)
        for name, tried in one.long.items():
            assert Counter(tried) <= Counter(ways[names[name]]), (name, tried)
            further += tried != one.walks[name]
    assert further > 3


def test_the_policy_arrives(loaded: list[Loaded]) -> None:
    for one in loaded:
        policy = one.sources.policy
        assert one.router["allowed_fails"] == policy.failures - 1
        assert one.router["cooldown_time"] == policy.cooldown
        assert one.router["num_retries"] == policy.retries
        assert (one.router["timeout"], one.router["stream_timeout"]) == (policy.try_timeout, policy.silence_timeout)
        assert "ModelRateLimitingCheck" in one.router["checks"]
        assert not one.router["disable_cooldowns"]


def test_a_wrong_config_would_show(session: Session) -> None:
    assert session.wrong["models"] == ["a"]
    complaints = "\n".join(session.wrong["logs"])
    assert "Key 'no_such_key' is not a valid argument for Router.__init__(). Ignoring this key." in complaints
    assert "Error creating deployment" in complaints


def test_the_router_keys_are_found_without_importing_it(session: Session) -> None:
    assert sorted(find_install(str(LITELLM)).router_keys) == session.router_keys
