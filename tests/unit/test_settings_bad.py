"""Every file in bad_config/ gives exactly the messages written beside it, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.adapters.config_files import load
from agentd.errors import ConfigError

BAD = sorted((Path(__file__).parent / "bad_config").glob("*.toml"))


def messages(directory: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load([directory])
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 40
    assert all(path.with_suffix(".txt").is_file() for path in BAD)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "agentd.toml").write_bytes(path.read_bytes())
    found = messages(tmp_path)
    assert found == path.with_suffix(".txt").read_text().splitlines()
    assert not [text for text in found if "hunter2" in text or "sk-secret" in text]


def test_all_files_are_reported_at_once_in_their_order(tmp_path: Path) -> None:
    fragments = tmp_path / "config.d"
    fragments.mkdir()
    (tmp_path / "agentd.toml").write_text('[daemon]\nresync = "never"\n')
    (fragments / "10-a.toml").write_text("[daemon\n")
    (fragments / "20-b.toml").write_text('[daemon]\nlisten = ""\nbus_timeout = 0\nlog_level = "all"\n')
    assert [message.split(": ")[0] for message in messages(tmp_path)] == [
        "agentd.toml:2",
        "config.d/10-a.toml:1",
        "config.d/20-b.toml:3",
        "config.d/20-b.toml:4",
    ]


def test_a_broken_file_does_not_make_others_wrong(tmp_path: Path) -> None:
    """What refers to the broken file, or is completed by it, is not reported."""
    fragments = tmp_path / "config.d"
    fragments.mkdir()
    (fragments / "10-slot.toml").write_text("[slots.gpu0\n")
    (fragments / "20-model.toml").write_text(
        '[services.qwen]\nrole = "model"\nmodel = { slot = "gpu0", served_name = "qwen" }\n'
    )
    assert messages(tmp_path) == [
        "config.d/10-slot.toml:1: not valid TOML: expected ']' at the end of a table declaration, column 12"
    ]


def test_the_error_counts_its_problems(tmp_path: Path) -> None:
    (tmp_path / "agentd.toml").write_text("[daemon]\nresync = 0\nbus_timeout = 0\n")
    with pytest.raises(ConfigError) as caught:
        load([tmp_path])
    assert caught.value.kind == "config-invalid"
    assert str(caught.value).splitlines() == [
        "2 errors in the configuration:",
        f"  {tmp_path}/agentd.toml:2: daemon.resync: must be more than 0 (got 0)",
        f"  {tmp_path}/agentd.toml:3: daemon.bus_timeout: must be more than 0 (got 0)",
    ]
