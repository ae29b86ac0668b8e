"""LiteLLM is found behind links and wrapper scripts, and told apart from what only bears its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentd.adapters.litellm_install import find_install
from agentd.adapters.litellm_package import router_keys
from agentd.core.gateway.install import Install
from agentd.errors import AgentdError

ROUTER = '''\
class Other:
    def __init__(self, wrong: int) -> None:
        pass


class Router:
    """A router: with (brackets)."""

    names = []

    def __init__(
        self,
        model_list: list | None = None,
        num_retries: int | None = None,  # how often: )
        *,
        max_fallbacks: int = int("5"),
        fallback_access_check: object = None,
    ) -> None:
        self.x = 1
'''
REAL = Path(__file__).resolve().parents[2] / ".cache/litellm-venv/bin/litellm"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def package(folder: Path, version: str = "1.2.3", *, metrics: bool = False) -> None:
    (folder / "litellm").mkdir(parents=True, exist_ok=True)
    (folder / "litellm/router.py").write_text(ROUTER)
    info = folder / f"litellm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: litellm\nVersion: {version}\n")
    (folder / "litellm_proxy_extras-0.4.1.dist-info").mkdir()
    if metrics:
        (folder / "prometheus_client").mkdir()


def venv(folder: Path, version: str = "1.2.3", *, metrics: bool = False) -> Path:
    """A virtual environment with LiteLLM's console script, which is returned."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to("/usr/bin/python3")
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    package(folder / "lib/python3.11/site-packages", version, metrics=metrics)
    text = f"#!{folder}/bin/python\nimport sys\nfrom litellm import run_server\nsys.exit(run_server())\n"
    return script(folder / "bin/litellm", text)


def found(program: str | Path, home: Path, path: str = "/nowhere") -> Install:
    return find_install(str(program), {"HOME": str(home), "PATH": path})


def refused(program: str | Path, home: Path, path: str = "/nowhere") -> AgentdError:
    with pytest.raises(AgentdError) as caught:
        found(program, home, path)
    assert caught.value.hint.startswith("install it, for instance with: pipx install")
    return caught.value


def test_a_console_script(tmp_path: Path) -> None:
    program = venv(tmp_path / "venv", metrics=True)
    install = found(program, tmp_path)
    assert install == Install(
        str(program),
        str(tmp_path / "venv/bin/python"),
        "1.2.3",
        frozenset({"num_retries", "max_fallbacks"}),
        prometheus=True,
    )
    assert install.numbers == (1, 2, 3)


def test_the_real_one() -> None:
    install = find_install(str(REAL))
    assert install.executable == str(REAL)
    assert install.python == str(REAL.with_name("python"))
    assert install.numbers >= (1, 80)
    assert {"fallbacks", "allowed_fails_policy", "max_fallbacks", "optional_pre_call_checks"} <= install.router_keys


def test_without_the_package_for_metrics(tmp_path: Path) -> None:
    assert not found(venv(tmp_path / "venv"), tmp_path).prometheus


def test_a_link_as_pipx_and_uv_make_it(tmp_path: Path) -> None:
    program = venv(tmp_path / "pipx/venvs/litellm")
    link = tmp_path / ".local/bin/litellm"
    link.parent.mkdir(parents=True)
    link.symlink_to(program)
    for named in ("", str(link), "~/.local/bin/litellm"):
        assert found(named, tmp_path).executable == str(program)


def test_on_the_path_before_the_home(tmp_path: Path) -> None:
    first, second = venv(tmp_path / "one", "1.0.0"), venv(tmp_path / "two", "2.0.0")
    (tmp_path / ".local/bin").mkdir(parents=True)
    (tmp_path / ".local/bin/litellm").symlink_to(second)
    assert found("", tmp_path, f"/nowhere:{first.parent}").version == "1.0.0"
    assert found("litellm", tmp_path, str(second.parent)).version == "2.0.0"
    assert found("", tmp_path).version == "2.0.0"


@pytest.mark.parametrize(
    "text",
    [
        '#!/bin/sh\nexec {program} "$@"\n',
        '#!/bin/bash\nset -eu\nexport X=1\nexec "{program}" --detailed_debug "$@"  # as before\n',
        '#!/usr/bin/env bash\nif true; then\n  exec env X=1 {program} "$@"\nfi\n',
        '#!/bin/sh\nexec $HOME/venv/bin/litellm "$@"\n',
        '#!/bin/sh\nexec ${{HOME}}/venv/bin/python -m litellm "$@"\n',
        "#!/bin/sh\n'''exec' {folder}/bin/python \"$0\" \"$@\"\n' '''\nimport sys\n",
        "#!/usr/bin/env -S {folder}/bin/python -I\nimport sys\n",
    ],
)
def test_wrapper_scripts(tmp_path: Path, text: str) -> None:
    program = venv(tmp_path / "venv")
    wrapper = script(tmp_path / "bin/litellm", text.format(program=program, folder=tmp_path / "venv"))
    assert found(wrapper, tmp_path).python == str(tmp_path / "venv/bin/python")


