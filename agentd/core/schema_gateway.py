"""The shape of the configuration, continued: the LiteLLM gateway, its sources, its generated file and its keys."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from agentd.core.schema_types import Count, FilePath, Positive, Seconds, SecretFile


class GatewayPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """Which service is the gateway follows from its role; without such a service only the commands work."""

    mode: Literal["enforce", "report"] = "enforce"
    """"report" never writes or restarts by itself; commands still act."""
    sources: FilePath = "~/.config/agentd/gateway"
    """The directory of providers.yaml, ports.yaml and model-mappings.yaml."""
    config: FilePath = "~/.config/litellm/litellm-unified.yaml"
    """The generated file, which LiteLLM reads."""
    env_file: SecretFile = "~/.config/agentd/litellm.env"
    """LITELLM_MASTER_KEY=... and the providers' keys, mode 0600; the unit's EnvironmentFile=."""
    client_env_files: tuple[FilePath, ...] = ()
    """Files of clients that must hold the same key."""
    executable: FilePath = ""
    """The litellm program; "" for the one of the unit, else of PATH."""
    apply: Literal["blue-green", "restart"] = "blue-green"
    """"blue-green": a standby serves while the gateway restarts; needs litellm.socket."""
    check: bool = True
    """Start a new config on a spare port before it is applied."""
    start_timeout: Positive = Seconds(180.0)
    """Importing LiteLLM takes 10 to 60 seconds."""
    drain_timeout: Positive = Seconds(40.0)
    keep: Count = 10
    """Earlier generated files kept for a rollback."""
    check_every: Annotated[Seconds, Meta(ge=5)] = Seconds(15.0)
