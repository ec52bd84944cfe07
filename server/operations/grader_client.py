"""Sends the requests of graders to this server's models: in process, through the gateway.

They are authenticated, resolved, scheduled and metered like all requests.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from adapters.errors import AdapterNotFound, PatchbayError
from server.access.caller import Caller
from server.engine.protocol import ASGIApp, Demand, EngineGone, ScoringUnsupported
from server.errors import RouteUnsupported
from server.gateway.inference_routes import needs
from server.gateway.resolve import resolve
from server.state import AppState
from trainer.graders.models import GraderAnswer, NotAnswered, Question, Rewarded, Usage
from trainer.graders.python_processes import PythonProcesses
from trainer.graders.schema_checks import SchemaChecks
from trainer.reward_tokens import reward_tokens
from trainer.training_method import TrainingMethod

_CHAT: Final = "/v1/chat/completions"
_EMBEDDINGS: Final = "/v1/embeddings"
_TOKENIZE: Final = "/tokenize"

Post = Callable[[str, Mapping[str, Any]], Awaitable[httpx.Response]]
"""Sends a body to a path; the body names the model."""


def as_caller(app: ASGIApp, headers: Mapping[str, str]) -> Post:
    """Return a function that posts at once; ``headers`` carry the caller's secret and the request's id."""

    async def post(path: str, body: Mapping[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
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
    is_deferred: bool = False
    """Whether its requests wait behind those of others."""

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

    async def check_reward(self, model: str) -> None:
        running, registry = self.state.engine.serving(), self.state.registry
        if _TOKENIZE not in running.engine.paths:
            raise RouteUnsupported(f"no model of this server gives rewards; that takes {needs(_CHAT)}")
        version = await registry.look_up(lambda catalog: resolve(model, catalog, running.info, self.caller))
        if (await registry.report(version)).get("training", {}).get("method") != TrainingMethod.REWARD:
            raise AdapterNotFound(f"{version.name} is no reward model: name what a job of the method 'reward' made")

    async def reward(
        self, model: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rewarded:
        """The reward is the log-odds of "yes" against "no" after the conversation: see ``trainer.reward_tokens``."""
        conversation = {"messages": messages, "add_generation_prompt": False, **({"tools": tools} if tools else {})}
        hooks = self.state.hooks
        try:
            await self.check_reward(model)
            prompt = (await self._post(_TOKENIZE, {"model": model, **conversation}))["tokens"]
            with hooks.request(self.caller, is_deferred=self.is_deferred) as context:
                resident = await hooks.resolve(model)
                async with hooks.generation(resident, Demand(len(prompt), 1)) as generation:
                    engine = self.state.engine.serving().engine
                    better, worse = await engine.next_logprobs(resident, prompt, reward_tokens(engine.encode))
                    generation.prompt_tokens = len(prompt)
                context.status = httpx.codes.OK
        except (PatchbayError, EngineGone, ScoringUnsupported, ValueError) as refused:
            raise NotAnswered(str(refused)) from refused
        return Rewarded(resident.name, better - worse, Usage(len(prompt)))

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
