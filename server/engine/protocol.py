"""The protocol between the server and an engine. vLLM is one engine, ``server.engine.fake`` another.

One contract suite runs against both.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adapters.base_model import BaseModel
from trainer.renderer_options import RendererOptions

ASGIApp = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Resident:
    """A version as the engine identifies it. No field is ever reused for other bytes.

    A reused ``id`` makes vLLM serve the old weights silently; a reused (``name``, ``path``) hits stale prefix cache.
    """

    id: int
    """Positive, and as a rule the registry's version id; vLLM's ``lora_int_id``."""
    name: str
    """Adapter and version number, such as ``sql@7``."""
    path: Path
    """Read-only directory, named by the digest of its files."""


class LoadFailed(Exception):
    """The engine refused an adapter's files. The engine is unharmed and holds nothing of them."""


class EngineGone(Exception):
    """The engine died during a call."""


class ComputedNaN(Exception):
    """The model computed NaN logits while it generated with an adapter."""


class ScoringUnsupported(Exception):
    """The base model generates no text (an embedding model, say), so its tokens have no probabilities."""


class StartRefused(Exception):
    """The engine cannot start with these flags or this model. Another attempt fails in the same way."""


class StartFailed(Exception):
    """The engine died while it started; another attempt may succeed. The message is the cause in one line."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The limits of one step of an engine."""

    sequences: int
    """Sequences generated at the same time (vLLM's ``max_num_seqs``)."""
    tokens: int
    """Tokens of prompts and outputs together (vLLM's ``max_num_batched_tokens``)."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The work that one generation asks for."""

    prompt_tokens: int = 0
    max_tokens: int = 0
    """Limit on the output tokens of each sequence."""
    sequences: int = 1
    """Sequences to generate (``n``)."""
    grammar: str | None = None
    """SHA-256 of what the output must match, in hex digits; None: anything."""


@dataclass(slots=True)
class Generation:
    """The statistics of one running generation, filled in by the engine. Durations in seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompt tokens that were in the engine's prefix cache."""
    generated_tokens: int = 0
    first_token_s: float | None = None
    """From the arrival of the request in the engine to its first token."""
    inter_token_s: float | None = None
    """Mean time between tokens."""
    queue_s: float | None = None
    """Wait in the engine's own queue."""
    on_first_output: Callable[[], None] = lambda: None
    """Called once by the engine, with the first output: the prompt has been read."""
    is_finished: Callable[[], bool] = lambda: False
    """Whether the engine has finished the generation, although its caller has not read all of it yet."""
    cache_scope: str | None = None
    """Set before the engine computes: generations of two scopes share no prefix cache. None is one of them."""


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """How likely an engine finds an answer that it is given."""

    logprob: float
    """Natural log-probability of the whole answer after its prompt. NaN where the model computes NaN."""
    is_greedy: bool
    """Whether each token is the likeliest after those before it: at temperature 0 the engine writes this answer."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """An answer that the engine drew from all tokens."""

    ids: tuple[int, ...]
    """With the token on which it stopped, unless it was cut."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each token at temperature 1."""
    text: str
    """Without special tokens."""


class EngineHooks(Protocol):
    """What an engine calls back while it serves a request."""

    def prepare_body(self, path: str, body: dict[str, Any]) -> None:
        """Make the parsed body of a request to ``path`` fit, in place. Called before the engine reads any field of it.

        Raises:
            PatchbayError: the gateway answers with this error, whatever response the engine makes of it.
        """

    async def resolve(self, model: str) -> Resident:
        """Resolve the request's ``model`` and lease the version, which stays resident until the request ends.

        Called after the engine has parsed the request's body; never for the base model. Later calls in the same
        request return the same version.

        Raises:
            PatchbayError: the gateway answers with this error, whatever response the engine makes of it.
        """

    def resolved(self, model: str) -> Resident | None:
        """Return the result of ``resolve(model)`` in this request; None before that call."""

    def generation(self, resident: Resident | None, demand: Demand) -> AbstractAsyncContextManager[Generation]:
        """Lease ``resident`` (None: the base model) and meter one generation for the length of the block.

        Entering waits for the generation's turn; the engine computes nothing before. If the logits become NaN, the
        engine raises ``ComputedNaN`` in the block before a token is sent; the hooks answer the request with an error
        and quarantine ``resident``.
        """


