"""Answers that a run has the serving engine draw, and their rewards: what trainer and server exchange.

They are those of its policy, or of the teacher of a distillation. The child of a run has no engine. It exports the
policy's adapter into its run directory and asks its worker, over its standard input, which is a socket; the worker asks
the server, in its own process or over HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field

MAX_PROMPTS: Final = 4096
"""In one request."""
MAX_SAMPLES: Final = 128
"""Answers to one prompt."""
MAX_TOKENS: Final = 2**16
"""Of one answer."""


class _WireObject(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PolicyPrompt(_WireObject):
    """A prompt that is answered."""

    ids: Annotated[list[int], Field(min_length=1)]
    """Its token ids."""
    item: dict[str, Any] = {}
    """The row that it is from; graders read it as ``{{item.…}}``."""


class PolicyRequest(_WireObject):
    """A request for answers of the policy as it was exported before ``step``, or of the teacher."""

    step: int | None = Field(ge=0)
    """None: of the teacher."""
    prompts: Annotated[list[PolicyPrompt], Field(min_length=1, max_length=MAX_PROMPTS)]
    samples: int = Field(ge=1, le=MAX_SAMPLES)
    """Answers to each prompt."""
    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    """Of one answer."""
    temperature: float = Field(1.0, ge=0, le=2)
    """0: without chance."""
    seed: int = Field(ge=0)
    """The same seed draws the same answers, as far as the engine computes the same numbers."""

    @property
    def source(self) -> str:
        """Whose answers they are, as messages put it."""
        return "of the teacher" if self.step is None else f"at step {self.step}"


class PolicyAnswer(_WireObject):
    """One answer."""

    ids: list[int]
    logprobs: list[float]
    """Natural log-probability of each token when it was drawn."""
    text: str
    reward: float | None
    """None: the grader had no score, or there is none."""
    error: str | None = None
    """Why the grader had none."""


class PolicyAnswers(_WireObject):
    """The answers to each prompt of a request, in its order; or the reason why there are none."""

    answers: list[list[PolicyAnswer]] = []
    refusal: str | None = None


class PolicySampling(Protocol):
    """Draws answers on the serving engine and grades them."""

    async def sample(self, job_id: str, request: PolicyRequest, claim: int) -> PolicyAnswers:
        """Return answers of the policy of the job, or of its teacher; ``claim`` is the token of the claim on the job.

        Raises:
            JobNotFound: there is no such job.
            PatchbayError: the engine does not load the policy, or, where ``is_passing``, not now.
        """
