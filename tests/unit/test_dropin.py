"""Drop-ins: ownership, digests, and the content that makes exclusion and readiness systemd's own business."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.dropin import (
    DropIn,
    Purpose,
    directives,
    edited,
    exclusive,
    is_ours,
    parse,
    path_of,
    plan,
    readiness,
)

A, B, C = "vllm-a.service", "vllm-b.service", "vllm-c.service"


def test_the_name_sorts_after_set_property_and_before_a_users_override() -> None:
    path = path_of(A, Purpose.SECURITY)
    assert path == "vllm-a.service.d/90-agentd-security.conf"
    assert sorted(["override.conf", "50-MemoryMax.conf", Path(path).name])[1] == Path(path).name


@given(st.text(), st.sampled_from(Purpose))
def test_what_is_rendered_parses_back(body: str, purpose: Purpose) -> None:
    text = DropIn(A, purpose, body.encode("utf-8", "ignore").decode()).text
    parsed = parse(text)
    assert parsed is not None
    assert (parsed.purpose, parsed.edited) == (purpose.value, False)
    assert is_ours(text)
    assert not edited(text)
    assert edited(text + "#")


@pytest.mark.parametrize("text", ["", "[Service]\nMemoryMax=1G\n", "# agentd: purpose=x sha256=short\n"])
def test_others_files_are_not_ours(text: str) -> None:
    assert parse(text) is None
    assert not is_ours(text)
    assert not edited(text)


def test_exclusive_orders_one_way_only() -> None:
    made = {d.unit: d.body.split("[Unit]\n")[1].splitlines() for d in exclusive([C, A, B, A])}
    assert made == {
        A: [f"Conflicts={B}", f"Conflicts={C}"],
        B: [f"Conflicts={A}", f"Conflicts={C}", f"After={A}"],
        C: [f"Conflicts={A}", f"Conflicts={B}", f"After={A}", f"After={B}"],
    }
    assert exclusive([A]) == ()
    assert exclusive([]) == ()


def test_readiness() -> None:
    dropin = readiness(A, "http://127.0.0.1:8001/health", 600.0, agentctl="/home/u/.local/bin/agentctl")
    assert dropin.path == "vllm-a.service.d/90-agentd-readiness.conf"
    assert dropin.body.splitlines()[1:] == [
        "[Service]",
        "ExecStartPost=/home/u/.local/bin/agentctl wait-ready vllm-a --quiet"
        " --url http://127.0.0.1:8001/health --timeout 600",
        "TimeoutStartSec=630",
    ]
    odd = readiness(A, "http://h/a%20b?x=$y z", 0.5).body
    assert ' --url "http://h/a%%20b?x=$$y z" --timeout 1' in odd


def test_directives() -> None:
    sections = {"Service": [("MemoryMax", "4G"), ("ReadWritePaths", "")]}
    assert directives(A, Purpose.RESOURCES, sections, comment="why\nso").body == (
        "# why\n# so\n[Service]\nMemoryMax=4G\nReadWritePaths=\n"
    )


def test_plan_writes_only_what_differs() -> None:
    one, two = exclusive([A, B])
    fresh = plan([one, two], {})
    assert fresh.writes == {one.path: one.text, two.path: two.text}
    assert plan([one, two], dict(fresh.writes)).writes == {}
    older = DropIn(A, Purpose.EXCLUSIVE, "[Unit]\n").text
    assert plan([one, two], {one.path: older, two.path: two.text}).writes == {one.path: one.text}


def test_plan_removes_ours_and_keeps_what_others_touched() -> None:
    one, two = exclusive([A, B])
    touched = one.text + "# mine\n"
    gone = plan([], {one.path: one.text, two.path: two.text + "#\n", "x.conf": "[Unit]\n", "none": None})
    assert (gone.writes, gone.kept) == ({one.path: None}, (two.path,))
    kept = plan([one], {one.path: touched})
    assert (kept.writes, kept.kept) == ({}, (one.path,))
    assert plan([one], {one.path: touched}, force=True).writes == {one.path: one.text}
    foreign = plan([one], {one.path: "[Unit]\n"}, force=True)
    assert (foreign.writes, foreign.kept) == ({}, (one.path,))


def test_systemd_reads_them_without_a_word(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "systemd is needed: apt-get install systemd"
    for unit in (A, B, C):
        (tmp_path / unit).write_text("[Service]\nExecSearchPath=/bin:/usr/bin\nExecStart=sleep 1\n")
    made = [*exclusive([A, B, C]), *(readiness(u, "http://127.0.0.1:1/a%20b", 5, agentctl="true") for u in (A, B, C))]
    for dropin in made:
        path = tmp_path / dropin.path
        path.parent.mkdir(exist_ok=True)
        path.write_text(dropin.text)
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:", "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [analyze, "--user", "verify", "--man=no", *(str(tmp_path / u) for u in (A, B, C))],
        env=env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if any(name in line for name in (A, B, C, "cycle", "agentd"))]
    assert said == []
    command = made[-1].body.splitlines()[2].removeprefix("ExecStartPost=")
    assert shlex.split(command)[5] == "http://127.0.0.1:1/a%%20b"
