"""What `agentctl models add` was told, against what is there: the model server as it is to be."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agentd import offline_gateway, paths
from agentd.adapters import env_files, vllm_install, weight_checks
from agentd.adapters.kernel import LinuxKernel
from agentd.core import model_args, model_keys, model_unit
from agentd.core.addresses import LONGEST_SOCKET, AddressError, parse_listen, parse_url
from agentd.core.leaves import quoted, suggest
from agentd.core.model_args import wrong
from agentd.core.model_unit import ModelPlan
from agentd.core.schema import Service, Settings
from agentd.errors import AgentdError

FIRST_PORT, LAST_PORT = 8001, 8999
SHIPPED: Mapping[int, str] = {4001: "LiteLLM", 6379: "Redis", 9775: "agentd", 11434: "Ollama"}
"""Ports of the stack's other services, whether they are configured here or not."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """As it was typed; "" and 0 for what was not."""

    name: str
    path: str = ""
    repo: str = ""
    port: int = 0
    uds: str = ""
    served_name: str = ""
    utilization: str = "0.9"
    tensor_parallel: str = ""
    max_model_len: str = ""
    slot: str = ""
    switch: str = "stop"
    loader: str = ""
    credential: str = ""
    env_file: str = ""
    vllm: str = ""
    extra: tuple[str, ...] = ()
    replace: bool = False
    force: bool = False


def plan(wanted: Wanted, settings: Settings, before: Service | None) -> tuple[ModelPlan, tuple[str, ...]]:
    """The model with everything decided, and what the user should know of it. `before`: the same model as it is now.

    Raises AgentdError("bad-request" | "model-files" | "port-taken").
    """
    slot = _slot(wanted, settings)
    gpus = settings.slots[slot].gpus
    program = vllm_install.program(wanted.vllm, paths.home())
    if not program:
        what = f'no program "{wanted.vllm}"' if wanted.vllm else "no vllm program in ~/.local/bin or on PATH"
        raise wrong(f"there is {what}", "name it: --vllm PROGRAM")
    model_args.check_program(program)
    asked = model_args.loader(wanted.loader)
    base = ModelPlan(
        name=wanted.name, source="", path="", program=program, slot=slot, gpus=gpus,
        served_name=model_args.printable("--served-name", wanted.served_name or wanted.name),
        utilization=model_args.utilization(wanted.utilization),
        tensor_parallel=model_args.tensor_parallel(wanted.tensor_parallel, slot, gpus),
        max_model_len=model_args.max_model_len(wanted.max_model_len), switch=wanted.switch,
        loader=vllm_install.loader(program) if asked == "auto" else asked, extra=model_args.extra(wanted.extra),
    )  # fmt: skip
    made, notes = _files(wanted, base)
    if asked == "auto" and not made.loader:
        notes.append("no quicker loader is installed beside vllm: its own is used")
    made, told = _key(wanted, _listening(wanted, made, settings, before))
    notes += told
    whose = _registered(settings).get(made.port, made.name)
    if whose != made.name:
        notes.append(f"the gateway's ports.yaml gives port {made.port} to {whose}")
    return made, tuple(notes)


def _slot(wanted: Wanted, settings: Settings) -> str:
    known = list(settings.slots)
    if not known:
        raise wrong("no slot is configured", "write [slots.gpu0] to agentd.toml first")
    if wanted.slot:
        if wanted.slot not in known:
            raise wrong(f'--slot "{wanted.slot}" is not a slot{suggest(wanted.slot, known)}', f"slots: {quoted(known)}")
        return wanted.slot
    if len(known) > 1:
        raise wrong("which slot?", f"write --slot with one of {quoted(known)}")
    return known[0]


def _files(wanted: Wanted, base: ModelPlan) -> tuple[ModelPlan, list[str]]:
    if bool(wanted.path) == bool(wanted.repo):
        raise wrong("which model? write one of --path DIR and --id REPO")
    if wanted.repo:
        model_args.check_repo(wanted.repo)
        cached = vllm_install.cached_repo(wanted.repo, paths.home(), os.environ)
        base = replace(base, cache=_cache())
        if cached:
            _whole(cached, base.name)
            return replace(base, source=wanted.repo, path=cached), []
        note = f"{wanted.repo} is not in Hugging Face's cache: the first start downloads it, however long that takes"
        return replace(base, source=wanted.repo, downloads=True), [note]
    path = _absolute("--path", wanted.path)
    if not Path(path).exists():
        raise wrong(f'--path "{path}" does not exist', "a model of Hugging Face is named by --id")
    if Path(path).is_file() and not path.lower().endswith(".gguf"):
        hint = f"write the directory that it is in: --path {Path(path).parent}"
        raise wrong(f'--path "{path}" is a file, and vLLM loads a directory or one .gguf file', hint)
    _refuse_cache(path)
    _whole(path, base.name)
    return replace(base, source=path, path=path, single_file=Path(path).is_file()), []


def _cache() -> tuple[tuple[str, str], ...]:
    """Where Hugging Face's cache is by this environment; the unit has another one."""
    found = vllm_install.cache_variables(os.environ)
    return tuple((name, model_args.printable(name, path)) for name, path in found)


def _refuse_cache(path: str) -> None:
    """What the checks take for the snapshot in it, vLLM takes for a directory without a model."""
    snapshot = weight_checks.model_directory(path)
    if snapshot == path:
        return
    hint = f"a snapshot can be given: --path {snapshot}"
    if repo := vllm_install.repo_of(path):
        ours = vllm_install.hub(paths.home(), os.environ) == Path(path).parent
        hint = f"write --id {repo}" + ("" if ours else f", with HF_HUB_CACHE={Path(path).parent} in the environment")
    raise wrong(f'--path "{path}" is a place in Hugging Face\'s cache, which vLLM does not load by its path', hint)


