"""What the checks of the gateway's sources may know beyond them, collected off the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentd.adapters import env_files, gateway_reach
from agentd.adapters.file_threads import FileThreads
from agentd.adapters.gateway_reach import Patience
from agentd.core.gateway import client_file, env_text
from agentd.core.gateway.contacts import contacts
from agentd.core.gateway.facts import ClientFact, Facts, FileFact, Listener, Secrets, ServiceFact
from agentd.core.gateway.install import NOT_INSTALLED, Install
from agentd.core.gateway.model import Catalog, Policy, Port
from agentd.core.schema import Service, Settings
from agentd.errors import AgentdError
from agentd.ports import Kernel
from agentd.ports_gateway import GatewayFiles

SERVER_VARIABLE = "VLLM_API_KEY"
"""What vLLM reads its key from."""
_MOST_PORTS = 256
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_HERE = ("", "*", "0.0.0.0", "::", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class _Keys:
    environment: Secrets
    clients: Mapping[str, ClientFact]
    services: Secrets
    own: Secrets
    files: Mapping[str, FileFact]


class LocalGatewayFacts:
    """`files`: of the generated file. `install` finds LiteLLM and may raise AgentdError.
    `unit_files`: a unit's environment files, in their order; it blocks, and may raise AgentdError."""

    def __init__(
        self,
        settings: Settings,
        files: GatewayFiles,
        kernel: Kernel,
        install: Callable[[], Install],
        *,
        unit_files: Callable[[str], Sequence[str]] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._settings = settings
        self._files = files
        self._kernel = kernel
        self._install = install
        self._unit_files = unit_files
        self._patience = patience
        self._threads = FileThreads()

    async def collect(
        self,
        catalog: Catalog,
        *,
        with_network: bool = True,
        with_keys: bool = True,
        resident: Mapping[str, str | None] | None = None,
    ) -> Facts:
        """`with_network`: ask the providers, and look who listens on the registry's ports. `with_keys`: read the
        environment files. `resident`: slot -> service, of who knows. Raises AgentdError for files that hang."""
        policy = self._settings.gateway
        services = self._settings.services
        generated = await self._files.generated()
        install = await asyncio.to_thread(self._found)
        keys = await self._threads.run("read the keys", lambda: self._keys(catalog.policy)) if with_keys else None
        reachable = listeners = None
        if with_network:
            proxied = any(name in (keys.environment.values if keys else ()) for name in _PROXIES)
            asked = contacts(catalog, behind_proxy=proxied)
            reachable, listeners = await asyncio.gather(
                gateway_reach.reachable(asked, self._patience), self._listeners(catalog.ports)
            )
        return Facts(
            env_file=policy.env_file,
            environment=keys.environment if keys else None,
            clients=keys.clients if keys else {},
            service_keys=keys.services if keys else None,
            agentd_keys=keys.own if keys else None,
            files=keys.files if keys else {},
            listeners=listeners,
            reachable=reachable,
            resident=resident,
            generated=generated or "",
            config=policy.config,
            install=install,
            services={name: _fact(service) for name, service in services.items()},
        )

    async def _listeners(self, ports: tuple[Port, ...]) -> Mapping[int, Listener]:
        numbers = [port.number for port in ports if port.host in _HERE or port.host.startswith("127.")][:_MOST_PORTS]
        return await self._threads.run("look who listens", lambda: self._holders(numbers))

    def _holders(self, numbers: list[int]) -> dict[int, Listener]:
        holders = ((number, self._kernel.port_holder(number)) for number in dict.fromkeys(numbers))
        return {n: Listener(holder.pid, holder.comm, holder.unit) for n, holder in holders if holder is not None}

    def _found(self) -> Install:
        try:
            return self._install()
        except AgentdError:
            return NOT_INSTALLED

    def _keys(self, policy: Policy) -> _Keys:
        """Blocks."""
        files: dict[str, FileFact] = {}
        env_file = self._settings.gateway.env_file
        text = _read(env_file, files)
        clients: dict[str, ClientFact] = {}
        for entry in self._settings.gateway.client_env_files:
            path, variable = client_file.split(entry, policy.master_key)
            found = _read(path, files)
            if found is not None:
                clients[path] = ClientFact(variable, found.value(variable) or "")
        variables = env_text.parse(text.text) if text is not None and text.text is not None else {}
        own = self._own_keys()
        return _Keys(Secrets(variables), clients, Secrets(own | self._server_keys()), Secrets(own), files)

    def _server_keys(self) -> dict[str, str]:
        """What the units of models take; of systemd's files the last one counts."""
        found: dict[str, str] = {}
        for name, service in self._settings.services.items():
            for path in self._files_of(service):
                file = _read(path, {})
                value = file.value(SERVER_VARIABLE) if file is not None else None
                if value is not None:
                    found[name] = value
        return found

    def _files_of(self, service: Service) -> Sequence[str]:
        if self._unit_files is None or service.model is None:
            return ()
        try:
            return self._unit_files(service.unit)
        except AgentdError:  # systemd does not answer
            return ()

    def _own_keys(self) -> dict[str, str]:
        """What agentd sends itself, of services whose file can be read."""
        found: dict[str, str] = {}
        for name, service in self._settings.services.items():
            if service.model is None or not service.model.api_key_file:
                continue
            file = _read(service.model.api_key_file, {})
            if file is not None:
                found[name] = file.value(service.model.api_key_name) or ""
        return found


def _read(path: str, files: dict[str, FileFact]) -> env_files.EnvFile | None:
    """The file, with what there is to say of it put into `files`; None when it is not there, or cannot be read."""
    try:
        found = env_files.read(path)
    except AgentdError as error:
        files[path] = FileFact(problem=error.message.partition(f"{path}: ")[2] or error.message)
        return None
    files[path] = FileFact(found.text is not None, found.mode, found.uid == os.geteuid())
    return found if found.text is not None else None


def _fact(service: Service) -> ServiceFact:
    model = service.model
    return ServiceFact(
        service.unit, service.url, service.role, model.slot if model else "", model.served_name if model else ""
    )
