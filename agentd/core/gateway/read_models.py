"""The models of model-mappings.yaml."""

from __future__ import annotations

from agentd.core.gateway.model import Absent, Deployment, Limits, Model
from agentd.core.gateway.read_base import Problems, names
from agentd.core.gateway.read_fields import Fields
from agentd.core.gateway.read_providers import STATUS
from agentd.core.gateway.tree import Node

MODEL_FIELDS = (
    "provider", "model", "deployments", "params", "limits", "aliases", "capabilities", "fallbacks", "context_fallbacks",
    "status", "when_absent", "timeouts", "info",
)  # fmt: skip
DEPLOYMENT_FIELDS = ("provider", "model", "limits", "params")
CAPABILITIES = ("chat", "completion", "embedding", "vision", "tools", "json", "audio", "rerank", "image")
_PAIR = "add provider: and model:, or a list of deployments:"


def read_models(problems: Problems, node: Node) -> tuple[Model, ...]:
    """`node`: what stands below `models:`. A model without a usable deployment is left out."""
    found = (_model(problems, name, key, value) for name, key, value in names(problems, node, "models", "model"))
    return tuple(model for model in found if model is not None)


def _model(problems: Problems, name: str, key: Node, value: Node) -> Model | None:
    fields = Fields(problems, value, f'model "{name}"', MODEL_FIELDS)
    timeouts = fields.sub("timeouts", ("try", "silence"))
    # Everything is read before anything is dropped, so that every error is told.
    model = Model(
        name, key.place, _deployments(fields, key),
        aliases=fields.words("aliases", "model"),
        capabilities=fields.words("capabilities", "capability", CAPABILITIES),
        fallbacks=fields.words("fallbacks", "model"),
        context_fallbacks=fields.words("context_fallbacks", "model"),
        enabled=fields.choice("status", STATUS, STATUS[0]) == STATUS[0],
        when_absent=Absent(fields.choice("when_absent", [a.value for a in Absent], Absent.FALLBACK.value)),
        try_timeout=timeouts.seconds("try"), silence_timeout=timeouts.seconds("silence"),
        info=fields.free("info"), places=fields.places,
    )  # fmt: skip
    return model if model.deployments else None


def _deployments(fields: Fields, key: Node) -> tuple[Deployment, ...]:
    common = limits_of(fields), dict(fields.free("params"))
    node = fields.node_of("deployments")
    if node is None:
        if "deployments" in fields and "provider" not in fields:
            fields.missing(key.place, "deployments", _PAIR)
        elif "provider" not in fields and "model" not in fields:
            fields.missing(key.place, "provider", _PAIR)
        else:
            return _short(fields, key, *common)
        return ()
    for name in ("provider", "model"):
        short = fields.node_of(name)
        if short is not None:
            fields.bad(short, f"{fields.what} has both {name} and deployments", f"move {name} into the deployments")
    if node.kind != "list":
        fields.problems.wrong_type(
            node, f"deployments of {fields.what}", "a list", "begin each with a dash: - provider: NAME"
        )
    elif not node.items:
        fields.bad(node, f"deployments of {fields.what} is empty", _PAIR)
    found = (_deployment(fields, number, item, *common) for number, item in enumerate(node.items))
    return tuple(deployment for deployment in found if deployment is not None)


def _short(fields: Fields, key: Node, limits: Limits, params: dict[str, object]) -> tuple[Deployment, ...]:
    """provider: and model: of the model itself."""
    pair = _pair(fields, key)
    for name in DEPLOYMENT_FIELDS[:2]:
        if name in fields.places:
            fields.places[f"deployments.0.{name}"] = fields.places[name]
    return (Deployment(*pair, fields.places["provider"], limits, params),) if pair else ()


def _deployment(model: Fields, number: int, item: Node, limits: Limits, params: dict[str, object]) -> Deployment | None:
    """`limits` and `params`: the model's, which hold where the deployment says nothing else."""
    what = f"deployment {number + 1} of {model.what}"
    fields = Fields(model.problems, item, what, DEPLOYMENT_FIELDS, places=model.places, prefix=f"deployments.{number}.")
    own = limits_of(fields)
    merged = Limits(limits.rpm if own.rpm is None else own.rpm, limits.tpm if own.tpm is None else own.tpm)
    every = {**params, **fields.free("params")}
    pair = _pair(fields, item)
    return Deployment(*pair, item.place, merged, every) if pair else None


def _pair(fields: Fields, key: Node) -> tuple[str, str] | None:
    provider, model = fields.text("provider"), fields.text("model")
    for name, value in (("provider", provider), ("model", model)):
        if not value and fields.node_of(name) is None:
            fields.missing(key.place, name, f"add {name}:")
    return (provider, model) if provider and model else None


def limits_of(fields: Fields, name: str = "limits") -> Limits:
    inner = fields.sub(name, ("rpm", "tpm"))
    return Limits(inner.whole("rpm", 0), inner.whole("tpm", 0))
