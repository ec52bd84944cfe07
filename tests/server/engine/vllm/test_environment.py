"""vLLM's processes load our patches, also where the operator chose vLLM's plugins."""

from __future__ import annotations

import pytest

from server.engine.vllm import environment


@pytest.mark.parametrize(
    ("chosen", "loaded"), [("", "patchbay"), ("other", "other,patchbay"), ("patchbay,other", "patchbay,other")]
)
def test_a_list_of_plugins_gets_ours(monkeypatch: pytest.MonkeyPatch, chosen: str, loaded: str) -> None:
    monkeypatch.setattr("os.environ", {"VLLM_PLUGINS": chosen})
    environment.prepare()
    environment.prepare()
    assert environment.current()["VLLM_PLUGINS"] == loaded


def test_without_a_list_vllm_loads_all_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {})
    environment.prepare()
    assert "VLLM_PLUGINS" not in environment.current()
