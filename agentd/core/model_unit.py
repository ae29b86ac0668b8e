"""The unit of one vLLM server and its part of the configuration, from what `agentctl models add` was told. Pure.

The template is a unit file in which "#@ WORD" begins lines that stand only where the word holds, up to the next "#@",
and @KEY@ is replaced. Both files carry an owner mark with a digest, as drop-ins do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agentd.core import dropin
from agentd.core.layers import format_key
from agentd.core.leaves import shown_whole

UNIT_PURPOSE, CONFIG_PURPOSE = "model-unit", "model-config"
UTILIZATION, MAX_MODEL_LEN, TENSOR_PARALLEL = "AGENTD_UTILIZATION", "AGENTD_MAX_MODEL_LEN", "AGENTD_TENSOR_PARALLEL"
"""Variables of the unit that its command line takes; a drop-in may set them to something else."""
RUNTIME_DIRECTORY = "vllm"
"""Below the user's runtime directory; the unit makes it."""

_HEADER = (
    "# Written by: agentctl models add. A change made here is noticed: only --force replaces or removes it then.\n"
)
_CONDITION = re.compile(r"#@(?: ([a-z-]+))?")
_KEY = re.compile(r"@([A-Z_]+)@")
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,+@^~-]+")
_KEY_SCRIPT = (
    'VLLM_API_KEY=$(cat "$CREDENTIALS_DIRECTORY/api-key") && test -n "$VLLM_API_KEY" && export VLLM_API_KEY'
    ' && exec "$0" "$@"'
)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model server as it is to be, everything decided."""

    name: str
    source: str
    """What vLLM is given: an absolute path, or a repository's name."""
    path: str
    """Where the files are, for checks; "" when that is not known yet."""
    program: str
    served_name: str
    slot: str
    gpus: tuple[int, ...]
    port: int = 0
    uds: str = ""
    runtime_directory: bool = False
    """The socket lies in the directory that the unit makes."""
    utilization: float = 0.9
    tensor_parallel: int = 1
    max_model_len: str = ""
    switch: str = "stop"
    loader: str = ""
    credential: str = ""
    env_file: str = ""
    extra: tuple[str, ...] = ()
    downloads: bool = False
    """The files are not there: the first start fetches them."""
    single_file: bool = False
    cache: tuple[tuple[str, str], ...] = ()
    """Variables that say where Hugging Face's cache is."""

    @property
    def unit(self) -> str:
        return unit_name(self.name)

    @property
    def url(self) -> str:
        return f"http+unix://{self.uds}" if self.uds else f"http://127.0.0.1:{self.port}"

    @property
    def sleeps(self) -> bool:
        return self.switch != "stop"


def unit_name(name: str) -> str:
    return f"vllm-{name}.service"


def fragment_name(name: str) -> str:
    return f"60-model-{name}.toml"


def owned(body: str, purpose: str) -> str:
    """The text of a file of ours."""
    return f"{_HEADER}# agentd: purpose={purpose} sha256={dropin.digest(body)}\n{body}"


def ours(text: str | None, purpose: str) -> bool:
    parsed = dropin.parse(text) if text is not None else None
    return parsed is not None and parsed.purpose == purpose


def unit_text(template: str, plan: ModelPlan) -> str:
    """The whole file, mark included. `template` is trusted; every value of the plan is quoted as systemd reads it."""
    holds = _conditions(plan)
    values = _values(plan)
    lines, open_now = [], True
    for line in template.splitlines():
        if match := _CONDITION.fullmatch(line):
            open_now = match[1] is None or holds[match[1]]
            continue
        if not line:
            open_now = True
        if open_now:
            lines.append(_KEY.sub(lambda found: values[found[1]], line))
    return owned("\n".join(lines) + "\n", UNIT_PURPOSE)


def _conditions(plan: ModelPlan) -> Mapping[str, bool]:
    local = plan.source.startswith("/")
    return {
        "directory": local and not plan.single_file,
        "file": local and plan.single_file,
        "env-file": bool(plan.env_file),
        "cache": bool(plan.cache),
        "credential": bool(plan.credential),
        "offline": not plan.downloads,
        "online": plan.downloads,
        "dev-mode": plan.sleeps,
        "uds": bool(plan.uds),
        "runtime-directory": plan.runtime_directory,
    }


