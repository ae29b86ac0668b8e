"""The TCP door of the API: opened by us or by systemd, and tried again for as long as somebody else holds its port."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence

from agentd.api.server import ApiServer
from agentd.core.schema import Settings
from agentd.errors import AgentdError

log = logging.getLogger(__name__)


class Door:
    """A part of every pass of the loop: a taken port is told and retried, and does not keep agentd from its work."""

    name = "listen"

    def __init__(self, api: ApiServer, sockets: Sequence[socket.socket], settings: Callable[[], Settings]) -> None:
        self._api = api
        # Asked once: at the end of the API these sockets are closed, while a pass of the loop may still come by.
        self._given = tuple(sock.getsockname()[:2] for sock in sockets if sock.family != socket.AF_UNIX)
        self._settings = settings
        self._warned = ""
        self._ready = False
        """The API has started: until then there is nothing to open a door to."""

    async def start(self) -> str:
        """The API has started. Why the door stays shut, "" when it is open: somebody else on our port costs the
        scrape, not the models."""
        self._ready = True
        try:
            await self.ensure()
        except AgentdError as error:
            return error.message
        return ""

    def close(self) -> None:
        """The API is about to end: a pass of the loop that still runs opens nothing any more."""
        self._ready = False

    async def ensure(self) -> None:
        await self.open(self._settings())

    async def open(self, settings: Settings) -> None:
        """Serve on `daemon.listen`. Raises AgentdError("listen-failed"), and what was open stays open."""
        if self._ready:
            await self._api.listen(self._address(settings.daemon.listen))

    def _address(self, listen: str) -> str:
        """What we open ourselves: "" when systemd has opened it for us."""
        for host, port in self._given:
            if listen in (f"{host}:{port}", f"[{host}]:{port}", f"localhost:{port}"):
                return ""
            if listen != self._warned:
                self._warned = listen
                text = (
                    f'systemd keeps {host}:{port} open, whatever daemon.listen says ("{listen}"); '
                    "change ListenStream= of agentd.socket"
                )
                log.warning("listen.socket-unit", extra={"data": {"text": text}})
        return listen
