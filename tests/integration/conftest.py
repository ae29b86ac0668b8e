"""Fixtures of the whole stack: `stack` is fresh and running, `bare_stack` is installed with agentd not started."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from integration.stack import Stack
from userunits import let_the_bus_die_often, systemctl


@pytest.fixture(scope="session", autouse=True)
def mortal_bus() -> None:
    let_the_bus_die_often()


@pytest.fixture
def bare_stack() -> Iterator[Stack]:
    """Installed anew; nothing runs yet."""
    made = Stack()
    made.install()
    yield made
    made.remove()


@pytest.fixture
def stack(bare_stack: Stack) -> Stack:
    """agentd runs and qwen, the slot's default, serves."""
    bare_stack.start()
    return bare_stack


@pytest.fixture(scope="module")
def shared_stack() -> Iterator[Stack]:
    """One installation for a module whose tests leave the slot as they like, but agentd able to start."""
    made = Stack()
    made.install()
    yield made
    made.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with what agentd and the models wrote, read before the stack is taken away."""
    report = yield
    names = getattr(item, "fixturenames", ())
    if report.failed and call.when == "call" and {"bare_stack", "shared_stack"} & set(names):
        funcargs = getattr(item, "funcargs", {})
        stack = funcargs.get("bare_stack") or funcargs.get("shared_stack")
        if isinstance(stack, Stack):
            for unit in ("agentd.service", "vllm-qwen.service", "vllm-dolphin.service"):
                report.sections.append((f"journal of {unit}", stack.journal(unit, 120)))
            state = systemctl("list-units", "--all", "--no-pager", "vllm-*", "agentd*", check=False)
            report.sections.append(("units", state))
    return report
