"""The header of the generated file: read back, and telling an edit by hand and an old file."""

from __future__ import annotations

import pytest
from gatewaycatalogs import INSTALL, catalog, model

import agentd
from agentd.core.gateway.document import render
from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.header import edited, parse_header, stale
from agentd.core.gateway.install import NOT_INSTALLED
from agentd.core.gateway.model import Catalog

DIGESTS = {"providers.yaml": "a" * 64, "ports.yaml": "b" * 64, "model-mappings.yaml": "c" * 64}


def rendered(catalog: Catalog) -> Rendered:
    return render(catalog, INSTALL, {}, DIGESTS)


def test_the_header_is_read_back() -> None:
    made = rendered(catalog(model("a")))
    header = parse_header(made.text)
    assert header is not None
    assert (header.digest, header.version, header.litellm) == (made.digest, agentd.__version__, "1.106.2")
    assert header.sources == DIGESTS
    assert not edited(made.text)
    assert edited(made.text.replace("num_retries: 2", "num_retries: 3"))
    assert edited(made.text + "\n")


def test_a_changed_header_is_no_edit_of_the_config() -> None:
    made = rendered(catalog(model("a")))
    assert not edited(made.text.replace("# source: ports.yaml", "# a word\n# source: ports.yaml"))


@pytest.mark.parametrize("text", ["", "model_list: []\n", "# digest: nothing\nmodel_list: []\n"])
def test_a_file_that_is_not_ours_has_no_header(text: str) -> None:
    assert parse_header(text) is None
    assert not edited(text)


def test_which_sources_changed() -> None:
    text = rendered(catalog(model("a"))).text
    assert stale(text, DIGESTS) == ()
    assert stale(text, {**DIGESTS, "ports.yaml": "d" * 64}) == ("ports.yaml",)
    assert stale("model_list: []\n", {"ports.yaml": "d" * 64}) == ("ports.yaml",)


def test_without_litellm_the_version_is_unknown() -> None:
    header = parse_header(render(catalog(model("a")), NOT_INSTALLED, {}, {}).text)
    assert header is not None
    assert header.litellm == ""
