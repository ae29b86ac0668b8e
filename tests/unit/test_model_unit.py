"""The unit and the fragment that models add writes: quoted as systemd and TOML read them, and nothing unasked."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from agentd import resources
from agentd.core import dropin, model_args, model_unit
from agentd.core.model_unit import CONFIG_PURPOSE, UNIT_PURPOSE, ModelPlan
from agentd.core.unitfile import merge, parse
from agentd.errors import AgentdError

TEMPLATE = resources.template("vllm-model.service").read_text()
PLAN = ModelPlan(
    name="llama", source="/models/llama", path="/models/llama", program="/opt/vllm/bin/vllm", served_name="llama",
    slot="gpu0", gpus=(0,), port=8003, utilization=0.85,
)  # fmt: skip


def settings(plan: ModelPlan) -> dict[str, str]:
    """Directive -> value of the unit's file; several of one are joined."""
    text = model_unit.unit_text(TEMPLATE, plan)
    assert parse(text).problems == ()
    return {key: found.text for (_, key), found in merge([("unit", text)]).items()}


def command(plan: ModelPlan) -> list[str]:
    return " ".join(settings(plan)["ExecStart"].split()).split(" ")


def test_a_plain_model() -> None:
    found = settings(PLAN)
    assert command(PLAN) == [
        "/opt/vllm/bin/vllm", "serve", "/models/llama", "--served-model-name", "llama", "--host", "127.0.0.1",
        "--port", "8003", "--gpu-memory-utilization", "${AGENTD_UTILIZATION}", "--tensor-parallel-size",
        "${AGENTD_TENSOR_PARALLEL}",
    ]  # fmt: skip
    assert "AGENTD_UTILIZATION=0.85 AGENTD_TENSOR_PARALLEL=1" in found["Environment"]
    assert "HF_HUB_OFFLINE=1" in found["Environment"]
    assert "VLLM_SERVER_DEV_MODE" not in found["Environment"]
    assert found["AssertPathIsDirectory"] == "/models/llama"
    assert found["KillMode"] == "mixed"
    assert found.keys().isdisjoint({"EnvironmentFile", "LoadCredential", "RuntimeDirectory", "ExecStartPre"})
    assert "@" not in model_unit.unit_text(TEMPLATE, PLAN).replace("#@", "")


def test_everything_the_shipped_unit_sets_is_set() -> None:
    shipped = resources.directory("units") / "vllm-qwen.service"
    wanted = {key for _, key in merge([("qwen", shipped.read_text())])} - {"EnvironmentFile"}
    assert wanted <= settings(PLAN).keys()


def test_sleep_mode_needs_its_endpoints() -> None:
    for way in ("sleep1", "sleep2", "auto"):
        plan = replace(PLAN, switch=way)
        assert "--enable-sleep-mode" in command(plan)
        assert "VLLM_SERVER_DEV_MODE=1" in settings(plan)["Environment"]
        assert tomllib.loads(model_unit.config_text(plan))["services"]["llama"]["model"]["switch"] == way


def test_a_socket() -> None:
    plan = replace(PLAN, port=0, uds="/run/user/1000/vllm/llama.sock", runtime_directory=True)
    found = settings(plan)
    assert "--uds /run/user/1000/vllm/llama.sock" in found["ExecStart"]
    assert "--port" not in found["ExecStart"]
    assert found["ExecStartPre"] == "-/bin/rm -f /run/user/1000/vllm/llama.sock"
    assert (found["RuntimeDirectory"], found["RuntimeDirectoryMode"]) == ("vllm", "0700")
    assert found["UMask"] == "0077"
    config = tomllib.loads(model_unit.config_text(plan))["services"]["llama"]
    assert config["url"] == "http+unix:///run/user/1000/vllm/llama.sock"
    assert "hardening" not in config


def test_a_socket_elsewhere_must_be_writable_for_a_hardened_unit() -> None:
    plan = replace(PLAN, port=0, uds="/srv/s/llama.sock")
    assert "RuntimeDirectory" not in settings(plan)
    assert tomllib.loads(model_unit.config_text(plan))["services"]["llama"]["hardening"] == {"write_paths": ["/srv/s"]}


def test_a_key_by_credential_is_on_no_command_line() -> None:
    found = settings(replace(PLAN, credential="/home/a b/100%/key"))
    assert found["LoadCredential"] == "api-key:/home/a b/100%%/key"
    assert found["ExecStart"].startswith('/bin/sh -c "VLLM_API_KEY=$$(cat \\"$$CREDENTIALS_DIRECTORY/api-key\\")')
    assert "EnvironmentFile" not in found
    assert settings(replace(PLAN, env_file="/home/k%.env"))["EnvironmentFile"] == "/home/k%%.env"


