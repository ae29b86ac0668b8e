"""Files with keys on a real file system: all or none, private, links followed, others' files left alone."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.adapters.env_files import EnvFiles, alone, read
from agentd.errors import AgentdError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path: Path) -> EnvFiles:
    made = EnvFiles(tmp_path / "state")
    made.ready()
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_files_are_private_and_old_ones_keep_their_other_lines(files: EnvFiles, tmp_path: Path) -> None:
    old = tmp_path / "old.env"
    old.write_text("# mine\nA=1\n")
    old.chmod(0o640)
    files.change({str(old): {"K": "v"}, str(tmp_path / "deep/new.env"): {"K": "v"}})
    assert old.read_text() == "# mine\nA=1\nK=v\n"
    assert mode(old) == 0o640, "a change does not take away what somebody gave on purpose"
    assert (tmp_path / "deep/new.env").read_text() == "K=v\n"
    assert mode(tmp_path / "deep/new.env") == 0o600
    assert mode(tmp_path / "state") == 0o700


def test_repair_takes_the_group_and_others_away(files: EnvFiles, tmp_path: Path) -> None:
    path = tmp_path / "a.env"
    path.write_text("K=v\n")
    path.chmod(0o644)
    assert read(str(path)).open_to() == "everybody"
    assert files.repair(str(path))
    assert (mode(path), read(str(path)).open_to()) == (0o600, "")
    assert not files.repair(str(path))
    path.chmod(0o640)
    assert read(str(path)).open_to() == "its group"
    assert not files.repair(str(tmp_path / "none"))


def test_a_link_stays_and_what_it_leads_to_is_changed(files: EnvFiles, tmp_path: Path) -> None:
    real, link = tmp_path / "real.env", tmp_path / "link.env"
    real.write_text("K=old\n")
    link.symlink_to("real.env")
    files.change({str(link): {"K": "new"}})
    assert link.is_symlink()
    assert real.read_text() == "K=new\n"
    assert read(str(link)).value("K") == "new"


def test_two_names_of_one_file_are_changed_together(files: EnvFiles, tmp_path: Path) -> None:
    real, link = tmp_path / "real.env", tmp_path / "link.env"
    real.write_text("A=1\nB=1\n")
    link.symlink_to(real)
    files.change({str(real): {"A": "2"}, str(link): {"B": "2"}})
    assert real.read_text() == "A=2\nB=2\n"


def test_a_file_that_is_one_key(files: EnvFiles, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("# the key\nold-key\n")
    assert read(str(path)).value("ANY") == "old-key"
    files.change({str(path): {"ANY": "new-key"}})
    assert path.read_text() == "# the key\nnew-key\n"
    assert (alone("A=1\n"), alone("x\ny\n"), alone("")) == (None, None, None)


def test_all_or_none(files: EnvFiles, tmp_path: Path) -> None:
    good, bad = tmp_path / "a/good.env", tmp_path / "b/bad.env"
    for path in (good, bad):
        path.parent.mkdir()
        path.write_text("K=old\n")
    bad.parent.chmod(0o500)
    try:
        if os.geteuid() == 0:  # Root may write anywhere: a name that is a directory stands in the way of everybody.
            bad.unlink()
            bad.mkdir()
        with pytest.raises(AgentdError) as caught:
            files.change({str(good): {"K": "geheim"}, str(bad): {"K": "geheim"}})
    finally:
        bad.parent.chmod(0o700)
    assert good.read_text() == "K=old\n"
    assert str(bad) in caught.value.message
    assert "geheim" not in caught.value.message + caught.value.hint


FULL = """
import resource, signal, sys
from pathlib import Path
from agentd.adapters.env_files import EnvFiles
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
files = EnvFiles(Path(sys.argv[1]))
files.ready()
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
try:
    files.change({sys.argv[2]: {"K": "geheim"}, sys.argv[3]: {"K": "geheim"}})
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_leaves_what_was(tmp_path: Path) -> None:
    small, large = tmp_path / "small.env", tmp_path / "large.env"
    small.write_text("K=old\n")
    large.write_text("#" * 500 + "\nK=old\n")
    argv = [sys.executable, "-c", FULL, str(tmp_path / "state"), str(small), str(large)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=30, check=True)
    assert done.stdout.startswith("AgentdError cannot write ")
    assert "geheim" not in done.stdout + done.stderr
    assert small.read_text() == "K=old\n"
    assert large.read_text().endswith("\nK=old\n")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 400


KILLED = """
import os, sys
from pathlib import Path
from agentd.adapters import fileset, files
from agentd.adapters.env_files import EnvFiles
commits = []
def commit(step):
    if commits:
        os.kill(os.getpid(), 9)
    commits.append(step)
    fileset_commit(step)
fileset_commit = fileset.commit
fileset.commit = commit
env = EnvFiles(Path(sys.argv[1]))
env.ready()
env.change({path: {"K": "new"} for path in sys.argv[2:]})
"""


def test_killed_between_two_files_the_next_run_brings_the_old_ones_back(tmp_path: Path) -> None:
    paths = [tmp_path / "a.env", tmp_path / "b.env"]
    for path in paths:
        path.write_text("K=old\n")
    argv = [sys.executable, "-c", KILLED, str(tmp_path / "state"), *map(str, paths)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False)
    assert done.returncode == -9, done.stderr
    assert sorted(path.read_text() for path in paths) == ["K=new\n", "K=old\n"]
    assert len(EnvFiles(tmp_path / "state").ready()) == 1
    assert [path.read_text() for path in paths] == ["K=old\n", "K=old\n"]
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.mkdir(), "is a directory"),
        (lambda p: os.mkfifo(p), "no regular file"),
        (lambda p: p.write_bytes(b"K=\xff\n"), "not UTF-8"),
        (lambda p: p.write_bytes(b"#" * (1024 * 1024 + 1)), "larger than"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, make: object, words: str) -> None:
    path = tmp_path / "x.env"
    make(path)  # type: ignore[operator]
    with pytest.raises(AgentdError, match=words):
        read(str(path))


def test_somebody_elses_file_is_refused(files: EnvFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.env"
    path.write_text("K=v\n")
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(AgentdError, match="it belongs to user") as caught:
        files.change({str(path): {"K": "x"}})
    assert caught.value.kind == "file-owner"
    assert path.read_text() == "K=v\n"


def test_one_at_a_time(tmp_path: Path) -> None:
    first, second = EnvFiles(tmp_path), EnvFiles(tmp_path)
    second.lock._patience = 0.05
    with first.lock.held(), pytest.raises(AgentdError, match="cannot change keys: another process"), second.lock.held():
        pass
