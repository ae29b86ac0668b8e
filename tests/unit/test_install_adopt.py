"""Edited and hand-written drop-ins become configuration, and nothing of them is lost."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence

import pytest
from unit.install_rig import CONFIG, DIR, A, Rig, at, rig

from agentd.core import profile
from agentd.core.dropin import DropIn, Purpose
from agentd.core.fragments import parse_fragment
from agentd.core.layers import Fragment, merge
from agentd.core.schema import Settings
from agentd.core.settings import check
from agentd.core.unitdiff import changes
from agentd.errors import AgentdError
from agentd.evidence import HostEvidence

TEXTS = {
    "mine.security.conf": "",
    **{f"{name}.{purpose}.conf": "" for name in ("gateway", "gpu", "store") for purpose in ("security", "resources")},
    "generic.security.conf": "[Service]\nNoNewPrivileges=yes\nProtectHome=yes\nReadWritePaths=-/srv\n",
    "generic.resources.conf": "[Service]\nMemoryMax=1G\n",
}
CONFIGURED = f"""
[services.a]
unit = "{A}"
[services.a.hardening]
write_paths = ["/data"]
"""
OURS = at(A)
RESOURCES = at(A, Purpose.RESOURCES)


def configured(*fragments: str) -> Settings:
    parsed = [parse_fragment(f"{n}.toml", text.encode()) for n, text in enumerate((CONFIGURED, *fragments))]
    assert all(isinstance(one, Fragment) for one in parsed)
    merged = merge(one for one in parsed if isinstance(one, Fragment))
    settings, problems = check(merged.data, merged.provenance)
    assert problems == []
    return settings


def declare(settings: Settings) -> Sequence[DropIn]:
    return profile.desired(settings, TEXTS, HostEvidence(systemd=252))


class Case:
    """Everything is installed as configured."""

    def __init__(self) -> None:
        self.it: Rig = rig()

    async def install(self) -> Case:
        await self.it.install(*declare(configured()))
        return self

    def fragments(self) -> list[str]:
        return [text for path, text in sorted(self.it.files.texts.items()) if path.startswith(CONFIG)]

    async def adopt(self, path: str) -> str:
        settings = configured(*self.fragments())
        return str(await self.it.installer.adopt(path, settings, declare, config_dir=CONFIG))

    async def settled(self) -> bool:
        """The configuration, read anew, wants what is there."""
        plan = await self.it.installer.plan(declare(configured(*self.fragments())))
        return plan.empty and not plan.kept


async def test_an_edited_file() -> None:
    case = await Case().install()
    files = case.it.files.texts
    edited = files[OURS].replace("ProtectHome=yes", "# less strict\nProtectHome=read-only") + "UMask=0077\nTasksMax=7\n"
    edited = edited.replace("NoNewPrivileges=yes\n", "")
    files[OURS] = edited
    assert await case.it.installer.adoptable(A) == (OURS,)
    said = await case.adopt(OURS)
    assert said == f"{OURS} is now part of the configuration, as {CONFIG}/60-adopted-a.toml"
    (fragment,) = case.fragments()
    assert tomllib.loads(fragment)["services"]["a"]["hardening"] == {
        "unset": ["NoNewPrivileges"],
        "set": {"ProtectHome": "read-only", "UMask": "0077", "TasksMax": "7"},
    }
    assert await case.settled()
    both = {*changes(None, files[OURS]), *changes(None, files[RESOURCES])}
    assert both == {*changes(None, edited), "+MemoryMax=1G"}
    assert case.it.reloads == 2, "loaded as it is"
    result = await case.it.installer.rollback()
    assert (files[OURS], case.fragments()) == (edited, [])
    assert result.kept == ()


async def test_a_list_that_the_configuration_adds_to() -> None:
    case = await Case().install()
    files = case.it.files.texts
    assert "ReadWritePaths=-/srv\n" in files[OURS]
    assert "ReadWritePaths=-/data\n" in files[OURS]
    files[OURS] = files[OURS].replace("ReadWritePaths=-/srv", "ReadWritePaths=-/srv/a")
    await case.adopt(OURS)
    assert tomllib.loads(case.fragments()[0])["services"]["a"]["hardening"]["set"] == {"ReadWritePaths": "-/srv/a"}
    assert await case.settled()
    assert files[OURS].count("-/data") == 1


async def test_a_hand_written_file() -> None:
    case = await Case().install()
    theirs = f"{DIR}/{A}.d/security.conf"
    text = "[Service]\n# mine\nProtectHome=tmpfs\nReadWritePaths=/mine \\\n  /too\nMemoryMax=2G\nEnvironment=A=1\n"
    case.it.files.texts[theirs] = text
    assert await case.it.installer.adoptable(A) == (theirs,)
    assert "is now part of the configuration" in await case.adopt(theirs)
    assert case.it.files.texts[theirs] == "[Service]\n# mine\nEnvironment=A=1\n", "what is not hardening stays"
    assert tomllib.loads(case.fragments()[0])["services"]["a"]["hardening"]["set"] == {
        "ProtectHome": "tmpfs", "ReadWritePaths": ["-/srv", "/mine  /too"], "MemoryMax": "2G",
    }  # fmt: skip
    assert "ProtectHome=tmpfs" in case.it.files.texts[OURS]
    assert "MemoryMax=2G" in case.it.files.texts[RESOURCES]
    assert await case.settled()
    assert await case.it.installer.adoptable(A) == ()
    await case.it.installer.rollback()
    assert (case.it.files.texts[theirs], case.fragments()) == (text, [])


async def test_a_file_that_says_nothing_else_goes() -> None:
    case = await Case().install()
    theirs = f"{DIR}/{A}.d/resources.conf"
    case.it.files.texts[theirs] = "# why\n[Service]\nMemoryMax=3G\n"
    assert (await case.adopt(theirs)).endswith("the file is removed")
    assert theirs not in case.it.files.texts
    assert await case.settled()


async def test_a_second_adoption_wins_over_the_first() -> None:
    case = await Case().install()
    for memory in ("3G", "4G"):
        theirs = f"{DIR}/{A}.d/resources.conf"
        case.it.files.texts[theirs] = f"[Service]\nMemoryMax={memory}\n"
        await case.adopt(theirs)
    assert sorted(path.rpartition("/")[2] for path in case.it.files.texts if path.startswith(CONFIG)) == [
        "60-adopted-a.toml", "61-adopted-a.toml",
    ]  # fmt: skip
    assert "MemoryMax=4G" in case.it.files.texts[RESOURCES]
    assert await case.settled()


async def test_before_anything_is_installed_the_file_stays() -> None:
    case = Case()
    theirs = f"{DIR}/{A}.d/resources.conf"
    case.it.files.texts[theirs] = "[Service]\nMemoryMax=3G\n"
    assert "the file stays until the drop-ins are applied" in await case.adopt(theirs)
    assert theirs in case.it.files.texts
    assert OURS not in case.it.files.texts, "nothing is installed by the way"
    await case.it.install(*declare(configured(*case.fragments())))
    assert (await case.adopt(theirs)).endswith("the file is removed")
    assert len(case.fragments()) == 1
    assert await case.settled()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[Unit]\nAfter=x.service\n[Service]\nUMask=0077\n", r"line 14 sets After= in \[Unit\]"),
        ("[Service]\nUMask=a\\\\\n", "set.UMask: must not end with a backslash"),
    ],
)
async def test_what_the_configuration_cannot_say(text: str, why: str) -> None:
    case = await Case().install()
    before = case.it.files.texts[OURS] = case.it.files.texts[OURS] + text
    with pytest.raises(AgentdError, match=why) as caught:
        await case.adopt(OURS)
    assert caught.value.kind == "adopt-refused"
    assert (case.it.files.texts[OURS], case.fragments(), case.it.reloads) == (before, [], 1)


async def test_what_the_configuration_says_otherwise() -> None:
    case = await Case().install()
    case.it.files.texts[OURS] = case.it.files.texts[OURS].replace("ReadWritePaths=-/data\n", "")
    with pytest.raises(AgentdError, match="cannot take over ReadWritePaths=: the configuration says otherwise"):
        await case.adopt(OURS)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (OURS, "as agentd wrote it"),
        (f"{DIR}/{A}.d/none.conf", "no such drop-in"),
        ("/etc/passwd", "no such drop-in"),
        (f"{DIR}/other.service.d/x.conf", "other.service is no service of the configuration"),
    ],
)
async def test_what_is_not_to_be_adopted(path: str, why: str) -> None:
    case = await Case().install()
    case.it.files.texts[f"{DIR}/other.service.d/x.conf"] = "[Service]\nUMask=0077\n"
    with pytest.raises(AgentdError, match=why):
        await case.adopt(path)
    assert case.it.reloads == 1


async def test_nothing_else_is_installed_by_the_way() -> None:
    case = await Case().install()
    theirs = f"{DIR}/{A}.d/resources.conf"
    case.it.files.texts[theirs] = "[Service]\nMemoryMax=3G\n"
    settings = configured('[services.a.hardening.set]\nUMask = "0077"\n')
    with pytest.raises(AgentdError, match="is not as the configuration declares it") as caught:
        await case.it.installer.adopt(theirs, settings, declare, config_dir=CONFIG)
    assert caught.value.hint == f"first: agentctl dropins apply {A}"


async def test_two_files_before_the_configuration_is_read_anew() -> None:
    case = await Case().install()
    one, two = f"{DIR}/{A}.d/resources.conf", f"{DIR}/{A}.d/security.conf"
    case.it.files.texts |= {one: "[Service]\nMemoryMax=3G\n", two: "[Service]\nUMask=0077\n"}
    first = await case.it.installer.adopt(one, configured(), declare, config_dir=CONFIG)
    await case.it.installer.adopt(two, first.settings, declare, config_dir=CONFIG)
    assert await case.settled()
    assert "MemoryMax=3G" in case.it.files.texts[RESOURCES]
