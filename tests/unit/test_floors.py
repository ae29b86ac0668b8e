"""The architecture, enforced: floors, cycles, file size, and which file may import which third-party library.

Imports are read from the syntax tree, so those inside functions and below TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "agentd"
MAX_LINES = 300

_BASE = frozenset(
    {
        *("errors", "types", "findings", "evidence", "paths", "resources", "stores", "gateway", "gpu", "model_facts"),
        "runtimes",
    }
)
_CORE = _BASE | {"core", "wire"}
_PORTS = _CORE | {"ports", "ports_backup", "ports_gateway", "ports_hardening", "ports_models", "ports_redis"}
_MANAGERS = _PORTS | {"engine", "managers"}
_PARTS = frozenset({"gateway_parts", "hardening", "profile_parts", "redis_parts"})
_ALL = _MANAGERS | {"adapters", "metrics", "api", "logs"}
_FOR_COMMANDS = (
    *("hostsetup", "offline", "offline_redis", "offline_redis_file"),
    *("offline_gateway", "offline_gateway_edit", "offline_gateway_import", "offline_prove", "offline_rotation"),
    *("offline_secrets", "offline_serve", "offline_smoke", "offline_profile"),
    *("offline_models", "offline_models_look", "offline_models_plan"),
)
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "errors": frozenset(),
    "types": frozenset({"errors"}),
    "findings": frozenset({"types"}),
    "evidence": frozenset({"types"}),
    "gpu": frozenset(),
    "model_facts": frozenset(),
    "runtimes": frozenset(),
    "stores": frozenset({"types", "findings"}),
    "gateway": frozenset({"types", "findings"}),
    "gateway_runtime": frozenset({"gateway_runtime"}),
    "paths": frozenset(),
    "resources": frozenset({"paths"}),
    "core": frozenset({"errors", "types", "findings", "evidence", "stores", "gateway", "gpu", "model_facts", "core"})
    | {"runtimes"},
    "wire": frozenset({"errors", "types", "findings", "evidence", "gpu", "model_facts"}),
    "ports": _CORE,
    "ports_hardening": _PORTS,
    "ports_models": _PORTS,
    "ports_redis": _PORTS,
    "ports_backup": _PORTS,
    "ports_gateway": _PORTS,
    "canary": frozenset({"canary"}),
    "adapters": _PORTS | {"adapters", "canary"},
    "engine": _PORTS | {"engine"},
    "managers": _MANAGERS,
    "metrics": _MANAGERS | {"metrics"},
    "api": _MANAGERS | {"api"},
    "logs": _BASE | {"core"},
    "offline": _ALL | {"offline_hardening", "offline_stores"},
    "offline_gateway": _ALL | {"offline", "offline_gateway"},
    "offline_gateway_edit": _ALL | {"offline_gateway"},
    "offline_gateway_import": _ALL | {"offline_gateway", "offline_secrets"},
    "offline_models": _ALL | {"offline", "offline_models_plan"},
    "offline_models_look": _ALL | {"offline"},
    "offline_models_plan": _ALL | {"offline_gateway"},
    "offline_prove": _ALL | {"sandbox", "offline_gateway"},
    "offline_rotation": _ALL | {"offline_gateway", "offline_secrets"},
    "offline_secrets": _ALL | {"offline_gateway"},
    "offline_serve": _ALL,
    "offline_smoke": _ALL | {"offline_gateway"},
    "offline_hardening": _ALL,
    "offline_redis": _ALL,
    "offline_stores": _ALL,
    "offline_redis_file": _ALL | {"offline_redis_server"},
    "offline_redis_server": _ALL,
    "hostsetup": _ALL,
    "reload": _ALL,
    "surface": _ALL | {"surface_gateway", "surface_hardening", "surface_profile", "surface_redis"},
    "surface_gateway": _ALL,
    "surface_hardening": _ALL,
    "surface_profile": _ALL,
    "surface_redis": _ALL,
    "telemetry": _ALL | {"telemetry"},
    "door": _ALL | {"door"},
    "hardening": _ALL | {"surface_hardening"},
    "gateway_parts": _ALL | {"surface_gateway"},
    "redis_parts": _ALL | {"surface_redis"},
    "offline_profile": _ALL,
    "profile_parts": _ALL | {"hardening", "offline_profile", "surface_profile"},
    "daemon": _ALL | {"daemon", "door", "reload", "surface", "telemetry"} | _PARTS,
    "__main__": _ALL | {"daemon", "offline"},
    "client": _BASE | {"wire", "client"},
    "sandbox": _BASE | {"wire", "client", "sandbox"},
    "cli": _BASE | {"wire", "client", "sandbox", "cli", *_FOR_COMMANDS},
}
"""Area (a file or folder below agentd/) -> areas that it may import. A new area has to be entered here."""

LAZY_ONLY = frozenset(("cli", name) for name in _FOR_COMMANDS)
"""Imports that may stand only inside a function: they would cost every start of agentctl."""

STAND_ALONE = ("agentd.sandbox.nvml", "agentd.sandbox.standins")
"""Stand-ins for other people's programs and libraries: put on the path of one process, under their own name."""

