"""The password of a store: where it comes from, and that it goes nowhere but to the server."""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from redisclients import asking, free_port, peer, powerless, running, scripted

from agentd.adapters import credentials
from agentd.adapters.credentials import open_to_others, password_source
from agentd.adapters.redis import RedisClient
from agentd.errors import AgentdError
from agentd.ports_redis import Target

SECRET = "hunter2 with 'blanks' and ü"


def reader(path: Path) -> Callable[[], str]:
    source = password_source(str(path), "")
    assert source is not None
    return source


def failure(source: Callable[[], str]) -> AgentdError:
    with pytest.raises(AgentdError) as caught:
        source()
    assert caught.value.kind == "redis-password"
    assert caught.value.__context__ is None
    return caught.value


# -- where it comes from ----------------------------------------------------------------------------------------------
def test_no_source() -> None:
    assert password_source("", "") is None


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_one_line(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "password"
    source = reader(path)
    path.write_bytes(SECRET.encode() + end)
    assert source() == SECRET
    path.write_bytes(b" next\xff " + end)
    assert source() == " next\udcff "


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\n", "the file is empty"),
        (b"secret-1\nsecret-2\n", "the file has more than one line"),
        (b"s" * (credentials.LARGEST + 1), "the file is larger than 4096 bytes"),
    ],
)
def test_no_password_in_the_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    error = failure(reader(path))
    assert error.message == f"cannot use the password in {path}: {words}"
    assert "secret" not in error.hint


def test_the_longest_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"s" * credentials.LARGEST)
    assert reader(tmp_path / "password")() == "s" * credentials.LARGEST


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    missing, closed, pipe = (tmp_path / name for name in ("missing", "closed", "pipe"))
    closed.write_text(SECRET)
    closed.chmod(0)
    os.mkfifo(pipe)
    assert failure(reader(missing)).message == f"cannot read the password in {missing}: no such file or directory"
    with powerless():
        assert failure(reader(closed)).message == f"cannot read the password in {closed}: permission denied"
    for other in (pipe, tmp_path, Path("/dev/zero")):
        assert failure(reader(other)).message == f"cannot read the password in {other}: not a regular file"
    assert "null" in failure(reader(Path("/a\0b"))).message  # Each Python has its own words for it.
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = password_source("", "redis")
    assert source is not None
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    error = failure(source)
    assert error.message == "cannot read the credential redis: agentd was started without credentials"
    assert "LoadCredential=redis:" in error.hint
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert failure(source).message == f"cannot read the credential redis: {tmp_path}/redis does not exist"
    (tmp_path / "redis").write_text(f"{SECRET}\n")
    assert source() == SECRET
    for name in ("../redis", "a/b", "..", "/etc/passwd"):
        other = password_source("", name)
        assert other is not None
        assert "that is not the name of one" in failure(other).message


def test_the_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of the file")
    source = password_source(str(tmp_path / "password"), "redis")
    assert source is not None
    assert source() == "of the file"


def test_open_to_others(tmp_path: Path) -> None:
    path = tmp_path / "password"
    assert not open_to_others(str(path))
    path.write_text(SECRET)
    for mode, expected in ((0o600, False), (0o640, False), (0o644, True), (0o604, True)):
        path.chmod(mode)
        assert open_to_others(str(path)) is expected
    assert not open_to_others("/a\0b")


# -- where it does not go ---------------------------------------------------------------------------------------------
def all_words(error: BaseException) -> str:
    """All that a log, a crash report or a debugger would show of it: chain, tracebacks, and our frames' variables."""
    text = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    frame = error.__traceback__
    while frame is not None:
        if "/agentd/adapters/" in frame.tb_frame.f_code.co_filename:
            text += repr(frame.tb_frame.f_locals)
        frame = frame.tb_next
    return text + (all_words(error.__context__) if error.__context__ else "")


async def seen(url: str, *, user: str = "", timeout: float = 20.0) -> str:
    """Everything that can be seen when each operation is called once."""
    words = []
    async with asking(url, user=user, password=SECRET, timeout=timeout) as client:
        for call in (
            client.state,
            lambda: client.config(["save"]),
            lambda: client.set_config({"save": ""}),
            client.save,
        ):
            try:
                words.append(repr(await call()))
            except AgentdError as error:
                words.append(f"{error.kind}: {all_words(error)}")
            words.append(repr(client) + repr(vars(client)))
            if client._line is not None:
                words.append(repr(vars(client._line)) + repr(vars(client._line._link)))
    return "\n".join(words)


def argvs() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(found)


async def test_the_password_is_nowhere_to_be_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = repr(Target("store", "redis://h:1", password=lambda: SECRET))

    def echo(words: list[str]) -> bytes:
        return b"-ERR you said " + " ".join(words).encode() + b" and " + SECRET.encode() + b"\r\n"

    def later(words: list[str]) -> bytes:
        return b"+OK\r\n" if words[0] == "AUTH" else echo(words)

    def rubbish(words: list[str]) -> bytes:
        return b"+OK\r\n" if words[0] == "AUTH" else b"?" + SECRET.encode() + b"\r\n"

    async def hang(stream: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await stream.read(-1)

    expected = {"refuses BGSAVE: you said BGSAVE and ***", "it does not take our password", "no answer within"}
    for answer, timeout in ((scripted(echo), 20.0), (scripted(later), 20.0), (scripted(rubbish), 20.0), (hang, 0.1)):
        async with peer(answer) as url:
            text += await seen(url, timeout=timeout)
    assert {words for words in expected if words not in text} == set()

    text += await seen(f"redis://127.0.0.1:{free_port()}")
    conf = f'user agentd on ">{SECRET}" +info\nuser other on >other +@all\nrename-command CONFIG ""'
    with running(tmp_path / "narrow", conf) as server:
        text += await seen(server.url, user="agentd") + await seen(server.url, user="other") + await seen(server.url)
        text += argvs()
    with running(tmp_path / "no-auth", 'rename-command AUTH ""') as server:
        text += await seen(server.url)
        text += server.log.read_text()
    kinds = ("redis-denied", "redis-auth", "redis-unknown-command", "redis-unreachable", "redis-not-redis")
    assert [kind for kind in kinds if f"{kind}: " not in text] == []

    text += caplog.text
    for part in (SECRET, "hunter2", repr(SECRET)[1:-1]):
        assert part not in text


async def test_a_server_that_repeats_what_cannot_be_read_again(tmp_path: Path) -> None:
    """Then none of its words is passed on."""
    path = tmp_path / "password"
    path.write_text(SECRET)

    def answer(words: list[str]) -> bytes:
        path.unlink(missing_ok=True)
        return b"+OK\r\n" if words[0] == "AUTH" else b"-ERR hunter2\r\n"

    async with peer(scripted(answer)) as url, asking(url, password=password_source(str(path), "")) as client:
        with pytest.raises(AgentdError) as caught:
            await client.save()
    assert caught.value.message == f"{url} refuses BGSAVE: it answers with an error"


async def test_a_password_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes("pä\xdf".encode("latin-1") + b"\xff\n")
    with running(tmp_path / "server") as server:
        with server.client(decode_responses=False) as admin:
            admin.config_set("requirepass", "pä\xdf".encode("latin-1") + b"\xff")
        client = RedisClient(Target("store", server.url, password=password_source(str(path), "")))
        assert (await client.state()).pid == server.pid
        await client.close()
