"""agentd: a system agent for people who serve language models from their own Linux machine."""

__version__ = "0.1.0"
