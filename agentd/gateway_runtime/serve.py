"""The program: `PYTHON serve.py --config FILE ...`, with LiteLLM's interpreter.

It loads its siblings as a package under a name of their own. Their folder must not be on the path: its short names
(`hook`, `server`) would stand before those of LiteLLM and its plugins.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGE = "agentd_gateway_runtime"


def load(folder: Path) -> None:
    """Make the folder importable as the package PACKAGE."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(3)
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def main() -> int:
    folder = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != folder]
    load(folder)
    run = importlib.import_module(f"{PACKAGE}.running").run
    return int(run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