THIRD_PARTY: Mapping[str, tuple[str, ...]] = {
    "aiohttp": ("agentd/adapters/probe.py", "agentd/api/"),
    "dbus_fast": ("agentd/adapters/bus.py",),
    "dbus_next": ("agentd/adapters/bus.py",),
    "fastapi": ("agentd/gateway_runtime/",),
    "litellm": ("agentd/gateway_runtime/",),
    "msgspec": ("agentd/core/",),
    "prometheus_client": ("agentd/metrics.py", "agentd/metrics/", "agentd/api/"),
    "pynvml": ("agentd/adapters/gpu_nvml.py",),
    "pystemd": ("agentd/adapters/offline_systemd.py",),
    "redis": ("agentd/adapters/probe.py", "agentd/adapters/redis_wire.py"),
    "structlog": ("agentd/logs.py",),
    "uvicorn": ("agentd/gateway_runtime/",),
    "yaml": ("agentd/core/gateway/yaml_text.py", "agentd/gateway_runtime/section.py"),
}

IMPURE = frozenset(
    {
        *("asyncio", "concurrent", "glob", "http", "io", "logging", "multiprocessing", "os", "random", "secrets"),
        *("select", "selectors", "shutil", "socket", "sqlite3", "subprocess", "tempfile", "threading"),
        *("time", "urllib.request"),
    }
)
"""What core/ must not import: it has no I/O, no clock and no log."""


@dataclass(frozen=True)
class Import:
    """One imported module, as written in `importer`; `names` are those of a from-import."""

    importer: str
    module: str
    names: tuple[str, ...]
    line: int
    lazy: bool


def parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SystemError:  # Python before 3.11.5 counts its depth wrong when a collection comes in the middle.
        return ast.parse(source)


