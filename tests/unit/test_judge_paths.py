"""Path lists entry by entry, the paths that have to be read, and credentials."""

from __future__ import annotations

from dataclasses import replace

from unit.judge_rig import (
    DIR,
    INSIDE,
    OWN_PATHS,
    UNIT,
    Unit,
    mounted,
    says,
    seen,
)

from agentd.core.dropin import DropIn, Purpose
from agentd.core.judge import paths_to_read
from agentd.evidence import Mount, PathEvidence
from agentd.findings import Verdict


def test_entries_of_a_path_list_are_judged_one_by_one() -> None:
    inside = seen(seen(INSIDE, "/srv/data", mode=0, inode=99), "/etc")
    inside = replace(inside, paths={**inside.paths, "/none": PathEvidence(False), "/srv/late": OWN_PATHS["/srv/from"]})
    lines = ["PrivateUsers=yes", "InaccessiblePaths=/srv/data -/none", "InaccessiblePaths=-/srv/late"]
    found = {f.declared: f for f in Unit(lines, processes=(inside,)).findings() if f.aspect == "InaccessiblePaths"}
    assert found["/srv/data"].verdict is Verdict.EFFECTIVE
    says(found["-/none"], Verdict.NOT_PROVABLE, "it does not exist")
    says(found["-/srv/late"], Verdict.NOT_EFFECTIVE, "did not exist when the unit was started", "restart")
    assert [f.source.rpartition(":")[2] for f in found.values()] == ["6", "6", "7"]


def test_a_path_below_a_hidden_one_is_hidden() -> None:
    inside = seen(INSIDE, "/home", mode=0, inode=99)
    inside = replace(inside, paths={**inside.paths, "/home/ai/.ssh": PathEvidence(False, problem="EACCES")})
    unit = Unit(["PrivateUsers=yes", "InaccessiblePaths=%h/.ssh"], processes=(inside,))
    assert unit.one("InaccessiblePaths").verdict is Verdict.EFFECTIVE
    open_above = replace(inside, paths={**inside.paths, "/home": OWN_PATHS["/home"]})
    assert replace(unit, processes=(open_above,)).one("InaccessiblePaths").verdict is Verdict.NOT_PROVABLE


def test_writable_paths() -> None:
    inside = seen(INSIDE, "/srv/data", readonly=True)
    inside = replace(inside, paths={**inside.paths, "/none": PathEvidence(False)})
    lines = ["PrivateUsers=yes", "ReadWritePaths=-/srv/data /srv/from -/none"]
    found = {f.declared: f for f in Unit(lines, processes=(inside,)).findings() if f.aspect == "ReadWritePaths"}
    says(found["-/srv/data"], Verdict.NOT_EFFECTIVE, "did not exist when the unit was started")
    assert found["/srv/from"].verdict is Verdict.EFFECTIVE
    says(found["-/none"], Verdict.NOT_PROVABLE, "nothing can be written there", "create it")


def test_one_source_bound_to_two_places() -> None:
    inside = mounted(
        seen(INSIDE, "/srv/data", inode=OWN_PATHS["/srv/from"].inode), Mount("/srv/data", "ext4", ("ro",), ())
    )
    lines = ["PrivateUsers=yes", "BindReadOnlyPaths=/srv/from:/srv/data /srv/from:/else"]
    found = {f.declared: f for f in Unit(lines, processes=(inside,)).findings() if f.aspect == "BindReadOnlyPaths"}
    assert found["/srv/from:/srv/data"].verdict is Verdict.EFFECTIVE
    assert found["/srv/from:/else"].verdict is Verdict.NOT_EFFECTIVE


def test_paths_to_read() -> None:
    lines = ["ProtectSystem=full", "ReadWritePaths=-%h/x", "LoadCredential=key:/etc/key", "TemporaryFileSystem=/mnt:ro",
             "BindPaths=-/a:/b"]  # fmt: skip
    unit = Unit(lines)
    expected = DropIn(UNIT, Purpose.RESOURCES, "[Service]\nInaccessiblePaths=%t/bus\n")
    paths = paths_to_read(unit.view(), unit.host, [expected], DIR)
    assert set(paths) == {
        "/usr", "/boot", "/efi", "/etc", "/home/ai/x", f"/run/user/1000/credentials/{UNIT}/key", "/mnt", "/a", "/b",
        "/run/user/1000/bus",
    }  # fmt: skip


def test_a_credential_is_never_shown() -> None:
    found = Unit(["SetCredential=key:geheim"], properties={"SetCredential": [["key", b"geheim"]]}).one("SetCredential")
    assert "geheim" not in repr(found)
    assert found.declared == "key:..."
