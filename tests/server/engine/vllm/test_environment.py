"""Variables of vLLM: those that patchbay sets, and those that would work against it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import vllm.entrypoints
from vllm.envs import environment_variables

from server.engine.protocol import StartRefused
from server.engine.vllm import environment
from server.engine.vllm.builder import VllmBuilder


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


UNCHANGED = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",  # set by patchbay
    "VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE",
    "VLLM_DISABLE_LOG_LOGO",
    "VLLM_ENFORCE_STRICT_TOOL_CALLING",
    "VLLM_GPT_OSS_HARMONY_SYSTEM_INSTRUCTIONS",
    "VLLM_GPT_OSS_SYSTEM_TOOL_MCP_LABELS",
    "VLLM_LOG_STATS_INTERVAL",
    "VLLM_MAX_AUDIO_CLIP_FILESIZE_MB",
    "VLLM_MAX_AUDIO_DECODE_BYTES",
    "VLLM_MAX_AUDIO_DECODE_DURATION_S",
    "VLLM_MAX_AUDIO_PREPROCESS_WORKERS",
    "VLLM_MAX_COMPLETION_PROMPTS",
    "VLLM_MAX_N_SEQUENCES",
    "VLLM_MAX_STOP_STRINGS",
    "VLLM_MEDIA_CONNECTOR",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS",
    "VLLM_RUST_FRONTEND_PATH",  # read with VLLM_USE_RUST_FRONTEND alone
    "VLLM_SYSTEM_START_DATE",
    "VLLM_TOOL_JSON_ERROR_AUTOMATIC_RETRY",
    "VLLM_TOOL_PARSE_REGEX_TIMEOUT_SECONDS",
    "VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT",
    "VLLM_USE_RUST_BENCH",  # read by `vllm bench` alone
    "VLLM_VIDEO_FETCH_TIMEOUT",
}
"""Variables that vLLM's HTTP server reads, and that mean here what they mean there."""


def test_there_is_a_decision_for_each_variable_that_vllm_s_http_server_reads() -> None:
    root = Path(vllm.entrypoints.__file__).parent
    folders = (root, root.parent / "renderers", root.parent / "tool_parsers", root.parent / "parser")
    sources = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    read = {name for source in sources for name in re.findall(r"envs\.(VLLM_[A-Z0-9_]+)", source)}
    assert read - environment.REFUSED.keys() - UNCHANGED == set(), "decide whether it may be set, and say so"
    assert UNCHANGED - read == set(), "vLLM reads it no more"
    assert environment.REFUSED.keys() - environment_variables.keys() == set(), "vLLM knows it no more"


@pytest.mark.parametrize("name", environment.REFUSED)
async def test_a_variable_that_would_work_against_patchbay_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for value in ("", "0", "False"):
        assert environment.refusals({name: value}) == []
    monkeypatch.setenv(name, "1")
    with pytest.raises(StartRefused, match=f"unset {name}: "):
        await VllmBuilder("nowhere", (), capacity=2).info()


def test_all_such_variables_are_named_at_once() -> None:
    assert len(environment.refusals(dict.fromkeys(environment.REFUSED, "yes"))) == len(environment.REFUSED)
