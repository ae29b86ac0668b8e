"""Do the gateway's providers answer? A connection and, where it is plain HTTP, one harmless question; TLS by its
handshake alone. No key is ever sent, nothing is asked of a model.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from agentd.adapters import plain_http
from agentd.adapters.conversation import BrokenOff, Conversation, TooLarge, connected
from agentd.adapters.file_threads import answer_from
from agentd.core.gateway.contacts import Contact

AT_ONCE = 8
EACH = 2.0
"""Seconds for one provider."""
ALL = 5.0
"""Seconds for all of them; those whose turn did not come by then are not asked."""
_LARGEST = 64 * 1024


class _Silent(Exception):
    """Reached, and what answers is not what is expected; the text says what."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Other than usual only in tests."""

    each: float = EACH
    all: float = ALL
    at_once: int = AT_ONCE


async def reachable(contacts: Mapping[str, Contact], patience: Patience | None = None) -> Mapping[str, str]:
    """Provider -> "", or why it does not answer, in words; one whose turn did not come is missing."""
    limits = patience or Patience()
    found: dict[str, str] = {}
    turns = asyncio.Semaphore(limits.at_once)

    async def ask(name: str, contact: Contact) -> None:
        async with turns:
            found[name] = await _answer(contact, limits.each)

    tasks = [asyncio.create_task(ask(name, contact)) for name, contact in contacts.items()]
    if not tasks:
        return found
    try:
        await asyncio.wait(tasks, timeout=limits.all)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for name, task in zip(contacts, tasks, strict=True):
        if not task.cancelled() and task.exception() is not None:
            found[name] = "it could not be asked"
    return found


async def _answer(contact: Contact, seconds: float) -> str:
    """ "" when it answers."""
    try:
        async with asyncio.timeout(seconds):
            await _ask(contact, await _resolved(contact.host, contact.port))
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except (OSError, OverflowError, UnicodeError, ValueError) as error:
        return _reason(error)
    except (plain_http.NotHttp, BrokenOff, TooLarge) as error:
        return str(error) or "the answer is not HTTP"
    except _Silent as error:
        return str(error)
    return ""


async def _ask(contact: Contact, addresses: Sequence[str]) -> None:
    failure: OSError | None = None
    for address in addresses:
        try:
            if contact.tls:
                await _handshake(contact, address)
            else:
                await _http(contact, address)
        except ssl.SSLError:
            raise
        except OSError as error:
            failure = error
            continue
        return
    raise failure or OSError("the host name has no address")


async def _http(contact: Contact, address: str) -> None:
    where = plain_http.Target(contact.host, contact.port, contact.path)
    async with connected(address, contact.port) as connection:
        talk = Conversation(connection)
        await talk.say(plain_http.request(where, "GET", {}, None))
        status, _ = await plain_http.answer(talk, _LARGEST)
    if status >= 500:
        raise _Silent(f"it answers with status {status}")


async def _handshake(contact: Contact, address: str) -> None:
    context = await asyncio.to_thread(_tls)
    _, writer = await asyncio.open_connection(
        address, contact.port, ssl=context, server_hostname=contact.host, ssl_handshake_timeout=60
    )
    writer.transport.abort()


@cache
def _tls() -> ssl.SSLContext:
    """Reads the machine's certificates, which takes 30 ms."""
    return ssl.create_default_context()


async def _resolved(host: str, port: int) -> list[str]:
    """In a thread that nobody waits for: a name server that is silent holds it for half a minute, and the loop's own
    threads are waited for at the end of a command. Raises OSError."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def look_up() -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    threading.Thread(target=answer_from, args=(look_up, answer, loop), name="names", daemon=True).start()
    return await answer


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "what answers does not speak TLS"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the host name is unknown"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
