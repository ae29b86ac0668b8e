"""What the checks know of this machine: providers that answer, refuse, hang and lie, listeners, and files with keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.adapters import gateway_reach
from agentd.adapters.gateway_facts import LocalGatewayFacts
from agentd.adapters.gateway_files import LocalGatewayFiles
from agentd.adapters.gateway_reach import Patience, reachable
from agentd.adapters.kernel import LinuxKernel
from agentd.core.gateway.checks import check
from agentd.core.gateway.contacts import Contact, contacts
from agentd.core.gateway.facts import FileFact, Listener
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import Catalog, Kind, Model, Policy, Port, Provider
from agentd.core.gateway.tree import Place
from agentd.core.schema import Model as ServedModel
from agentd.core.schema import Service, Settings
from agentd.core.schema_gateway import GatewayPolicy
from agentd.errors import AgentdError

HERE = Place("providers.yaml", 1, 1)
QUICK = Patience(each=0.3, all=5.0)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handle: Handler, **how: Any) -> AsyncIterator[int]:
    """Its port. Connections that are still served at the end are cut."""
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await handle(reader, writer)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, **how)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await asyncio.sleep(0)  # What was just accepted gets its task.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(*pieces: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    return handle


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def said_of(port: int, *, host: str = "127.0.0.1", tls: bool = False) -> str:
    return (await reachable({"p": Contact(host, port, "/v1/models", tls)}, QUICK))["p"]


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"], ""),
        ([b"HTTP/1.1 2", b"00 OK\r\ncontent-len", b"gth: 2\r\n\r\n{", b"}"], ""),
        ([b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n"], ""),
        ([b"HTTP/1.1 404 Not found\r\ncontent-length: 0\r\n\r\n"], ""),
        ([b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"], "it answers with status 503"),
        ([b"-ERR unknown command\r\n\r\n"], "the answer is not HTTP"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"], "the answer broke off"),
        ([], "the server closed the connection without an answer"),
    ],
)
async def test_answers(pieces: list[bytes], said: str) -> None:
    async with server(saying(*pieces)) as port:
        assert await said_of(port) == said


async def test_no_key_is_sent_and_no_model_asked() -> None:
    heard = b""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with server(handle) as port:
        assert await said_of(port) == ""
    assert heard.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"authorization" not in heard.lower()


async def test_a_refusing_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else gets it meanwhile.
        assert await said_of(taken.getsockname()[1]) == "connection refused"


async def test_a_hanging_server() -> None:
    async with server(silent) as port:
        assert await said_of(port) == "no answer within 0.3 s"
        assert await said_of(port, tls=True) == "no answer within 0.3 s"


async def test_many_hanging_servers_take_one_limit_and_a_ninth_its_turn() -> None:
    """Eight at once: sixteen take two turns of 0.3 s; of a hundred the last ones are not asked any more."""
    async with server(silent) as port:
        many = {f"p{n}": Contact("127.0.0.1", port) for n in range(16)}
        assert set((await reachable(many, QUICK)).values()) == {"no answer within 0.3 s"}
        many = {f"p{n}": Contact("127.0.0.1", port) for n in range(100)}
        found = await reachable(many, Patience(each=0.2, all=0.5))
        assert 8 <= len(found) < 100


async def test_the_good_are_told_beside_the_bad() -> None:
    async with server(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")) as good, server(silent) as bad:
        asked = {"good": Contact("127.0.0.1", good), "bad": Contact("127.0.0.1", bad)}
        assert await reachable(asked, QUICK) == {"good": "", "bad": "no answer within 0.3 s"}
    assert await reachable({}) == {}


async def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(gateway_reach.socket, "getaddrinfo", unknown)
    assert await said_of(80, host="nowhere.invalid") == "the host name is unknown"
    monkeypatch.undo()
    assert await said_of(80, host="a" * 80 + ".invalid") == "the host name is unknown"


async def test_a_silent_name_server_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the answer, nor the loop's end, which waits for the loop's own threads."""
    free = threading.Event()
    monkeypatch.setattr(gateway_reach.socket, "getaddrinfo", lambda *_, **__: free.wait(30))
    try:
        assert await said_of(80, host="slow.example") == "no answer within 0.3 s"
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().shutdown_default_executor()
    finally:
        free.set()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Self-signed, so nobody trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    key, pem = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(pem), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return context


