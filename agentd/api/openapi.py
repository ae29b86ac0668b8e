"""The OpenAPI 3.1 description, made from the route table and the dataclasses: it cannot disagree with them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from agentd.api.access import Access
from agentd.api.decode import CHOICES, INTERNAL
from agentd.api.routes import Answer, Route
from agentd.wire import shown

Schema = dict[str, Any]
_PRIMITIVES: Mapping[object, str] = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}
_PARAMETER = re.compile(r"\{(\w+)(?::([^}]+))?\}")

PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457 problem details; `kind` is a stable slug",
    "required": ["type", "title", "status", "detail", "kind"],
    "properties": {name: {"type": "string"} for name in ("type", "title", "detail", "kind", "hint", "change")}
    | {"status": {"type": "integer"}, "problems": {"type": "array", "items": {"type": "string"}}},
}


def describe(routes: Sequence[Route], version: str) -> Schema:
    schemas: dict[str, Schema] = {"Problem": PROBLEM}
    paths: dict[str, Schema] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentd", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(route: Route, schemas: dict[str, Schema]) -> Schema:
    problem = {"content": {"application/problem+json": {"schema": _ref("Problem")}}}
    operation: Schema = {
        "summary": route.summary,
        "x-access": route.access.value,
        "parameters": _parameters(route),
        "responses": {
            str(route.answer.status): {"description": "success", "content": _content(route.answer, schemas)},
            "default": {"description": "problem", **problem},
        },
    }
    if route.access is not Access.PUBLIC:
        operation["description"] = "only over the unix socket, for its owner and root"
    if route.body is not None:
        content = {"application/json": {"schema": _schema(route.body, schemas)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(route: Route) -> list[Schema]:
    found: list[Schema] = []
    for name, pattern in _PARAMETER.findall(route.path):
        schema: Schema = {"type": "string"} | ({"enum": pattern.split("|")} if pattern else {})
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found + [{"name": name, "in": "query", "schema": {"type": "string"}} for name in route.query]


def _content(answer: Answer, schemas: dict[str, Schema]) -> Schema:
    schema: Schema = {"type": "object"} if answer.media == "application/json" else {"type": "string"}
    if answer.schema is not None:
        schema = _schema(answer.schema, schemas)
    if answer.many:
        schema = {"type": "array", "items": schema}
    if answer.field:
        schema = {"type": "object", "required": [answer.field], "properties": {answer.field: schema}}
    return {answer.media: {"schema": schema}}


def _schema(hint: Any, schemas: dict[str, Schema]) -> Schema:
    if hint in _PRIMITIVES:
        return {"type": _PRIMITIVES[hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(a, schemas) for a in arguments]}
    if origin in (tuple, list, frozenset):
        return {"type": "array", "items": _schema(arguments[0], schemas)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], schemas)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"type": "string", "enum": [member.value for member in hint]}
    if dataclasses.is_dataclass(hint):
        return _object(hint, schemas)
    raise TypeError(f"no schema for {hint!r}")


def _object(cls: Any, schemas: dict[str, Schema]) -> Schema:
    name = cls.__name__
    if name not in schemas:
        request = name.endswith("Request")
        schemas[name] = {}  # set before the fields: a type may hold itself
        names = shown(cls)
        fields = [f for f in dataclasses.fields(cls) if f.name in names and not (request and f.name in INTERNAL)]
        hints = get_type_hints(cls)
        properties = {f.name: _schema(hints[f.name], schemas) for f in fields}
        for field in set(properties) & set(CHOICES):
            properties[field] = {"anyOf": [{"enum": list(CHOICES[field])}, {"type": "null"}]}
        required = [f.name for f in fields if not request or f.default is dataclasses.MISSING]
        schemas[name] = {"type": "object", "required": required, "properties": properties}
        if request:
            schemas[name]["additionalProperties"] = False
    return _ref(name)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
