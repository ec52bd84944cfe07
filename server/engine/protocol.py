"""The seam to whatever generates. vLLM is one engine, ``server.engine.fake`` another; one contract suite holds both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapters.base_model import BaseModel

ASGIApp = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Resident:
    """A version as the engine knows it. The three together are its identity: none is ever reused for other bytes.

    A reused ``id`` makes vLLM serve the old weights silently; a reused (``name``, ``path``) hits stale prefix cache.
    """

    id: int
    """The registry's version id: positive, unique over all adapters, never reused."""
    name: str
    """``sql@7``"""
    path: Path
    """Read-only directory named by the digest of what it holds."""


class LoadFailed(Exception):
    """The engine refused an adapter's bytes. The engine is unharmed and holds nothing of them."""


class EngineGone(Exception):
    """The engine died while it was asked something."""


class ComputedNaN(Exception):
    """The model's arithmetic broke down while it generated under an adapter: its logits are no numbers."""


class ScoringUnsupported(Exception):
    """The base model generates no text (it embeds, say), so that no token has a probability."""


class StartRefused(Exception):
    """The engine cannot be started as asked: a wrong flag, a model that is not there. Trying again will not help."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What an engine computes in one step."""

    sequences: int
    """Texts that it writes at once."""
    tokens: int
    """That it reads and writes in all."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one generation asks of an engine."""

    prompt_tokens: int = 0
    most_tokens: int = 0
    """That each of its texts may have."""
    sequences: int = 1
    """Texts that it is to write."""


def _unwatched() -> None:
    """Nobody wants to know."""


def _unknown() -> bool:
    """Nobody says so."""
    return False


@dataclass(slots=True)
class Generation:
    """One running generation, as the meter sees it; the engine fills it in. Durations in seconds."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_token_s: float | None = None
    """From the engine's taking the request up to the first token."""
    inter_token_s: float | None = None
    """Mean time between tokens."""
    queue_s: float | None = None
    """Wait in the engine's own queue."""
    prompt_is_read: Callable[[], None] = _unwatched
    """The engine calls it once, with the first that it writes."""
    is_over: Callable[[], bool] = _unknown
    """Tells whether the engine is done with it, though its caller has not read everything yet."""


class EngineHooks(Protocol):
    """What an engine asks of the gateway while it serves a request."""

    async def choose(self, model: str) -> Resident:
        """Decide once what the request's ``model`` means; the answer is resident and stays so until the request ends.

        Called when the engine has read the request's body; never for the base model.

        Raises:
            PatchbayError: the gateway answers with it, whatever the engine makes of it.
        """

    def chosen(self, model: str) -> Resident | None:
        """Return what ``choose`` answered for ``model`` in this request; None if it was not asked."""

    def generation(self, resident: Resident | None, demand: Demand) -> AbstractAsyncContextManager[Generation]:
        """Hold ``resident`` (None: the base model) and meter it while one generation runs.

        It is entered when the generation's turn has come, which may take a while: the engine computes nothing before.
        The engine ends a generation with ``ComputedNaN`` before a token of it leaves, where it comes to that; the gate
        answers the request, and keeps others from ``resident``.
        """


class Engine(Protocol):
    """A running engine. It is entered by its builder and never restarted: a dead one is replaced by a new one."""

    @property
    def app(self) -> ASGIApp:
        """The inference routes as an ASGI value. Which of them the world may reach is the gateway's choice."""

    @property
    def paths(self) -> frozenset[str]:
        """Paths that ``app`` answers; the base model decides (no ``/v1/embeddings`` on a chat model)."""

    @property
    def slots(self) -> int:
        """Adapters that one batch can mix."""

    @property
    def slot_bytes(self) -> int:
        """Memory that the slots take, all together, whatever is in them."""

    @property
    def batch(self) -> Batch:
        """What one step computes."""

    @property
    def is_dead(self) -> bool:
        """True once nothing can be generated any more."""

    async def load(self, resident: Resident) -> None:
        """Make ``resident`` usable without further help.

        Raises:
            LoadFailed: the bytes were refused; nothing of them stays behind.
            EngineGone: the engine died.
        """

    async def unload(self, resident: Resident) -> None:
        """Forget ``resident``; nothing may be using it.

        Raises:
            EngineGone: the engine died.
        """

    async def loaded(self) -> frozenset[int]:
        """Ids of the adapters the engine knows, for integrity checks."""

    @property
    def vocabulary(self) -> int:
        """Token ids below this one are the base model's."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, no special ones added; none where the engine runs without a tokenizer."""

    async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the natural log-probability of each token of each prompt but the first, given those before it.

        Under ``resident``, which is loaded, or under the base model (None). Not metered and not asked of the gate.
        Computed afresh, whatever is cached. NaN where the model's arithmetic broke down.

        Args:
            resident: what scores.
            prompts: token ids, two or more each; each fits the model's context.

        Raises:
            ScoringUnsupported: the base model has no such probabilities.
            EngineGone: the engine died.
        """


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine serves: known before it runs, and the same for every engine of a builder."""

    base: BaseModel
    served_names: tuple[str, ...]
    """What callers may write as ``model`` for the base itself; the first is its proper name."""
    max_rank: int
    """The largest LoRA rank a slot takes."""
    directory: Path
    """Where the base model's files lie: what a trainer starts from."""


class EngineBuilder(Protocol):
    """Starts engines, one after the other, for the same base model and flags."""

    async def info(self) -> EngineInfo:
        """Read the flags and the base model; slow the first time.

        Raises:
            StartRefused: a flag or the model is wrong; the message says which.
        """

    def start(self, hooks: EngineHooks) -> AbstractAsyncContextManager[Engine]:
        """Start an engine; leaving the context stops it.

        Raises:
            StartRefused: it can never start this way.
        """
