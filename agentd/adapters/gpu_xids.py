"""Xid errors, which the driver reports as events of NVML."""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Callable
from typing import Any

from agentd.adapters.gpu_calls import TIMEOUT, code, optional
from agentd.gpu import Xid

KEPT = 32
WAIT = 1
"""Milliseconds; there is no word for "do not wait" that every driver is known to take."""
XID = 0x8
"""nvmlEventTypeXidCriticalError."""


class Xids:
    """`arm` once per initialisation, `poll` at will, `close` before NVML is shut down; the history stays."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._set: Any = None
        self._armed: dict[Any, int] = {}
        self._history: deque[Xid] = deque(maxlen=KEPT)
        self._seq = 0
        self.failed = False
        """True once a wait has failed: events come again after `arm`."""

    @property
    def history(self) -> tuple[Xid, ...]:
        return tuple(self._history)

    def arm(self, nvml: Any, handles: dict[int, Any]) -> None:
        """Ask for the events of these GPUs (by index); those without are left out."""
        self.failed = False
        self._set = optional(nvml, "nvmlEventSetCreate")
        if self._set is None:
            return
        for index, handle in handles.items():
            with contextlib.suppress(nvml.NVMLError):  # its own reads will tell
                if (optional(nvml, "nvmlDeviceGetSupportedEventTypes", handle) or 0) & XID:
                    nvml.nvmlDeviceRegisterEvents(handle, XID, self._set)
                    self._armed[_key(handle)] = index
        if not self._armed:
            self.close(nvml)

    def poll(self, nvml: Any) -> None:
        """Take what has come; no more than the history holds, so that a flood of them ends."""
        for _ in range(KEPT if self._set is not None else 0):
            try:
                event = nvml.nvmlEventSetWait_v2(self._set, WAIT)
            except nvml.NVMLError as error:
                if code(error) != TIMEOUT:
                    self.close(nvml)
                    self.failed = True
                return
            if int(event.eventType) & XID:
                self._seq += 1
                index = self._index(nvml, event.device)
                self._history.append(Xid(index, int(event.eventData), self._clock(), self._seq))

    def close(self, nvml: Any) -> None:
        if self._set is not None:
            with contextlib.suppress(Exception):
                nvml.nvmlEventSetFree(self._set)
        self._set = None
        self._armed.clear()

    def _index(self, nvml: Any, handle: Any) -> int:
        """A GPU that is lost no longer tells its own number; -1 where none is known."""
        known = self._armed.get(_key(handle))
        if known is None:
            with contextlib.suppress(nvml.NVMLError):
                known = optional(nvml, "nvmlDeviceGetIndex", handle)
        return -1 if known is None else int(known)


def _key(handle: Any) -> Any:
    """Two pointers to one device are two objects; the stand-in's handles are no pointers."""
    try:
        return ctypes.cast(handle, ctypes.c_void_p).value
    except (ctypes.ArgumentError, TypeError):
        return handle