@contextmanager
def tls_server(certificate: ssl.SSLContext) -> Iterator[int]:
    """Its port. Each handshake is done in a thread, whatever comes of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(5)
                        certificate.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_tls(certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_server(certificate) as port:
        said = await said_of(port, host="localhost", tls=True)
        assert said.startswith("its certificate is not valid: self")
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        monkeypatch.setattr(gateway_reach, "_tls", lambda: trusting)
        assert await said_of(port, host="localhost", tls=True) == ""


async def test_plain_http_where_tls_is_meant() -> None:
    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with server(answering) as port:
        assert await said_of(port, tls=True) == "what answers does not speak TLS"


def provider(name: str, url: str, **more: Any) -> Provider:
    return Provider(name, more.pop("kind", Kind.LOCAL), HERE, more.pop("api", "openai"), url, **more)


def test_who_is_asked_and_what() -> None:
    catalog = Catalog(
        (
            provider("vllm", "http://127.0.0.1:8001/v1"),
            provider("ollama", "http://127.0.0.1:11434", api="ollama_chat"),
            provider("root", "http://box/"),
            provider("cloud", "https://api.example.com/v1", kind=Kind.CLOUD),
            provider("anthropic", "", kind=Kind.CLOUD, api="anthropic"),
            provider("bedrock", "", kind=Kind.CLOUD, api="bedrock"),
            provider("off", "http://127.0.0.1:1/v1", enabled=False),
            provider("odd", "http://127.0.0.1:1/a b\r\nx: y"),
            provider("none", "nonsense"),
        ),
        (),
        (),
        Policy(),
    )
    found = contacts(catalog)
    assert found == {
        "vllm": Contact("127.0.0.1", 8001, "/v1/models"),
        "ollama": Contact("127.0.0.1", 11434, "/api/version"),
        "root": Contact("box", 80, "/"),
        "cloud": Contact("api.example.com", 443, "/v1/models", tls=True),
        "anthropic": Contact("api.anthropic.com", 443, "/", tls=True),
        "odd": Contact("127.0.0.1", 1, "/"),
    }
    assert set(contacts(catalog, behind_proxy=True)) == {"vllm", "ollama", "root", "odd"}


INSTALL = Install("/usr/bin/litellm", "/usr/bin/python3", "1.106.2")


def settings_in(folder: Path, *clients: str) -> Settings:
    key_file = str(folder / "vllm.env")
    qwen = Service(
        "vllm-qwen.service",
        role="model",
        url="http://127.0.0.1:8001",
        model=ServedModel("gpu0", "qwen", api_key_file=key_file),
    )
    gateway = GatewayPolicy(
        sources=str(folder),
        config=str(folder / "litellm.yaml"),
        env_file=str(folder / "litellm.env"),
        client_env_files=clients,
    )
    return Settings(services={"qwen": qwen}, gateway=gateway)


def facts_of(settings: Settings) -> LocalGatewayFacts:
    files = LocalGatewayFiles(settings.gateway)
    return LocalGatewayFacts(settings, files, LinuxKernel(), lambda: INSTALL, patience=QUICK)


def empty(*ports: Port) -> Catalog:
    return Catalog((), ports, (), Policy())


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


async def test_keys_and_files(tmp_path: Path) -> None:
    write(tmp_path / "litellm.env", "# keys\nLITELLM_MASTER_KEY='sk-one'\nVLLM_API_KEY=two\n")
    write(tmp_path / "vllm.env", "VLLM_API_KEY=two\n", 0o644)
    write(tmp_path / "webui.env", "export OPENAI_API_KEY=sk-one\n", 0o640)
    write(tmp_path / "n8n.env", "OTHER=x\n")
    (tmp_path / "litellm.yaml").write_text("# mine\n")
    settings = settings_in(
        tmp_path,
        *(f"{tmp_path}/{name}" for name in ("webui.env:OPENAI_API_KEY", "n8n.env", "gone.env", "")),
    )
    facts = await facts_of(settings).collect(empty(), with_network=False)
    assert facts.environment is not None
    assert facts.environment.values == {"LITELLM_MASTER_KEY": "sk-one", "VLLM_API_KEY": "two"}
    assert facts.service_keys is not None
    assert facts.service_keys.values == {"qwen": "two"}
    assert {Path(path).name: (of.variable, of.key) for path, of in facts.clients.items()} == {
        "webui.env": ("OPENAI_API_KEY", "sk-one"),
        "n8n.env": ("LITELLM_MASTER_KEY", ""),
    }
    assert facts.files[str(tmp_path / "webui.env")] == FileFact(mode=0o640)
    assert not facts.files[str(tmp_path / "gone.env")].exists
    assert facts.files[f"{tmp_path}/"].problem == "is a directory"
    assert (facts.generated, facts.install, facts.reachable, facts.listeners) == ("# mine\n", INSTALL, None, None)
    assert facts.services is not None
    assert (facts.services["qwen"].slot, facts.services["qwen"].served_name) == ("gpu0", "qwen")
    assert "sk-one" not in repr(facts)


async def test_the_key_that_a_unit_takes(tmp_path: Path) -> None:
    """The last of its files counts, and what agentd uses itself where the unit has none."""
    write(tmp_path / "vllm.env", "VLLM_API_KEY=agentd\n")
    write(tmp_path / "first.env", "VLLM_API_KEY=first\n")
    write(tmp_path / "last.env", "VLLM_API_KEY=last\n")
    settings = settings_in(tmp_path)
    files = LocalGatewayFiles(settings.gateway)

    async def key(unit_files: Callable[[str], list[str]]) -> dict[str, str]:
        known = LocalGatewayFacts(settings, files, LinuxKernel(), lambda: INSTALL, unit_files=unit_files)
        facts = await known.collect(empty(), with_network=False)
        assert facts.agentd_keys is not None
        assert facts.service_keys is not None
        assert facts.agentd_keys.values == {"qwen": "agentd"}
        return dict(facts.service_keys.values)

    def no_systemd(unit: str) -> list[str]:
        raise AgentdError("bus-down", "cannot ask systemd")

    paths = {"vllm-qwen.service": [str(tmp_path / name) for name in ("first.env", "last.env", "gone.env")]}
    assert await key(lambda unit: paths[unit]) == {"qwen": "last"}
    assert await key(lambda unit: []) == {"qwen": "agentd"}
    assert await key(no_systemd) == {"qwen": "agentd"}


async def test_nothing_is_there(tmp_path: Path) -> None:
    """The env file's absence is one problem; without keys nothing is read at all."""
    settings = settings_in(tmp_path)
    facts = await facts_of(settings).collect(empty(), with_network=False)
    assert (facts.generated, facts.service_keys and facts.service_keys.values) == ("", {})
    missing = [problem for problem in check(empty(), facts) if problem.check == "missing-variable"]
    assert [problem.place.file for problem in missing] == [str(tmp_path / "litellm.env")]
    assert (await facts_of(settings).collect(empty(), with_network=False, with_keys=False)).environment is None