def test_a_python_by_its_name_on_the_path(tmp_path: Path) -> None:
    venv(tmp_path / "venv")
    program = script(tmp_path / "litellm", "#!/usr/bin/env python\nimport sys\n")
    assert found(program, tmp_path, str(tmp_path / "venv/bin")).version == "1.2.3"


def test_packages_of_the_user(tmp_path: Path) -> None:
    """pip install --user, for a Python that is in no virtual environment."""
    package(tmp_path / "home/.local/lib/python3.11/site-packages", "3.0.0")
    (tmp_path / "prefix/bin").mkdir(parents=True)
    (tmp_path / "prefix/bin/python3").symlink_to("/usr/bin/python3")
    program = script(tmp_path / "home/.local/bin/litellm", f"#!{tmp_path}/prefix/bin/python3\n")
    assert found(program, tmp_path / "home").version == "3.0.0"


def test_a_broken_upgrade_leaves_two(tmp_path: Path) -> None:
    program = venv(tmp_path / "venv", "1.9.0")
    folder = tmp_path / "venv/lib/python3.11/site-packages"
    package(folder / "aside", "1.10.0")
    (folder / "aside/litellm-1.10.0.dist-info").rename(folder / "litellm-1.10.0.dist-info")
    os.utime(folder / "litellm-1.9.0.dist-info", (1, 1))
    assert found(program, tmp_path).version == "1.10.0"


@pytest.mark.parametrize(
    ("named", "kind", "message"),
    [
        ("", "litellm-missing", "cannot find LiteLLM: no litellm on PATH or in ~/.local/bin"),
        ("other", "litellm-missing", "cannot find LiteLLM: no other on PATH"),
        ("{home}/gone", "litellm-missing", "cannot find LiteLLM: {home}/gone does not exist"),
        ("{home}/plain", "litellm-missing", "cannot find LiteLLM: {home}/plain is not an executable file"),
        ("{home}/elf", "litellm-unknown", "cannot tell which LiteLLM {home}/elf is: {home}/elf is not a script"),
        ("{home}/empty", "litellm-unknown", "cannot tell which LiteLLM {home}/empty is: {home}/empty is not a script"),
        (
            "{home}/perl",
            "litellm-unknown",
            "cannot tell which LiteLLM {home}/perl is: "
            "{home}/perl is a perl script that executes no program with a fixed path",
        ),
        (
            "{home}/round",
            "litellm-unknown",
            "cannot tell which LiteLLM {home}/round is: its wrapper scripts lead to each other",
        ),
        (
            "{home}/old",
            "litellm-unknown",
            "cannot tell which LiteLLM {home}/old is: {home}/removed/bin/python, which {home}/old runs, is not there",
        ),
        (
            "{home}/none",
            "litellm-unknown",
            "cannot tell which LiteLLM {home}/none is: {home}/bare/bin/python has no package litellm",
        ),
    ],
)
def test_what_is_none(tmp_path: Path, named: str, kind: str, message: str) -> None:
    script(tmp_path / "plain", "#!/bin/sh\n").chmod(0o644)
    (tmp_path / "elf").write_bytes(b"\x7fELF\x02\x01\x01\xff\xfe")
    (tmp_path / "elf").chmod(0o755)
    script(tmp_path / "empty", "")
    script(tmp_path / "perl", "#!/usr/bin/perl\nprint 1;\n")
    script(tmp_path / "round", f'#!/bin/sh\nexec {tmp_path}/round "$@"\n')
    script(tmp_path / "old", f"#!{tmp_path}/removed/bin/python\n")
    (tmp_path / "bare/bin").mkdir(parents=True)
    (tmp_path / "bare/bin/python").symlink_to("/usr/bin/python3")
    (tmp_path / "bare/pyvenv.cfg").write_text("home = /usr/bin\n")
    script(tmp_path / "none", f"#!{tmp_path}/bare/bin/python\n")
    error = refused(named.format(home=tmp_path), tmp_path)
    assert (error.kind, error.message) == (kind, message.format(home=tmp_path))


@pytest.mark.parametrize(
    "text", ["", "class Router:\n    pass\n", "class Router:\n    def __init__(\n        self, a b\n    ):\n"]
)
def test_an_unexpected_router_has_no_known_keys(tmp_path: Path, text: str) -> None:
    (tmp_path / "router.py").write_text(text)
    assert router_keys(tmp_path / "router.py") == frozenset()
    assert router_keys(tmp_path / "gone.py") == frozenset()


def test_an_upgrade_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "router.py"
    source.write_text(ROUTER)
    assert "num_retries" in router_keys(source)
    source.write_text(ROUTER.replace("num_retries", "retries_of_requests"))
    assert "retries_of_requests" in router_keys(source)