def imports(importer: str, package: str, source: str) -> Iterator[Import]:
    """Every import of a module's source. `package` resolves relative ones."""
    for node, lazy in _statements(parsed(source).body, lazy=False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, (), node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = tuple(alias.name for alias in node.names)
            yield Import(importer, module, names, node.lineno, lazy)


def _statements(body: Iterable[ast.stmt], *, lazy: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement, however deep, and whether it is inside a function. Expressions hold none, and are most of a
    tree."""
    for node in body:
        yield node, lazy
        if isinstance(node, ast.Match):
            blocks = [case.body for case in node.cases]
        else:
            blocks = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
            blocks += [handler.body for handler in getattr(node, "handlers", [])]
        deeper = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for block in blocks:
            yield from _statements(block, lazy=deeper)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_tree(root: Path) -> tuple[dict[str, Path], list[Import]]:
    """Modules below root/agentd, and all their imports."""
    modules = {module_name(p, root): p for p in sorted((root / "agentd").rglob("*.py"))}
    found: list[Import] = []
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found.extend(map(with_full_name, imports(name, package, path.read_text())))
    return modules, found


def with_full_name(item: Import) -> Import:
    """A stand-in knows its siblings by the short name of their folder."""
    for folder in STAND_ALONE:
        parent, _, short = folder.rpartition(".")
        if item.importer.startswith(folder) and item.module.split(".")[0] == short:
            return replace(item, module=f"{parent}.{item.module}")
    return item


def targets(item: Import, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that an import loads: a name that is a submodule counts as that submodule."""
    subs = [f"{item.module}.{name}" for name in item.names if f"{item.module}.{name}" in modules]
    yield from subs
    if len(subs) < len(item.names) or not item.names:
        yield item.module


def area(module: str) -> str:
    """ "agentd.core.switch" -> "core"; the package itself, which holds only the version, is ""."""
    return module.split(".")[1] if "." in module else ""


def floor_errors(modules: Mapping[str, Path], found: Iterable[Import]) -> list[str]:
    errors = []
    for item in found:
        for target in targets(item, modules):
            if target.split(".")[0] != "agentd" or not area(target):
                continue
            where = f"{item.importer}:{item.line} imports {target}"
            here, there = area(item.importer), area(target)
            if there != here and there not in MAY_IMPORT.get(here, frozenset()):
                errors.append(f"{where}: {here or 'agentd'} may not import {there}")
            elif here == there == "managers" and item.importer.split(".")[2:3] != target.split(".")[2:3]:
                errors.append(f"{where}: a manager may not import another one")
            elif (here, there) in LAZY_ONLY and not item.lazy:
                errors.append(f"{where}: only inside a function")
    return errors


def cycles(modules: Mapping[str, Path], found: Iterable[Import]) -> list[list[str]]:
    """Groups of modules that import each other (strongly connected components, by reachability)."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for item in found:
        graph[item.importer].update(t for t in targets(item, modules) if t in graph)
    reach = {name: _reachable(graph, name) for name in graph}
    groups = {frozenset({a, *(b for b in reach[a] if a in reach[b])}) for a in graph if a in reach[a]}
    return sorted(sorted(group) for group in groups)


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(graph[name])
    return seen


def third_party_errors(modules: Mapping[str, Path], found: Iterable[Import], root: Path) -> list[str]:
    errors = []
    for item in found:
        top = item.module.split(".")[0]
        if top == "agentd" or top in sys.stdlib_module_names:
            continue
        path = modules[item.importer].relative_to(root).as_posix()
        allowed = THIRD_PARTY.get(top, ())
        if not any(path == a or (a.endswith("/") and path.startswith(a)) for a in allowed):
            errors.append(f"{path}:{item.line} imports {top}; allowed in: {', '.join(allowed) or 'no file'}")
    return errors


MODULES, FOUND = read_tree(ROOT)


def test_imports_go_downward() -> None:
    assert floor_errors(MODULES, FOUND) == []


def test_no_cycles() -> None:
    assert cycles(MODULES, FOUND) == []


def test_third_party_libraries_stay_in_their_files() -> None:
    assert third_party_errors(MODULES, FOUND, ROOT) == []


def test_every_area_is_in_the_table() -> None:
    assert {area(name) for name in MODULES} - {""} <= set(MAY_IMPORT)


def test_every_folder_is_a_package() -> None:
    folders = {p.parent for p in SOURCE.rglob("*.py") if not (p.parent / "__init__.py").exists()}
    assert {".".join(f.relative_to(ROOT).parts) for f in folders} <= set(STAND_ALONE)


def test_file_size() -> None:
    sizes = {p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in MODULES.values()}
    assert {name: size for name, size in sizes.items() if size > MAX_LINES} == {}


def test_core_is_pure() -> None:
    core = [item for item in FOUND if area(item.importer) == "core"]
    impure = [f"{i.importer}:{i.line} imports {i.module}" for i in core if {i.module, i.module.split(".")[0]} & IMPURE]
    impure += [f"{i.importer}:{i.line} imports pathlib.Path" for i in core if "Path" in i.names]
    for name, path in MODULES.items():
        text = path.read_text() if area(name) == "core" else ""
        if re.search(r"\b(open|print|input)\b", text):
            calls = (n for n in ast.walk(parsed(text)) if isinstance(n, ast.Call))
            opened = (c for c in calls if isinstance(c.func, ast.Name) and c.func.id in ("open", "print", "input"))
            impure += [f"{name}:{c.lineno} does I/O" for c in opened]
    assert impure == []


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_agentctl_starts_light() -> None:
    loaded = set(run_python("import sys, agentd.cli.main; print(*sys.modules)").split())
    assert loaded & {*THIRD_PARTY, "asyncio", "ssl", "sqlite3", "http.client"} == set()


EFFECTS = """
import importlib, logging, os, signal, sys, threading
handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
environment, folder = dict(os.environ), os.getcwd()
before = set(os.listdir("/proc/self/fd"))
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert logging.getLogger().handlers == [], logging.getLogger().handlers
assert {s: signal.getsignal(s) for s in signal.valid_signals()} == handlers
assert dict(os.environ) == environment and os.getcwd() == folder
print(*sorted(set(os.listdir("/proc/self/fd")) - before))
"""


def test_importing_does_nothing() -> None:
    names = [n for n in MODULES if not n.endswith("__main__") and not n.startswith(STAND_ALONE)]
    code = EFFECTS.replace("sys.argv[1:]", repr(names))
    assert run_python(code).split() == []


def tree(folder: Path, files: Mapping[str, str]) -> tuple[dict[str, Path], list[Import]]:
    for name, text in {"agentd/__init__.py": "", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return read_tree(folder)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("agentd/core/a.py", "from agentd.ports import Clock"),
        ("agentd/core/a.py", "from agentd import daemon"),
        ("agentd/core/a.py", "from ..adapters import bus"),
        ("agentd/core/a.py", "def f():\n    import agentd.adapters.bus"),
        (
            "agentd/managers/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agentd.adapters import bus",
        ),
        ("agentd/managers/a.py", "from agentd.managers.b import B"),
        ("agentd/client.py", "from agentd.core import settings"),
        ("agentd/cli/a.py", "from agentd import offline"),
        ("agentd/new.py", "from agentd import types"),
    ],
)
def test_the_floor_check_finds(tmp_path: Path, file: str, text: str) -> None:
    others = {f"agentd/{n}.py": "" for n in ("adapters/bus", "adapters/__init__", "managers/b", "daemon", "offline")}
    modules, found = tree(tmp_path, {**others, "agentd/types.py": "", file: text})
    assert len(floor_errors(modules, found)) == 1


def test_the_cycle_check_counts_type_checking_imports(tmp_path: Path) -> None:
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agentd.core.a import A"
    files = {"agentd/core/a.py": "from agentd.core import b", "agentd/core/b.py": lazy, "agentd/core/c.py": lazy}
    modules, found = tree(tmp_path, {"agentd/core/__init__.py": "", **files})
    assert cycles(modules, found) == [["agentd.core.a", "agentd.core.b"]]


def test_the_library_check_finds(tmp_path: Path) -> None:
    files = {"agentd/api/a.py": "import aiohttp.web", "agentd/engine/b.py": "from aiohttp import web\nimport requests"}
    modules, found = tree(tmp_path, files)
    errors = third_party_errors(modules, found, tmp_path)
    assert [e.split(" imports ")[1].split(";")[0] for e in errors] == ["aiohttp", "requests"]
