"""Three models that `agentctl models add` made, one of them on a unix socket, take turns on the real vLLM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from model.asking import agentctl, said
from model.test_switch import Switch, pids, resident, show

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

MODELS = {"alpha": "qwen", "beta": "dolphin", "gamma": "qwen"}
"""Name -> whose weights it has, and so what it calls itself."""


@pytest.fixture(scope="module")
def added(home: Path, models: Path, stack: None) -> Iterator[dict[str, str]]:
    """Url by name; the models are removed in the end."""
    urls = {}
    key = home / ".config/agentd/vllm.env"
    for name, weights in MODELS.items():
        where = ["--uds", str(home / f"{name}.sock")] if name == "gamma" else []
        words = ["--path", str(models / weights), "--env-file", str(key), "--max-model-len", "256", *where, "--json"]
        done = agentctl("models", "add", name, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        shown = agentctl("models", "show", name, "--json")
        assert shown.returncode == 0, shown.stdout + shown.stderr
        urls[name] = url_of(home, name)
    yield urls
    agentctl("unload")
    for name in MODELS:
        agentctl("models", "remove", name)


def url_of(home: Path, name: str) -> str:
    text = (home / f".config/agentd/config.d/60-model-{name}.toml").read_text()
    return next(line.partition("=")[2].strip(' "') for line in text.splitlines() if line.startswith("url"))


def test_three_made_models_take_turns(added: dict[str, str], switch: Switch) -> None:
    assert added["gamma"].startswith("http+unix:///")
    old: set[int] = set()
    for name in ("alpha", "gamma", "beta", "gamma"):
        done = switch(name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert resident() == name
        assert said(added[name], name) == f" {MODELS[name]}"
        assert [other for other in MODELS if show(other, "ActiveState") == "active"] == [name]
        assert [pid for pid in old if Path(f"/proc/{pid}").exists()] == []
        old = pids(show(name, "ControlGroup"))


def test_a_made_model_whose_files_are_gone_is_refused(added: dict[str, str], models: Path, switch: Switch) -> None:
    hidden = models / "dolphin.away"
    (models / "dolphin").rename(hidden)
    try:
        done = switch("beta", "--force")
    finally:
        shutil.move(hidden, models / "dolphin")
    assert done.returncode == 3, done.stdout + done.stderr
    assert str(models / "dolphin") in done.stdout + done.stderr
