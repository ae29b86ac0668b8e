"""The tables of LiteLLM's settings, beside the source of the LiteLLM that the tests use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from agentd.core.gateway import known_keys

ROOT = Path(__file__).resolve().parents[2]
(SOURCE,) = (ROOT / ".cache/litellm-venv/lib").glob("python3*/site-packages/litellm")
_SETTING = re.compile(r"(?!.*_models$)[a-z][a-z0-9_]*")
INTERNAL = {
    *("aclient_session", "adapters", "azure_llms", "client_session", "config_path", "credential_list", "email"),
    *("guardrail_name_config_map", "headers", "in_memory_llm_clients_cache", "initialized_langfuse_clients", "logging"),
    *("model_cost", "model_list", "model_list_set", "models_by_provider", "prompt_name_config_map", "token"),
    *("secret_manager_client", "use_client", "vector_store_index_registry", "vector_store_registry"),
}
"""Attributes of the module that hold its state."""


def attributes(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module assigns, also below `if` and `try`."""
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Try) or (isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)):
            yield from attributes(node.body)


def test_every_attribute_of_the_module_is_known() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    names = {name for name in attributes(tree.body) if _SETTING.fullmatch(name)}
    assert names - INTERNAL <= known_keys.LITELLM_SETTINGS
    assert not known_keys.LITELLM_SETTINGS & INTERNAL


def test_every_field_of_the_general_settings_is_known() -> None:
    tree = ast.parse((SOURCE / "proxy/_types.py").read_text())
    (general,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "ConfigGeneralSettings")
    assert set(attributes(general.body)) <= known_keys.GENERAL_SETTINGS


def test_what_the_proxy_looks_up_is_known() -> None:
    text = (SOURCE / "proxy/proxy_server.py").read_text()
    assert set(re.findall(r'\bgeneral_settings\.get\(\s*"(\w+)"', text)) <= known_keys.GENERAL_SETTINGS
    assert set(re.findall(r'\blitellm_settings\.get\(\s*"(\w+)"', text)) <= known_keys.LITELLM_SETTINGS
    loop = text[text.index("for key, value in litellm_settings.items()") : text.index("## GENERAL SERVER SETTINGS")]
    assert set(re.findall(r'key == "(\w+)"', loop)) <= known_keys.LITELLM_SETTINGS