class Engine(Protocol):
    """A running engine. Its builder starts and stops it; a dead engine is replaced, never restarted."""

    app: ASGIApp
    """The inference routes. The gateway decides which of them are reachable."""
    paths: frozenset[str]
    """Paths that ``app`` answers; they depend on the base model (no ``/v1/embeddings`` on a chat model)."""
    slots: int
    """Adapters that one batch can mix."""
    slot_bytes: int
    """Memory of all slots together, whatever their content."""
    batch: Batch
    """The limits of one step."""
    unserved_modules: frozenset[str]
    """Modules of the base model on which no adapter has an effect, as the engine was started."""
    renderer_sha256: str | None
    """What makes prompts of conversations, as the report of a trained version has it; None: no chats are served."""
    vocabulary: int
    """Size of the base model's vocabulary: token ids are below this number."""
    context: int
    """Tokens that prompt and answer of a request may have together (vLLM's ``max_model_len``)."""
    takes_tools: bool
    """Whether the engine reads tool calls in what the base model writes."""

    @property
    def is_dead(self) -> bool:
        """True once the engine can generate nothing any more."""

    async def ping(self) -> None:
        """Return once all processes of the engine have answered a call, which they do between two steps.

        Raises:
            EngineGone: the engine died.
        """

    def kill(self) -> None:
        """End the engine's processes at once, whatever they do; ``is_dead`` follows."""

    async def load(self, resident: Resident) -> None:
        """Load ``resident``, so that generations can use it.

        Raises:
            LoadFailed: the files were refused; nothing of them stays behind.
            EngineGone: the engine died.
        """

    async def unload(self, resident: Resident) -> None:
        """Forget ``resident``, which no generation may be using.

        Raises:
            EngineGone: the engine died.
        """

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text`` without special tokens; none if the engine runs without a tokenizer."""

    async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the natural log-probability of each token of each prompt but the first, given the tokens before it.

        Computed without the prefix cache, not metered, without a call of the hooks. NaN where the model computes NaN.

        Args:
            resident: the loaded adapter to score with; None: the base model.
            prompts: token ids, two or more each; each fits the model's context.

        Raises:
            ScoringUnsupported: the base model has no such probabilities.
            EngineGone: the engine died.
        """

    async def read(self, resident: Resident | None, prompt: Sequence[int], answer: Sequence[int]) -> AnswerReading:
        """Read the token ids ``answer`` after ``prompt``; neither is empty, and together they leave a token free.

        Computed without the prefix cache, not metered, without a call of the hooks.

        Raises:
            ScoringUnsupported: the base model has no such probabilities.
            EngineGone: the engine died.
        """

    async def sample(
        self,
        resident: Resident | None,
        prompt: Sequence[int],
        *,
        samples: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
    ) -> list[Sampled]:
        """Draw ``samples`` answers to the token ids ``prompt``; not metered, without a call of the hooks.

        At temperature 0 there is one sample, of the likeliest tokens.

        Raises:
            ScoringUnsupported: the base model generates no text.
            EngineGone: the engine died.
        """

    async def next_logprobs(
        self, resident: Resident | None, prompt: Sequence[int], tokens: Sequence[int]
    ) -> list[float]:
        """Return the natural log-probability that each of ``tokens`` comes next after ``prompt``.

        Not metered, without a call of the hooks; NaN where the model computes NaN.

        Raises:
            ScoringUnsupported: the base model generates no text.
            EngineGone: the engine died.
        """


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The base model and the limits of every engine of a builder, known before the first one runs."""

    base: BaseModel
    served_names: tuple[str, ...]
    """Values of ``model`` that mean the base model itself; the first one appears in responses."""
    max_rank: int
    """The largest LoRA rank that fits in a slot."""
    directory: Path
    """The base model's files; training starts from them."""
    renderer: RendererOptions = field(default_factory=RendererOptions)
    """How the engine renders prompts; training rows are rendered in the same way."""


class EngineBuilder(Protocol):
    """Starts engines, one after the other, for the same base model and flags."""

    async def info(self) -> EngineInfo:
        """Read the flags and the base model; the first call takes seconds.

        Raises:
            StartRefused: a flag or the model is wrong; the message names it.
        """

    def start(self, hooks: EngineHooks) -> AbstractAsyncContextManager[Engine]:
        """Start an engine for the length of the block.

        Raises:
            StartRefused: no later attempt can succeed.
            StartFailed: a later one may.
        """