def _whole(path: str, name: str) -> None:
    found = weight_checks.check(path)
    if found.problems:
        first = found.problems[0]
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        text = f"cannot add {name}: {first.path} {first.problem}{more}"
        raise AgentdError("model-files", text, hint=f"see all: agentctl models verify {path}")


def _listening(wanted: Wanted, made: ModelPlan, settings: Settings, before: Service | None) -> ModelPlan:
    if wanted.port and wanted.uds:
        raise wrong("--port and --uds cannot stand together", "it listens on one of them")
    if wanted.uds:
        return _socket(wanted.uds, made)
    taken = _ports(settings, wanted.name)
    if wanted.port:
        whose = taken.get(wanted.port) or SHIPPED.get(wanted.port, "")
        if whose:
            raise wrong(f"--port {wanted.port} is the port of {whose}", f"free: {_free(taken)}")
        holder = LinuxKernel().port_holder(wanted.port)
        if holder is not None and holder.unit != made.unit:
            who = f"{holder.comm} (pid {holder.pid})" if holder.pid else "a process of somebody else"
            raise AgentdError("port-taken", f"port {wanted.port} is taken by {who}", hint=f"free: {_free(taken)}")
        return replace(made, port=wanted.port)
    now = parse_url(before.url) if before is not None else None
    if now is not None and not now.socket and now.port not in taken:
        return replace(made, port=now.port)
    registered = _registered(settings)
    own = next((port for port, name in registered.items() if name == made.name and port not in taken), 0)
    return replace(made, port=own or _free({**registered, **taken}))


def _socket(text: str, made: ModelPlan) -> ModelPlan:
    path = _absolute("--uds", text)
    directory, name = path.rsplit("/", 1)
    ours = str(paths.user_runtime_dir() / model_unit.RUNTIME_DIRECTORY)
    made = replace(made, uds=path, runtime_directory=directory == ours)
    try:
        usable = parse_url(made.url).socket == path
    except AddressError:
        usable = False
    if not usable:
        hint = f"only the last name of the path may end in .sock, like {ours}/{made.name}.sock"
        text = f'--uds "{text}" is no path to a .sock without blanks, of at most {LONGEST_SOCKET} bytes'
        raise wrong(text, hint)
    if path.startswith(("/tmp/", "/var/tmp/")):
        raise wrong(f'--uds "{text}": a hardened unit has a /tmp of its own', f"like {ours}/{name}")
    if not made.runtime_directory and not os.path.isdir(directory):  # noqa: PTH112
        raise wrong(f'--uds "{text}": {directory} is no directory', f"like {ours}/{name}, which the unit makes itself")
    return made


def _key(wanted: Wanted, made: ModelPlan) -> tuple[ModelPlan, list[str]]:
    if wanted.credential and wanted.env_file:
        raise wrong("--api-key-credential and --env-file cannot stand together")
    if wanted.credential:
        path = _secret("--api-key-credential", wanted.credential)
        model_keys.check_alone(path, env_files.read(path).text or "")
        return replace(made, credential=path), []
    if wanted.env_file:
        path = _secret("--env-file", wanted.env_file)
        model_keys.check_env_file(path, env_files.read(path).text or "")
        return replace(made, env_file=path), []
    return _shared_key(made)


def _shared_key(made: ModelPlan) -> tuple[ModelPlan, list[str]]:
    """Of the shipped units; the gateway has that key already."""
    none = "it asks for no API key; --api-key-credential FILE or --env-file FILE gives it one"
    path = _followed(str(paths.config_dir() / "vllm.env"))
    found = env_files.read(path)
    if not found.value(model_keys.VARIABLE):
        return made, [none]
    try:
        model_keys.check_env_file(path, found.text or "")
    except AgentdError as error:
        return made, [f"the shared key is not taken: {error.message}", none]
    return replace(made, env_file=path), []


def _secret(option: str, text: str) -> str:
    """A file with a key: there, not empty, and nobody else's to read."""
    path = model_args.printable(option, _followed(_absolute(option, text)))
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise wrong(f"{option} {path}: {(error.strerror or str(error)).lower()}") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        raise wrong(f"{option} {path}: is empty, or no file", "make one with: agentctl secrets init")
    if status.st_mode & 0o077:
        raise wrong(f"{option} {path}: others may read it", f"chmod 600 {path}")
    return path


def _followed(path: str) -> str:
    """A file's own place: systemd follows a link, agentd reads no key through one."""
    return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114


def _absolute(option: str, text: str) -> str:
    model_args.printable(option, text)
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 - a link stays one


def _ports(settings: Settings, name: str) -> dict[int, str]:
    """Port -> who has it in the configuration."""
    taken = {parse_listen(settings.daemon.listen)[1]: "agentd"} if settings.daemon.listen else {}
    for other, service in settings.services.items():
        if service.url and other != name and (address := parse_url(service.url)).port:
            taken[address.port] = f"services.{other}"
    return taken


def _registered(settings: Settings) -> dict[int, str]:
    """The gateway's registry of ports, where there is one that can be read: port -> name."""
    try:
        catalog = offline_gateway.read(settings).catalog
    except AgentdError:
        return {}
    return {port.number: port.name for port in catalog.ports} if catalog is not None else {}


def _free(taken: Mapping[int, str]) -> int:
    kernel = LinuxKernel()
    for port in range(FIRST_PORT, LAST_PORT + 1):
        if port not in taken and port not in SHIPPED and kernel.port_holder(port) is None:
            return port
    raise AgentdError("port-taken", f"no port from {FIRST_PORT} to {LAST_PORT} is free", hint="write --port N")