def _values(plan: ModelPlan) -> Mapping[str, str]:
    return {
        "NAME": specifiers(plan.name),
        "PLACE": specifiers(f"socket {plan.uds}" if plan.uds else f"port {plan.port}"),
        "PATH": specifiers(plan.source),
        "ENV_FILE": specifiers(plan.env_file),
        "CACHE": " ".join(_word(f"{name}={value}") for name, value in plan.cache),
        "CREDENTIAL": specifiers(plan.credential),
        "GUARD": "a private socket" if plan.uds else "loopback",
        "SLOT": specifiers(plan.slot),
        "GPUS": ",".join(map(str, plan.gpus)),
        "VARIABLES": " ".join(f"{name}={value}" for name, value in _variables(plan).items()),
        "SOCKET": argument(plan.uds),
        "COMMAND": _command(plan),
    }


def _variables(plan: ModelPlan) -> Mapping[str, str]:
    found = {UTILIZATION: f"{plan.utilization:g}", TENSOR_PARALLEL: str(plan.tensor_parallel)}
    return {**found, MAX_MODEL_LEN: plan.max_model_len} if plan.max_model_len else found


def _command(plan: ModelPlan) -> str:
    shell = f"/bin/sh -c {argument(_KEY_SCRIPT)} " if plan.credential else ""
    place = f"--uds {argument(plan.uds)}" if plan.uds else f"--host 127.0.0.1 --port {plan.port}"
    lines = [
        f"{shell}{argument(plan.program)} serve {argument(plan.source)}",
        f"--served-model-name {argument(plan.served_name)}",
        place,
        f"--gpu-memory-utilization ${{{UTILIZATION}}} --tensor-parallel-size ${{{TENSOR_PARALLEL}}}",
    ]
    if plan.max_model_len:
        lines.append(f"--max-model-len ${{{MAX_MODEL_LEN}}}")
    if plan.sleeps:
        lines.append("--enable-sleep-mode")
    if plan.loader:
        lines.append(f"--load-format {argument(plan.loader)}")
    if plan.extra:
        lines.append(" ".join(map(argument, plan.extra)))
    return " \\\n    ".join(lines)


def argument(text: str) -> str:
    """One word of ExecStart=, exactly as it is: no specifier and no variable in it is expanded."""
    return _word(text).replace("$", "$$")


def _word(text: str) -> str:
    """One word of a setting that takes specifiers and no variables."""
    escaped = specifiers(text)
    if _PLAIN.fullmatch(text):
        return escaped
    quoted = escaped.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{quoted}"'


def specifiers(text: str) -> str:
    """A value that takes specifiers, without any in it."""
    return text.replace("%", "%%")


def _write_paths(plan: ModelPlan) -> list[str]:
    """Where a hardened unit must write that its profile does not know of: the socket's directory, and a cache."""
    own = [plan.uds.rpartition("/")[0] or "/"] if plan.uds and not plan.runtime_directory else []
    return [specifiers(path) for path in dict.fromkeys([*own, *(path for _, path in plan.cache)])]


def config_text(plan: ModelPlan) -> str:
    """The fragment of the configuration, mark included."""
    model = {"slot": plan.slot, "served_name": plan.served_name, "path": plan.path, "utilization": plan.utilization}
    more = {"switch": plan.switch if plan.sleeps else "", "api_key_file": plan.credential or plan.env_file}
    tables: dict[tuple[str, ...], Mapping[str, object]] = {
        ("services", plan.name): {"unit": plan.unit, "role": "model", "url": plan.url, "gate": True},
        ("services", plan.name, "model"): {key: value for key, value in {**model, **more}.items() if value},
    }
    if write_paths := _write_paths(plan):
        tables["services", plan.name, "hardening"] = {"write_paths": write_paths}
    texts = []
    for path, values in tables.items():
        texts.append("\n".join([f"[{format_key(path)}]", *(f"{k} = {shown_whole(v)}" for k, v in values.items())]))
    return owned("\n\n".join(texts) + "\n", CONFIG_PURPOSE)
