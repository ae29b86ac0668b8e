"""From the sources to the file, and back to an earlier one, with files in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from gatewaycatalogs import INSTALL

from agentd.core.gateway.facts import Facts
from agentd.core.gateway.header import parse_header
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import Catalog
from agentd.core.gateway.yaml_text import YamlProblem, parse
from agentd.errors import AgentdError
from agentd.managers.gateway.generation import Generation
from agentd.ports_gateway import GatewayFiles, SourceSet, Version

DEFAULTS = {p.name: p.read_text() for p in (Path(__file__).resolve().parents[2] / "etc/gateway").glob("*.yaml")}
MODELS = "model-mappings.yaml"


class MemoryFiles(GatewayFiles):
    def __init__(self) -> None:
        self.texts = dict(DEFAULTS)
        self.file: str | None = None
        self.kept: list[tuple[Version, str]] = []

    async def sources(self) -> SourceSet:
        trees, problems = {}, []
        for name, text in self.texts.items():
            try:
                trees[name] = parse(text, name)
            except YamlProblem as error:
                problems.append(error.problem)
        return SourceSet("/etc", self.texts, trees, tuple(problems))

    async def generated(self) -> str | None:
        return self.file

    async def write(self, text: str) -> Version | None:
        old, self.file = self.file, text
        if old is None or old == text:
            return None
        version = Version(f"v{len(self.kept)}", 1.0 + len(self.kept), "", "")
        self.kept.insert(0, (version, old))
        return version

    async def versions(self) -> tuple[Version, ...]:
        return tuple(version for version, _ in self.kept)

    async def version_text(self, version: str) -> str:
        for known, text in self.kept:
            if known.id == version:
                return text
        raise AgentdError("version-not-found", f"no version {version}")

    async def write_candidate(self, text: str) -> str:
        raise NotImplementedError

    async def remove_candidate(self) -> None:
        raise NotImplementedError

    async def environment(self) -> Mapping[str, str]:
        raise NotImplementedError


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def generation(files: MemoryFiles) -> Generation:
    return Generation(files, lambda: INSTALL, lambda: {"qwen": ("http://127.0.0.1:8001", "gpu0")})


def edit(files: MemoryFiles, old: str, new: str) -> None:
    assert old in files.texts[MODELS]
    files.texts[MODELS] = files.texts[MODELS].replace(old, new)


async def test_the_first_file(files: MemoryFiles) -> None:
    plan = await generation(files).plan()
    assert plan.rendered is not None
    assert (plan.current, plan.up_to_date, plan.edited) == (None, False, False)
    assert "model qwen added" in plan.words
    assert "slots:\n    qwen:" in plan.rendered.text
    header = parse_header(plan.rendered.text)
    assert header is not None
    assert set(header.sources) == set(DEFAULTS)
    assert await generation(files).write(plan) is None
    assert files.file == plan.rendered.text


async def test_a_second_time_nothing_changes(files: MemoryFiles) -> None:
    await generation(files).write(await generation(files).plan())
    plan = await generation(files).plan()
    assert plan.up_to_date
    assert plan.same_config
    assert (plan.delta, plan.words) == ("", ())
    assert await generation(files).write(plan) is None
    assert files.kept == []


async def test_a_comment_changes_the_header_alone(files: MemoryFiles) -> None:
    await generation(files).write(await generation(files).plan())
    files.texts[MODELS] += "\n# a word\n"
    plan = await generation(files).plan()
    assert not plan.up_to_date
    assert plan.same_config
    assert plan.delta == ""


async def test_a_change_of_the_policy(files: MemoryFiles) -> None:
    await generation(files).write(await generation(files).plan())
    edit(files, "retries: 2", "retries: 1")
    plan = await generation(files).plan()
    assert not plan.same_config
    assert plan.words == ("router_settings.num_retries: 2 -> 1",)
    kept = await generation(files).write(plan)
    assert kept is not None
    assert "num_retries: 2" in await files.version_text(kept.id)


async def test_wrong_sources_are_refused(files: MemoryFiles) -> None:
    edit(files, "fallbacks: [llama]", "fallbacks: [lama]")
    plan = await generation(files).plan()
    assert plan.rendered is None
    assert plan.catalog is not None
    assert {problem.check for problem in plan.problems} >= {"unknown-fallback"}
    with pytest.raises(AgentdError, match="cannot generate: 2 errors in the sources"):
        await generation(files).write(plan)
    assert files.file is None


async def test_a_source_that_is_no_yaml(files: MemoryFiles) -> None:
    files.texts[MODELS] = "models: ["
    plan = await generation(files).plan()
    assert (plan.rendered, plan.catalog) == (None, None)
    assert [problem.check for problem in plan.problems] == ["yaml-syntax"]


async def test_an_edit_by_hand_is_seen_and_does_not_hinder(files: MemoryFiles) -> None:
    await generation(files).write(await generation(files).plan())
    assert files.file is not None
    files.file = files.file.replace("num_retries: 2", "num_retries: 7")
    plan = await generation(files).plan()
    assert plan.edited
    assert not plan.same_config
    assert plan.rendered is not None
    assert "-  num_retries: 7\n+  num_retries: 2" in plan.delta


async def test_a_file_that_is_no_yaml_is_replaced(files: MemoryFiles) -> None:
    files.file = "model_list: [\n"
    plan = await generation(files).plan()
    assert plan.rendered is not None
    assert "-model_list: [\n" in plan.delta
    assert not plan.edited


async def test_without_litellm_there_is_a_warning(files: MemoryFiles) -> None:
    def missing() -> Install:
        raise AgentdError("litellm-missing", "cannot find LiteLLM")

    plan = await Generation(files, missing).plan()
    assert plan.rendered is not None
    assert "litellm-missing" in {problem.check for problem in plan.problems}


async def test_facts_are_asked_for_these_sources(files: MemoryFiles) -> None:
    asked: list[Catalog] = []

    async def facts(catalog: Catalog) -> Facts:
        asked.append(catalog)
        return Facts(generated="", config="/x.yaml")

    plan = await Generation(files, lambda: INSTALL, facts=facts).plan()
    assert [set(catalog.files) for catalog in asked] == [set(DEFAULTS)]
    assert "stale-file" in {problem.check for problem in plan.problems}
    assert plan.rendered is not None


async def test_back_to_the_one_before_and_forth_again(files: MemoryFiles) -> None:
    made = generation(files)
    await made.write(await made.plan())
    first = files.file
    edit(files, "retries: 2", "retries: 1")
    await made.write(await made.plan())
    second = files.file
    back = await made.rollback()
    assert (back.text, back.current, back.up_to_date) == (first, second, False)
    assert back.words == ("router_settings.num_retries: 1 -> 2",)
    assert await made.restore(back) is not None
    assert files.file == first
    assert (await made.rollback()).text == second
    assert (await made.rollback("v0")).up_to_date
    assert await made.restore(await made.rollback("v0")) is None


@pytest.mark.parametrize("version", ["", "v9"])
async def test_no_such_version(files: MemoryFiles, version: str) -> None:
    with pytest.raises(AgentdError) as caught:
        await generation(files).rollback(version)
    assert caught.value.kind == "version-not-found"
