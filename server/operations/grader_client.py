"""Sends the requests of graders to this server's models: in process, through the gateway.

They are authenticated with the key or token of the grader's caller, resolved, scheduled and metered like all requests.
"""

from collections.abc import Mapping, Sequence
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
from trainer.graders.python_processes import PythonProcesses
from trainer.graders.schema_checks import SchemaChecks

_CHAT: Final = "/v1/chat/completions"
_EMBEDDINGS: Final = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class GraderClient:
    """Implements ``trainer.graders.models.Models``; ``headers`` carry the caller's secret and the request's id."""

    state: AppState
    gateway: Gateway
    caller: Caller
    headers: Mapping[str, str]

    @property
    def project(self) -> str:
        return self.caller.project

    @property
    def python(self) -> PythonProcesses:
        return self.state.graders.python

    @property
    def schemas(self) -> SchemaChecks:
        return self.state.graders.schemas

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
        usage = response.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return GraderAnswer(
            model=response["model"],
            text=message.get("content") or "",
            refusal=message.get("refusal"),
            usage=Usage(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), cached),
        )

    @property
    def can_embed(self) -> bool:
        return _EMBEDDINGS in self.state.engine.serving().engine.paths

    async def embed(self, *texts: str) -> Sequence[Sequence[float]]:
        """The base model makes the vectors."""
        response = await self._post(_EMBEDDINGS, {"model": self.state.engine.served_names[0], "input": texts})
        return [each["embedding"] for each in sorted(response["data"], key=lambda each: int(each["index"]))]

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        transport = httpx.ASGITransport(self.gateway, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=self.headers, trust_env=False
        ) as client:
            response = await client.post(path, json=body)
        if response.status_code != httpx.codes.OK:
            raise NotAnswered(_reason(response))
        return response.json()


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):  # the engine died within the response
        return f"the engine ended the response with status {response.status_code}; try again"
