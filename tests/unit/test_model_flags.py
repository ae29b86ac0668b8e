"""Flags of vLLM that the configuration decides: by a drop-in of variables, and a finding where a unit has none."""

from __future__ import annotations

from typing import Any

import pytest
from unit.test_dropins_manager import DIR, Rig, rig

from agentd import resources
from agentd.core.dropin import Purpose, path_of
from agentd.core.model_flags import FLAGS, drop_in, without_effect
from agentd.core.schema import Model, Service, Settings, Slot
from agentd.findings import Verdict

UNIT = "vllm-qwen.service"
FRAGMENT = f"/home/user/.config/systemd/user/{UNIT}"
PATH = f"{DIR}/{path_of(UNIT, Purpose.MODEL)}"
HEEDS = "[Service]\nExecStart=vllm serve /m \\\n  --gpu-memory-utilization ${AGENTD_UTILIZATION}\n"


def model(**values: Any) -> Model:
    return Model(slot="gpu0", served_name="qwen", **values)


def settings(**values: Any) -> Settings:
    service = Service(unit=UNIT, role="model", url="http://127.0.0.1:8001", model=model(**values))
    return Settings(slots={"gpu0": Slot()}, services={"qwen": service})


def test_only_what_is_set_is_in_the_drop_in() -> None:
    assert drop_in(UNIT, model()) is None
    found = drop_in(UNIT, model(utilization=0.8, tensor_parallel=2))
    assert found is not None
    assert found.path == "vllm-qwen.service.d/90-agentd-model.conf"
    assert [line for line in found.body.splitlines() if not line.startswith("#")] == [
        "[Service]", "Environment=AGENTD_UTILIZATION=0.8", "Environment=AGENTD_TENSOR_PARALLEL=2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "heeded"),
    [
        ("ExecStart=vllm serve /m --gpu-memory-utilization ${AGENTD_UTILIZATION}", True),
        ("ExecStart=vllm serve /m --gpu-memory-utilization $AGENTD_UTILIZATION", True),
        ("ExecStart=vllm serve /m --gpu-memory-utilization=0.80", True),
        ("ExecStart=vllm serve /m \\\n --gpu-memory-utilization \\\n 0.8", True),
        ("ExecStart=vllm serve /m --gpu-memory-utilization 0.9", False),
        ("ExecStart=vllm serve /m", False),
        ("# ${AGENTD_UTILIZATION}\nExecStart=vllm serve /m", False),
        ("Environment=AGENTD_UTILIZATION=0.8\nExecStart=vllm serve /m", False),
    ],
)
def test_whether_a_unit_heeds_it(text: str, heeded: bool) -> None:
    assert without_effect(model(utilization=0.8), [text]) == ([] if heeded else ["utilization"])


@pytest.mark.parametrize("name", ["qwen", "dolphin"])
def test_the_shipped_units_heed_all(name: str) -> None:
    text = (resources.directory("units") / f"vllm-{name}.service").read_text()
    assert without_effect(model(utilization=0.5, max_model_len=4096, tensor_parallel=2), [text]) == []
    for variable, _ in FLAGS.values():
        assert f"{variable}=" in text, "a variable without a value would be an empty argument"


async def applied(text: str, **values: Any) -> Rig:
    made = rig()
    made.files.texts[FRAGMENT] = text
    made.units.load()
    await made.manager.apply(settings(**values))
    return made


async def test_it_is_written_loaded_changed_and_taken_away() -> None:
    made = await applied(HEEDS, utilization=0.8)
    assert "Environment=AGENTD_UTILIZATION=0.8\n" in made.files.texts[PATH]
    assert made.units.state(UNIT).dropin_paths == (PATH,)
    assert made.manager.findings() == ()
    await made.manager.apply(settings(utilization=0.9))
    assert "Environment=AGENTD_UTILIZATION=0.9\n" in made.files.texts[PATH]
    reloads = made.reloads
    await made.manager.apply(settings(utilization=0.9))
    assert made.reloads == reloads, "the second time nothing is to be done"
    await made.manager.apply(settings())
    assert PATH not in made.files.texts


async def test_a_unit_that_does_not_heed_it_is_a_finding() -> None:
    made = await applied("[Service]\nExecStart=vllm serve /m --gpu-memory-utilization 0.9\n", utilization=0.8)
    [finding] = made.manager.findings()
    assert (finding.subject, finding.aspect, finding.verdict) == (UNIT, "utilization", Verdict.NOT_EFFECTIVE)
    assert finding.cause == (
        "services.qwen.model.utilization has no effect: the unit does not take it from AGENTD_UTILIZATION"
    )
    assert "--gpu-memory-utilization ${AGENTD_UTILIZATION}" in finding.fix
    made.units.change(UNIT, fragment_path="")
    made.manager.units_changed()
    await made.manager.ensure()
    assert made.manager.findings() == (), "of a unit that is not there nothing is said"
