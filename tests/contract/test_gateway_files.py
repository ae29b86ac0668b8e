"""The gateway's files on a real disk: sources, generated file, versions, environment; killed and refused anywhere."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.adapters.gateway_files import CANDIDATE, LocalGatewayFiles
from agentd.adapters.gateway_versions import Versions
from agentd.core.gateway.model import SOURCES
from agentd.core.gateway.read import read_catalog
from agentd.core.schema_gateway import GatewayPolicy
from agentd.errors import AgentdError
from agentd.ports_gateway import GatewayFiles

GOOD = {
    "providers.yaml": "# mine\nproviders: {a: {kind: local, port: a}}\n",
    "ports.yaml": "ports: {a: 9000}\n",
    "model-mappings.yaml": "models: {m: {provider: a, model: m}}\n",
}


def policy(folder: Path, *, keep: int = 10) -> GatewayPolicy:
    return GatewayPolicy(
        sources=str(folder / "sources"),
        config=str(folder / "litellm" / "litellm-unified.yaml"),
        env_file=str(folder / "litellm.env"),
        keep=keep,
    )


def files_in(folder: Path, *, keep: int = 10) -> LocalGatewayFiles:
    files = LocalGatewayFiles(policy(folder, keep=keep))
    assert isinstance(files, LocalGatewayFiles)
    port: GatewayFiles = files
    assert port is files
    return files


def put_sources(folder: Path, texts: dict[str, str]) -> Path:
    directory = folder / "sources"
    directory.mkdir()
    for name, text in texts.items():
        (directory / name).write_text(text)
    return directory


# -- sources ------------------------------------------------------------------------------------------------------
async def test_sources(tmp_path: Path) -> None:
    directory = put_sources(tmp_path, GOOD)
    found = await files_in(tmp_path).sources()
    assert (found.directory, found.texts, found.problems) == (str(directory), GOOD, ())
    catalog, problems = read_catalog(found.trees, found.problems)
    assert catalog is not None
    assert problems == ()
    assert str(catalog.models[0].place) == "model-mappings.yaml:1:10"


async def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    directory = put_sources(tmp_path, {"ports.yml": "", "model-mappings.yaml": "a: [\n"})
    (directory / "providers.yaml").write_bytes(b"\xff\xfe")
    found = await files_in(tmp_path).sources()
    assert found.trees == {}
    said = [f"{p.check} {p.place} {p.text} | {p.fix}" for p in read_catalog(found.trees, found.problems)[1]]
    assert len(said) == 3
    assert said[0].startswith("missing-file providers.yaml cannot read")
    assert "not UTF-8" in said[0]
    assert said[1].endswith("| rename ports.yml to ports.yaml")
    assert said[2].startswith("yaml-syntax model-mappings.yaml:2:1 ")


async def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    found = await files_in(tmp_path).sources()
    assert [p.fix for p in found.problems] == ["create the sources with: agentctl gateway init"] * 3
    assert not (tmp_path / "litellm").exists(), "looking makes nothing"


async def test_what_is_no_file_holds_nobody(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await files.write_sources(GOOD)
    for name in ("ports.yaml", "providers.yaml"):
        (files.directory / name).unlink()
    os.mkfifo(files.directory / "ports.yaml")
    (files.directory / "providers.yaml").mkdir()
    said = {str(p.place): p.text for p in (await files.sources()).problems}
    assert said["ports.yaml"].endswith("it is no regular file")
    assert said["providers.yaml"].endswith("it is a directory")


async def test_writing_sources(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await files.write_sources(GOOD)
    assert (await files.sources()).texts == GOOD
    elsewhere = tmp_path / "repository.yaml"
    (files.directory / "ports.yaml").rename(elsewhere)
    (files.directory / "ports.yaml").symlink_to(elsewhere)
    await files.write_sources({"ports.yaml": "ports: {a: 1}\n"})
    assert (files.directory / "ports.yaml").is_symlink(), "the file behind the link is replaced"
    assert elsewhere.read_text() == "ports: {a: 1}\n"
    assert sorted(p.name for p in files.directory.iterdir() if not p.name.endswith(".lock")) == sorted(SOURCES)
    with pytest.raises(AgentdError, match=r"cannot write \.\./x: the sources are providers.yaml"):
        await files.write_sources({"../x": ""})


# -- the generated file ---------------------------------------------------------------------------------------------
async def test_write_keeps_what_was_there(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    assert await files.generated() is None
    assert await files.write("a: 1\n") is None
    assert await files.write("a: 1\n") is None
    assert await files.versions() == ()
    first = await files.write("a: 2\n")
    second = await files.write("a: 3\n")
    assert first is not None
    assert second is not None
    assert second.id > first.id
    assert list(await files.versions()) == [second, first]
    assert (await files.version_text(first.id), await files.version_text(second.id)) == ("a: 1\n", "a: 2\n")
    assert await files.generated() == "a: 3\n"
    for path in (files.path, Path(first.path)):
        assert path.stat().st_mode & 0o777 == 0o600
    assert Path(first.path).parent.name == ".litellm-unified.versions"
    files.path.chmod(0o644)
    assert await files.write("a: 3\n") is None
    assert files.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AgentdError, match=f"no version x of .*: there are: {second.id}, {first.id}") as caught:
        await files.version_text("x")
    assert caught.value.kind == "version-not-found"


async def test_old_versions_go(tmp_path: Path) -> None:
    files = files_in(tmp_path, keep=2)
    for number in range(5):
        await files.write(f"a: {number}\n")
    assert [await files.version_text(v.id) for v in await files.versions()] == ["a: 3\n", "a: 2\n"]


def test_a_clock_that_goes_back(tmp_path: Path) -> None:
    times = iter([1_800_000_000.0, 1_800_000_000.0, 1_700_000_000.0])
    versions = Versions(tmp_path / "x.yaml", 10, now=lambda: next(times))
    for number in range(4):
        versions.put(f"a: {number}\n")
    found = versions.found()
    assert [versions.text(v.id) for v in found] == ["a: 2\n", "a: 1\n", "a: 0\n"]
    assert found[-1].id.startswith("20270115T080000-")
    assert found[-1].written == 1_800_000_000.0


async def test_the_candidate(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    path = Path(await files.write_candidate("a: 1\n"))
    assert path == files.path.parent / CANDIDATE
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("a: 1\n", 0o600)
    await files.remove_candidate()
    await files.remove_candidate()
    assert not path.exists()


async def test_what_is_in_the_way(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.path.parent.mkdir()
    files.path.symlink_to(tmp_path / "elsewhere.yaml")
    (tmp_path / "elsewhere.yaml").write_text("a: 1\n")
    with pytest.raises(AgentdError, match="symbolic link"):
        await files.write("a: 2\n")
    assert (tmp_path / "elsewhere.yaml").read_text() == "a: 1\n"
    files.path.unlink()
    await files.write("a: 1\n")
    (files.path.parent / ".litellm-unified.versions").write_text("a file")
    with pytest.raises(AgentdError, match=r"cannot (make|write) .*versions") as caught:
        await files.write("a: 2\n")
    assert caught.value.kind == "file-write"
    assert await files.generated() == "a: 1\n"


async def test_the_environment(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    assert await files.environment() == {}
    files.env_file.write_text("# keys\nLITELLM_MASTER_KEY='sk-a b'\nB=c\\\nd\nnot a line\n")
    assert await files.environment() == {"LITELLM_MASTER_KEY": "sk-a b", "B": "cd"}


# -- several writers ------------------------------------------------------------------------------------------------
async def test_one_writes_at_a_time(tmp_path: Path) -> None:
    files, other = files_in(tmp_path), files_in(tmp_path)
    began, done = asyncio.Event(), []

    async def later() -> None:
        began.set()
        await other.write("a: other\n")
        done.append("other")

    async with asyncio.TaskGroup() as group, asyncio.timeout(20), files.exclusive():
        group.create_task(later(), context=contextvars.Context())
        await began.wait()
        await files.write("a: 1\n")
        async with files.exclusive():
            await files.write_candidate("a: 2\n")
        done.append("mine")
    assert done == ["mine", "other"]
    assert await files.generated() == "a: other\n"
    assert [await files.version_text(v.id) for v in await files.versions()] == ["a: 1\n"]


async def test_cancelled_it_is_whole(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await files.write("a: 1\n")
    for _ in range(20):
        task = asyncio.ensure_future(files.write("a: 2\n" * 1000))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert await files.generated() in ("a: 1\n", "a: 2\n" * 1000)
    assert await files.write("a: 3\n") is not None


# -- killed and refused -----------------------------------------------------------------------------------------------
DRIVER = """
import asyncio, json, os, shutil, signal, sys
from pathlib import Path
from agentd.adapters.gateway_files import LocalGatewayFiles
from agentd.core.schema_gateway import GatewayPolicy
from agentd.errors import AgentdError
root, how, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
CALLS = ("mkdir", "open", "fchmod", "fsync", "rename", "unlink", "chmod")

