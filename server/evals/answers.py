"""The answers that a run grades: asked of a model, or given by the data source; in OpenAI's form of a sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from server.operations.grader_client import reason_of, usage_of
from trainer.evals.data_source import CompletionsSource, RunSampling
from trainer.graders.models import Usage

CHAT: Final = "/v1/chat/completions"
_ECHOED: Final = ("max_completion_tokens", "seed", "temperature", "top_p")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an item."""

    text: str
    sample: Mapping[str, Any]
    """OpenAI's object; parameters that the run leaves to the model are null."""
    usage: Mapping[str, Mapping[str, int]]
    """Tokens by model."""

    @property
    def has_failed(self) -> bool:
        return self.sample["error"] is not None


def body_for(source: CompletionsSource, model: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request to ``model`` about ``item``; raises Ungraded as ``CompletionsSource.messages``."""
    return {
        "model": model,
        "messages": source.messages(item),
        **source.sampling_params.model_dump(exclude_none=True),
    }


def answer_of_source(answer: Mapping[str, Any] | None) -> Answer:
    """Return the answer that the data source has; one without text where it has none."""
    if answer is None:
        return Answer("", _sample(), {})
    text = answer["output_text"]
    return Answer(text, _sample(model=answer.get("model", ""), output=[_message("assistant", text)]), {})


def answer_in(response: httpx.Response, body: Mapping[str, Any], params: RunSampling) -> Answer:
    """Return the answer in the response to ``body``; the reason where there is none."""
    shared = {"input": _shown(body["messages"]), **{name: getattr(params, name) for name in _ECHOED}}
    try:
        content = response.raise_for_status().json()
        choice = content["choices"][0]
    except (httpx.HTTPStatusError, ValueError, LookupError):  # the last two: the engine died within the response
        return failed(f"status_{response.status_code}", reason_of(response), model=body["model"], **shared)
    text, usage = choice["message"].get("content") or "", usage_of(content)
    sample = _sample(
        model=content["model"],
        finish_reason=choice.get("finish_reason") or "",
        output=[_message(choice["message"].get("role", "assistant"), text)],
        usage=counts(usage),
        **shared,
    )
    return Answer(text, sample, {content["model"]: {"invocation_count": 1, **counts(usage)}})


def failed(code: str, message: str, **fields: Any) -> Answer:
    """Return the answer that did not come, with the reason."""
    return Answer("", _sample(error={"code": code, "message": message}, **fields), {})


def counts(usage: Usage) -> dict[str, int]:
    """Return ``usage`` as OpenAI's evals count it."""
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "total_tokens")
    return {name: getattr(usage, name) for name in names}


def _sample(**fields: Any) -> dict[str, Any]:
    return {
        "error": None,
        "finish_reason": "",
        "input": [],
        "model": "",
        "output": [],
        "usage": counts(Usage()),
        **dict.fromkeys(_ECHOED),
        **fields,
    }


def _shown(messages: Sequence[Any]) -> list[dict[str, str]]:
    """Return ``messages`` with text alone: other content as JSON."""
    return [_message(each["role"], each.get("content")) for each in messages]


def _message(role: str, content: Any) -> dict[str, str]:
    return {"role": role, "content": content if isinstance(content, str) else json.dumps(content)}