def test_what_is_downloaded_may_go_online() -> None:
    plan = replace(PLAN, source="org/model", path="", downloads=True)
    found = settings(plan)
    assert "HF_HUB_OFFLINE" not in found["Environment"]
    assert found.keys().isdisjoint({"AssertPathIsDirectory", "AssertPathExists"})
    assert "path" not in tomllib.loads(model_unit.config_text(plan))["services"]["llama"]["model"]


def test_a_file_two_gpus_and_the_rest() -> None:
    plan = replace(
        PLAN, source="/m/x.gguf", single_file=True, gpus=(2, 3), tensor_parallel=2, max_model_len="32k", loader="gguf"
    )
    found = settings(plan)
    assert found["AssertPathExists"] == "/m/x.gguf"
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=2,3" in found["Environment"]
    assert "AGENTD_TENSOR_PARALLEL=2 AGENTD_MAX_MODEL_LEN=32k" in found["Environment"]
    assert "--max-model-len ${AGENTD_MAX_MODEL_LEN}" in found["ExecStart"]
    assert "--load-format gguf" in found["ExecStart"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain-1.0/x:y=z", "plain-1.0/x:y=z"),
        ("", '""'),
        ("a b", '"a b"'),
        ("100%", '"100%%"'),
        ("$HOME ${X}", '"$$HOME $${X}"'),
        ('{"a": 1}', '"{\\"a\\": 1}"'),
        ("back\\slash", '"back\\\\slash"'),
        ("it's", '"it\'s"'),
        ("#no-comment", '"#no-comment"'),
        (";", '";"'),
        ("two\nlines\tand a tab", '"two\\nlines\\tand a tab"'),
        ("ü", '"ü"'),
    ],
)
def test_arguments(text: str, written: str) -> None:
    assert model_unit.argument(text) == written


def test_owner_marks_notice_an_edit() -> None:
    for text, purpose in (
        (model_unit.unit_text(TEMPLATE, PLAN), UNIT_PURPOSE), (model_unit.config_text(PLAN), CONFIG_PURPOSE),
    ):  # fmt: skip
        assert model_unit.ours(text, purpose)
        assert not dropin.edited(text)
        assert dropin.edited(text + "# mine\n")
    assert not model_unit.ours(model_unit.config_text(PLAN), UNIT_PURPOSE)
    assert not model_unit.ours("[Service]\n", UNIT_PURPOSE)
    assert not model_unit.ours(None, UNIT_PURPOSE)


def test_a_name_with_a_dot_is_one_key() -> None:
    found = tomllib.loads(model_unit.config_text(replace(PLAN, name="phi-3.5")))
    assert found["services"]["phi-3.5"]["unit"] == "vllm-phi-3.5.service"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "9"], ["--port=9"], ["--gpu_memory_utilization=1"], ["-tp", "2"], ["-tp=2"], ["--api-key", "x"],
        ["--uds", "x"], ["--max-num-seqs", "4", "--host=0.0.0.0"], ["a\x1bb"],
    ],
)  # fmt: skip
def test_arguments_that_contradict_the_unit(arguments: list[str]) -> None:
    with pytest.raises(AgentdError) as error:
        model_args.extra(arguments)
    assert error.value.kind == "bad-request"
    assert "x1b" not in error.value.message


def test_other_arguments_go_as_they_are() -> None:
    assert model_args.extra(["--max-num-seqs", "64", "--foo", "a b"]) == ("--max-num-seqs", "64", "--foo", "a b")


@pytest.mark.parametrize("text", ["0", "-0.1", "1.01", "nan", "inf", "x", ""])
def test_utilization_out_of_range(text: str) -> None:
    with pytest.raises(AgentdError, match="not above 0 and at most 1"):
        model_args.utilization(text)


@pytest.mark.parametrize("text", ["0", "3", "x", "-1", "9999999999"])
def test_more_gpus_than_there_are(text: str) -> None:
    with pytest.raises(AgentdError):
        model_args.tensor_parallel(text, "gpu0", (0, 1))
    assert model_args.tensor_parallel("", "gpu0", (0, 1)) == 2


@pytest.mark.parametrize("repo", ["a/b/c", "/abs", "../x", "a b", "", "org/..", "org/-x\n"])
def test_names_that_are_no_repository(repo: str) -> None:
    with pytest.raises(AgentdError):
        model_args.check_repo(repo)
    model_args.check_repo("Qwen/Qwen2.5-7B_Instruct")
