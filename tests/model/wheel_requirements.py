"""Prints what a wheel requires on this interpreter, without the packages that have no CPU build.

usage: wheel_requirements.py WHEEL        (run by the interpreter of the venv to fill)
"""

from __future__ import annotations

import sys
import zipfile
from email.parser import Parser

from pip._vendor.packaging.requirements import Requirement

WITHOUT = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})
"""torch is installed already; the others are for images and sound, which the tiny models do not have."""


def requirements(wheel: str) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    return [
        str(r)
        for r in wanted
        if r.name.lower() not in WITHOUT and (r.marker is None or r.marker.evaluate({"extra": ""}))
    ]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
