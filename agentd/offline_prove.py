"""The proof of a policy without a daemon: the sources, the installed LiteLLM, a stand-in, a private directory."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from agentd import offline_gateway
from agentd.adapters.gateway_asking import GatewayAsker
from agentd.adapters.litellm_install import find_install
from agentd.adapters.litellm_scratch import LocalScratchProxies
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import Catalog, Policy
from agentd.core.gateway.problems import errors
from agentd.core.gateway.proof_catalog import KEY
from agentd.core.schema import Settings
from agentd.errors import AgentdError
from agentd.managers.gateway.prove import Proof
from agentd.managers.gateway.prove import prove as proved
from agentd.sandbox.standins.backend import Backend

HOST = "127.0.0.1"


def prove(settings: Settings, *, full: bool, only: str, sources: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """`sources`: a directory, "" for the configured one. Raises AgentdError."""
    catalog = catalog_of(settings, sources)
    policy = settings.gateway
    install = find_install(policy.executable)

    async def proving() -> Proof:
        async with bench(install) as place:
            timeout = policy.start_timeout
            return await proved(catalog, install, place, full=full, only=only, start_timeout=timeout, tell=tell)

    return as_json(asyncio.run(proving()))


def catalog_of(settings: Settings, sources: str) -> Catalog:
    """Raises AgentdError when the sources cannot be read."""
    found = offline_gateway.read(settings, sources)
    wrong = errors(found.problems)
    if found.catalog is None or wrong:
        first = f": {wrong[0].place}: {wrong[0].text}" if wrong else ""
        count = f"{len(wrong)} error{'' if len(wrong) == 1 else 's'}"
        message = f"cannot prove what {found.directory} promises: {count} in the sources{first}"
        raise AgentdError("gateway-sources", message, hint="see: agentctl gateway validate")
    return found.catalog


@dataclass(frozen=True)
class LocalBench:
    """Everything that a proof needs; see managers/gateway/prove_lab.py."""

    backend: Backend
    proxies: LocalScratchProxies
    folder: str
    refused: str
    key: str
    backend_key: str

    @property
    def url(self) -> str:
        return self.backend.url

    def environment(self, policy: Policy) -> Mapping[str, str]:
        """Nothing of the user's: no key of a provider, no home where LiteLLM could find or leave something, and no word
        of what the slots hold."""
        return {
            policy.master_key: self.key,
            KEY: self.backend_key,
            "HOME": self.folder,
            "XDG_RUNTIME_DIR": self.folder,
            "AGENTD_ROUTES": f"{self.folder}/none",
        }

    async def write(self, text: str) -> str:
        return await asyncio.to_thread(_write, f"{self.folder}/litellm-proof.yaml", text)

    def asker(self, url: str) -> GatewayAsker:
        return GatewayAsker(url, self.key)


@asynccontextmanager
async def bench(install: Install) -> AsyncIterator[LocalBench]:
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="agentd-proof-")  # 0700
    try:
        # Bound, but without a listener: connections are refused, and nobody else can get the port.
        with socket.socket() as silent:
            silent.bind((HOST, 0))
            refused = f"http://{HOST}:{silent.getsockname()[1]}/v1"
            async with Backend(HOST) as backend:
                keys = (f"sk-{secrets.token_urlsafe(32)}", f"sk-{secrets.token_urlsafe(16)}")
                yield LocalBench(backend, LocalScratchProxies(install), folder, refused, *keys)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


def _write(path: str, text: str) -> str:
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    return path


def as_json(proof: Proof) -> dict[str, Any]:
    return {
        "litellm": proof.version,
        "ok": proof.ok,
        "seconds": round(proof.seconds, 1),
        "factor": proof.factor,
        "notes": list(proof.notes),
        "promises": [
            {
                "name": one.promise.name,
                "promised": one.promise.text,
                "how": one.promise.how,
                "measured": one.measured,
                "ok": one.ok,
                "detail": one.detail,
            }
            for one in proof.measured
        ],
    }