async def test_litellm_is_not_there(tmp_path: Path) -> None:
    def nowhere() -> Install:
        raise AgentdError("litellm-not-found", "cannot find litellm")

    settings = settings_in(tmp_path)
    facts = LocalGatewayFacts(settings, LocalGatewayFiles(settings.gateway), LinuxKernel(), nowhere)
    found = await facts.collect(empty(), with_network=False)
    assert "litellm-missing" in {problem.check for problem in check(empty(), found)}


async def test_listeners(tmp_path: Path) -> None:
    with socket.socket() as ours, socket.socket() as free:
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        free.bind(("127.0.0.1", 0))
        port, unused = ours.getsockname()[1], free.getsockname()[1]
        ports = (
            Port("here", port, HERE, unit="other.service"),
            Port("free", unused, HERE, unit="other.service"),
            Port("elsewhere", port, HERE, "10.0.0.1", "other.service"),
        )
        facts = await facts_of(settings_in(tmp_path)).collect(empty(*ports), with_keys=False)
    assert facts.listeners is not None
    assert set(facts.listeners) == {port}
    holder: Listener = facts.listeners[port]
    assert holder.pid == os.getpid()
    said = [problem.text for problem in check(empty(*ports), facts) if problem.check == "port-in-use"]
    assert f'port {port} of "here" belongs to other.service' in said[0]


async def test_a_provider_that_does_not_answer_becomes_a_problem(tmp_path: Path) -> None:
    async with server(silent) as port:
        slow = provider("slow", f"http://127.0.0.1:{port}/v1")
        catalog = Catalog((slow,), (), (Model("m", HERE, ()),), Policy())
        facts = await facts_of(settings_in(tmp_path)).collect(catalog, with_keys=False)
    said = [problem.text for problem in check(catalog, facts) if problem.check == "unreachable-provider"]
    assert said == ['"slow" does not answer: no answer within 0.3 s']


async def test_a_proxy_for_the_internet_keeps_tls_from_being_tried(tmp_path: Path) -> None:
    write(tmp_path / "litellm.env", "HTTPS_PROXY=http://127.0.0.1:3128\n")
    catalog = Catalog((provider("cloud", "https://nowhere.invalid/v1", kind=Kind.CLOUD),), (), (), Policy())
    assert (await facts_of(settings_in(tmp_path)).collect(catalog)).reachable == {}