def arm(nth):
    left = [nth]
    def wrapped(name, real):
        def call(*args, **kwargs):
            tells = name != "open" or args[1] & os.O_CREAT
            left[0] -= bool(tells)
            if left[0] == 0 and tells:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(28, "No space left on device", str(args[0]))
            return real(*args, **kwargs)
        return call
    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    return left

def work(folder, nth):
    policy = GatewayPolicy(sources=str(folder / "s"), config=str(folder / "c" / "litellm-unified.yaml"))
    files = LocalGatewayFiles(policy)
    async def go():
        if what == "generated":
            await files.write("new\\n" * 3000)
        else:
            await files.write_sources({"ports.yaml": "new", "providers.yaml": "new", "model-mappings.yaml": "new"})
    left = arm(nth)
    try:
        asyncio.run(go())
    except AgentdError as error:
        (folder / "said").write_text(f"{error.kind}: {error.message}")
        os._exit(1)
    os._exit(2 if left[0] > 0 else 0)

for nth in range(1, 100):
    folder = root / str(nth)
    for name in ("c", "s"):
        (folder / name).mkdir(parents=True)
    (folder / "c" / "litellm-unified.yaml").write_text("old")
    for name in ("ports.yaml", "providers.yaml"):
        (folder / "s" / name).write_text("old")
    pid = os.fork()
    if pid == 0:
        work(folder, nth)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps({"folder": str(folder), "status": status}), flush=True)
    if status == 2:  # It did not come to that call.
        break
