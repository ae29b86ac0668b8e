"""In-memory stand-ins for every port; `FakeWorld` ties them into one machine with models on it.

Import as `from fakes import FakeWorld` (pytest puts tests/ on the path). All delays run on the loop's clock, so a
test that creates a FakeClock (or a FakeWorld, which makes one) inside its loop runs in virtual time: asyncio.sleep,
asyncio.timeout and call_later leap instead of waiting.

    world = FakeWorld()
    world.add_model("qwen", 8001, load=30)          # unit vllm-qwen.service, FakeModel settings as keywords
    world.add_model("dolphin", 8002)
    world.exclusive()                                # Conflicts= and After=, as the drop-ins have it
    world.serve_at_once("dolphin")                   # already up
    engine = Engine(world.units, world.kernel, world.gpus, world.prober, world.store, world.clock, ...)
    world.models["qwen"].die_loading = (5, 1, "torch.OutOfMemoryError: CUDA out of memory")
    world.models["qwen"].behaviour.ignore_sigterm = True
    world.store.after_save = crash_at(3)             # raise there: agentd is cut off at this boundary
    assert world.serving() == ["dolphin"]; world.units.history; world.units.calls; world.holders()
"""

from __future__ import annotations

from .clock import FakeClock
from .files import FakeFiles
from .gpus import FakeGpus
from .journal import FakeJournal
from .kernel import FakeKernel
from .notifier import FakeNotifier
from .prober import FakeProber, Request, answer
from .store import FakeStore
from .units import Behaviour, FakeJob, FakeUnit, FakeUnits
from .world import FakeModel, FakeOllama, FakeWorld

__all__ = [
    "Behaviour",
    "FakeClock",
    "FakeFiles",
    "FakeGpus",
    "FakeJob",
    "FakeJournal",
    "FakeKernel",
    "FakeModel",
    "FakeNotifier",
    "FakeOllama",
    "FakeProber",
    "FakeStore",
    "FakeUnit",
    "FakeUnits",
    "FakeWorld",
    "Request",
    "answer",
]
