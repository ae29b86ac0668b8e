"""The ModelFiles port: directories with a model's weights, read in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from agentd.ports_models import CheckedFiles

PATTERNS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.pth")


class WeightFiles:
    async def weights(self, path: str) -> int:
        return await asyncio.to_thread(_size, path)

    async def check(self, path: str, *, checksums: bool = False) -> CheckedFiles:
        del checksums
        return CheckedFiles(0, await self.weights(path))

    async def warm(self, path: str, limit: int, told: Callable[[int, int], None]) -> int:
        del path, limit, told
        return 0


def _size(path: str) -> int:
    total = 0
    for pattern in PATTERNS:
        for file in Path(path).glob(pattern):
            try:
                total += file.stat().st_size
            except OSError:
                continue
    return total
