"""`python -m agentd.sandbox`: the same as `agentctl sandbox`."""

from __future__ import annotations

import argparse
import sys

from agentd.sandbox.command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="agentctl sandbox")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
