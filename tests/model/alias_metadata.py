"""Gives a venv the distribution metadata of NAME, copied from DISTRIBUTION: vLLM asks for that of `vllm` by name.

usage: alias_metadata.py DISTRIBUTION NAME VERSION        (run by the interpreter of the venv)
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path


def alias(source: str, name: str, version: str) -> Path:
    original = Path(
        str(distribution(source).locate_file(f"{source.replace('-', '_')}-{distribution(source).version}.dist-info"))
    )
    copy = original.with_name(f"{name}-{version.split('+')[0]}.dist-info")
    shutil.copytree(original, copy, dirs_exist_ok=True)
    metadata = copy / "METADATA"
    text = re.sub(r"(?m)^Name: .*$", f"Name: {name}", metadata.read_text(), count=1)
    metadata.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", text, count=1))
    (copy / "RECORD").unlink(missing_ok=True)
    return copy


if __name__ == "__main__":
    print(alias(*sys.argv[1:4]))
