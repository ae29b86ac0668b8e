"""The gateway's sources to begin with: the packaged ones, or made from a hand-written LiteLLM config."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass

from agentd import resources
from agentd.adapters.env_files import EnvFiles
from agentd.adapters.env_files import read as read_env
from agentd.core.gateway.importing import import_config
from agentd.core.gateway.model import SOURCES
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.yaml_text import parse
from agentd.core.schema import Settings
from agentd.errors import AgentdError
from agentd.offline_gateway import files_of, read
from agentd.offline_secrets import state_dir

LARGEST = 4_000_000


@dataclass(frozen=True, slots=True)
class Begun:
    directory: str
    written: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Brought:
    """An import. `secrets`: the variables that hold what stood there as literal keys."""

    directory: str
    written: tuple[str, ...]
    notes: tuple[str, ...]
    secrets: tuple[str, ...]
    env_file: str
    problems: tuple[Problem, ...]


def begin(settings: Settings, into: str = "") -> Begun:
    """The packaged sources, where there are none. Raises AgentdError."""
    files = files_of(settings, into)
    there = tuple(name for name in SOURCES if (files.directory / name).exists())
    missing = [name for name in SOURCES if name not in there]
    packaged = resources.directory("etc") / "gateway"
    texts = {name: (packaged / name).read_text("utf-8") for name in missing}
    if texts:
        asyncio.run(files.write_sources(texts))
    return Begun(str(files.directory), tuple(missing), there)


def bring(settings: Settings, file: str, into: str = "", *, force: bool) -> Brought:
    """Sources from a hand-written config; its literal keys go into the environment file. Raises AgentdError."""
    files = files_of(settings, into)
    there = [name for name in SOURCES if (files.directory / name).exists()]
    if there and not force:
        raise AgentdError(
            "gateway-sources-there",
            f"cannot import: {files.directory} has {', '.join(there)} already",
            hint="import into another directory with --into, or replace them with --force",
        )
    found = import_config(parse(_text(file), file))
    env_file = settings.gateway.env_file
    held = read_env(env_file)
    new = {secret.variable: secret.value for secret in found.secrets if held.value(secret.variable) != secret.value}
    taken = [name for name in new if held.value(name)]
    if taken:
        raise AgentdError(
            "gateway-secret-taken",
            f"cannot import: {env_file} has another {', '.join(taken)} already",
            hint="rename the variable there, or make the two the same",
        )
    if new:
        env = EnvFiles(state_dir(settings))
        with env.lock.held():
            env.ready()
            env.change({env_file: new})
    asyncio.run(files.write_sources(found.texts))
    names = tuple(secret.variable for secret in found.secrets)
    after = read(settings, str(files.directory))
    return Brought(str(files.directory), tuple(found.texts), found.notes, names, env_file, after.problems)


def _text(file: str) -> str:
    """Of a regular file: a pipe would be waited for, and a device has no end."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise AgentdError("file-read", f"cannot read {file}: it is no regular file")
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise AgentdError("file-read", f"cannot read {file}: larger than {LARGEST} bytes")
        return data.decode()
    except UnicodeDecodeError:
        raise AgentdError("file-read", f"cannot read {file}: it is not UTF-8 text") from None
    except OSError as error:
        raise AgentdError("file-read", f"cannot read {file}: {(error.strerror or '').lower()}") from None
    except ValueError:
        raise AgentdError("file-read", f"cannot read {file!r}: it is no path") from None
