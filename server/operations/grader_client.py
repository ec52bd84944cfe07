"""Sends the requests of graders to this server's models: in process, through the gateway.

They are authenticated, resolved, scheduled and metered like all requests.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from server.access.caller import Caller
from server.errors import RouteUnsupported
from server.gateway.gateway import Gateway
from server.gateway.inference_routes import needs
from server.gateway.resolve import resolve
from server.state import AppState
from trainer.graders.models import GraderAnswer, NotAnswered, Question, Usage

_CHAT: Final = "/v1/chat/completions"
_EMBEDDINGS: Final = "/v1/embeddings"

Post = Callable[[str, Mapping[str, Any]], Awaitable[httpx.Response]]
"""Sends a body to a path; the body names the model."""


def as_caller(gateway: Gateway, headers: Mapping[str, str]) -> Post:
    """Return a function that posts at once; ``headers`` carry the caller's secret and the request's id."""

    async def post(path: str, body: Mapping[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(gateway, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers, trust_env=False
        ) as client:
            return await client.post(path, json=body)

    return post


@dataclass(frozen=True, slots=True)
class GraderClient:
    """Implements ``trainer.graders.models.Models``; ``post`` sends the requests for ``caller``."""

    state: AppState
    caller: Caller
    post: Post

    def check(self, model: str) -> None:
        running = self.state.engine.serving()
        if _CHAT not in running.engine.paths:
            raise RouteUnsupported(f"no model of this server can grade; that takes {needs(_CHAT)}")
        if model not in running.info.served_names:
            resolve(model, self.state.registry.catalog, running.info, self.caller)

    async def ask(self, question: Question) -> GraderAnswer:
        body = {
            "model": question.model,
            "messages": question.messages,
            "structured_outputs": {"regex": question.pattern},  # vLLM's field
            **question.sampling,
        }
        response = await self._post(_CHAT, body)
        message = response["choices"][0]["message"]
        return GraderAnswer(
            model=response["model"],
            text=message.get("content") or "",
            refusal=message.get("refusal"),
            usage=usage_of(response),
        )

    @property
    def can_embed(self) -> bool:
        return _EMBEDDINGS in self.state.engine.serving().engine.paths

    async def embed(self, *texts: str) -> Sequence[Sequence[float]]:
        """The base model makes the vectors."""
        response = await self._post(_EMBEDDINGS, {"model": self.state.engine.served_names[0], "input": texts})
        return [each["embedding"] for each in sorted(response["data"], key=lambda each: int(each["index"]))]

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        response = await self.post(path, body)
        if response.status_code != httpx.codes.OK:
            raise NotAnswered(reason_of(response))
        return response.json()


def usage_of(response: Mapping[str, Any]) -> Usage:
    """Return the tokens of an answer of ``/v1/chat/completions``."""
    usage = response.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), cached)


def reason_of(response: httpx.Response) -> str:
    """Return why a request was refused."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):  # the engine died within the response
        return f"the engine ended the response with status {response.status_code}; try again"