"""


def driven(folder: Path, how: str, what: str) -> list[tuple[Path, int]]:
    """(folder, exit status) of one try for each call at which the writer was killed or refused."""
    command = [sys.executable, "-c", DRIVER, str(folder), how, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [(Path(line["folder"]), line["status"]) for line in lines]


def files_of(folder: Path) -> LocalGatewayFiles:
    return LocalGatewayFiles(GatewayPolicy(sources=str(folder / "s"), config=str(folder / "c/litellm-unified.yaml")))


NEW = "new\n" * 3000


@pytest.mark.allows_blocking
async def test_killed_while_it_writes(tmp_path: Path) -> None:
    tries = driven(tmp_path, "kill", "generated")
    assert len(tries) > 10
    seen = []
    for folder, status in tries:
        assert status in (-9, 2)
        files = files_of(folder)
        seen.append(await files.generated())
        assert seen[-1] in ("old", NEW), folder
        if seen[-1] == NEW:
            assert [await files.version_text(v.id) for v in await files.versions()] == ["old"]
        await files.write("next\n")
        texts = [await files.version_text(v.id) for v in await files.versions()]
        assert texts == ([NEW, "old"] if seen[-1] == NEW else ["old"]), "no version twice, none lost"
        left = [p.name for p in folder.rglob("*.new")]
        assert left == [], folder
    assert seen == sorted(seen, key=lambda text: text == NEW), "old up to one moment, new from then on"
    assert NEW in seen[:-1]


@pytest.mark.allows_blocking
async def test_killed_while_it_writes_sources(tmp_path: Path) -> None:
    old = {"ports.yaml": "old", "providers.yaml": "old"}
    new = dict.fromkeys(SOURCES, "new")
    tries = driven(tmp_path, "kill", "sources")
    assert len(tries) > 15
    seen = [(await files_of(folder).sources()).texts for folder, _ in tries]
    assert all(texts in (old, new) for texts in seen)
    assert (seen[0], seen[-1]) == (old, new)


@pytest.mark.allows_blocking
@pytest.mark.parametrize("what", ["generated", "sources"])
async def test_refused_anywhere(tmp_path: Path, what: str) -> None:
    refused = 0
    for folder, status in driven(tmp_path, "refuse", what):
        files = files_of(folder)
        now = await files.generated() if what == "generated" else (await files.sources()).texts.get("ports.yaml")
        if status != 1:
            assert now in (NEW, "new"), folder
            continue
        refused += 1
        said = (folder / "said").read_text()
        assert now == "old", f"{folder}: {said}"
        assert said.startswith("file-write: cannot "), said
        assert said.endswith("no space left on device"), said
        assert [p for p in folder.rglob("*.new") if ".versions" not in str(p)] == []
    assert refused > 6


FULL = """
import asyncio, resource, sys
from agentd.adapters.gateway_files import LocalGatewayFiles
from agentd.core.schema_gateway import GatewayPolicy
from agentd.errors import AgentdError
files = LocalGatewayFiles(GatewayPolicy(config=sys.argv[1]))
asyncio.run(files.write("old"))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    asyncio.run(files.write("x" * 10000))
except AgentdError as error:
    sys.exit(f"{error.kind}: {error}")
"""


def test_a_file_that_does_not_fit(tmp_path: Path) -> None:
    """The kernel itself refuses in the middle of the bytes."""
    path = tmp_path / "litellm-unified.yaml"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=50)
    assert done.stderr.strip() == f"file-write: cannot write {path}: file too large"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path / ".litellm-unified.versions")  # noqa: PTH208
