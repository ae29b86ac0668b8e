"""providers.yaml and ports.yaml."""

from __future__ import annotations

from agentd.core.gateway.model import Kind, Port, Provider
from agentd.core.gateway.read_base import Problems, names, whole
from agentd.core.gateway.read_fields import Fields
from agentd.core.gateway.tree import Node

STATUS = ("enabled", "disabled")
PROVIDER_FIELDS = ("kind", "api", "base_url", "port", "status", "key", "service", "params")
PORT_FIELDS = ("port", "host", "unit")
DEFAULT_API = {Kind.VLLM: "hosted_vllm", Kind.LOCAL: "openai", Kind.CLOUD: ""}
WITHOUT_V1 = ("ollama", "ollama_chat")
"""These APIs begin at the root of the server."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}
"""Where a server listens, and where it is reached."""


def read_ports(problems: Problems, node: Node) -> tuple[Port, ...]:
    """`node`: what stands below `ports:`."""
    return tuple(
        port for name, key, value in names(problems, node, "ports", "port")
        if (port := _port(problems, name, key, value)) is not None
    )  # fmt: skip


def _port(problems: Problems, name: str, key: Node, value: Node) -> Port | None:
    what = f'port "{name}"'
    if value.kind != "mapping":
        number = whole(problems, value, what, 1, 65535)
        return None if number is None else Port(name, number, value.place)
    fields = Fields(problems, value, what, PORT_FIELDS)
    number = fields.whole("port", 1, 65535)
    if number is None:
        if fields.node_of("port") is None:
            fields.missing(key.place, "port", "add port: NUMBER, or write NAME: NUMBER")
        return None
    return Port(name, number, fields.places["port"], fields.text("host", "127.0.0.1"), fields.text("unit"))


def read_providers(problems: Problems, node: Node, ports: tuple[Port, ...]) -> tuple[Provider, ...]:
    """`node`: what stands below `providers:`. One without a usable kind is still there, so that references to it are
    not reported as well."""
    by_name = {port.name: port for port in ports}
    return tuple(
        _provider(problems, name, key, value, by_name)
        for name, key, value in names(problems, node, "providers", "provider")
    )


def _provider(problems: Problems, name: str, key: Node, value: Node, ports: dict[str, Port]) -> Provider:
    fields = Fields(problems, value, f'provider "{name}"', PROVIDER_FIELDS)
    kind = Kind(fields.choice("kind", [k.value for k in Kind], Kind.LOCAL.value))
    known_kind = fields.node_of("kind") is not None
    if not known_kind:
        fields.missing(key.place, "kind", f"add kind: {', '.join(Kind)}".replace(", ", " or "))
    api = fields.text("api")
    if not api and known_kind and kind is Kind.CLOUD:
        fields.missing(
            key.place, "api", "add api: with LiteLLM's name of the provider, for instance openai or anthropic"
        )
    api = api or DEFAULT_API[kind]
    port = _port_name(fields)
    return Provider(
        name, kind, key.place, api, _address(fields, key, kind, api, port, ports),
        enabled=fields.choice("status", STATUS, STATUS[0]) == STATUS[0],
        key=fields.variable("key"), port=port, service=fields.text("service"),
        params=fields.free("params"), places=fields.places,
    )  # fmt: skip


def _port_name(fields: Fields) -> str:
    node = fields.node_of("port")
    if node is None or not isinstance(node.value, int) or isinstance(node.value, bool):
        return fields.text("port")
    fix = f"add NAME: {node.value} to ports.yaml and write its NAME here, or write base_url: instead"
    fields.problems.wrong_type(node, f"port of {fields.what}", "a name of ports.yaml", fix)
    return ""


def _address(fields: Fields, key: Node, kind: Kind, api: str, port: str, ports: dict[str, Port]) -> str:
    """Empty when there is none, or it cannot be told."""
    written, node = fields.text("base_url"), fields.node_of("port")
    if "base_url" not in fields and "port" not in fields and kind is not Kind.CLOUD:
        fix = "add base_url: http://HOST:PORT/v1, or port: with a name of ports.yaml"
        fields.missing(key.place, "base_url or port", fix)
    if written and node is not None:
        fields.bad(node, f"{fields.what} has both base_url and port", "keep one of the two")
    return written or (url_of(ports[port], api) if port in ports else "")


def url_of(port: Port, api: str) -> str:
    """Where clients on this machine reach it."""
    host = _EVERYWHERE.get(port.host, port.host)
    address = f"[{host}]" if ":" in host else host
    return f"http://{address}:{port.number}{'' if api in WITHOUT_V1 else '/v1'}"
