"""``reward_model``: the reward of a model that the method ``reward`` trained. OpenAI has no such grader."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from adapters.errors import NotFound, WrongBase
from trainer.errors import InvalidField
from trainer.graders.grader import Grade, Grader, GradingError, Sample, Ungraded
from trainer.graders.message import Message
from trainer.graders.models import Models, NotAnswered


class RewardModelGrader(Grader):
    """Scores the answer to a conversation: its reward has no bounds, and is larger for better answers."""

    type: Literal["reward_model"]
    model: Annotated[str, Field(min_length=1)]
    """Reference of an adapter that a job of the method ``reward`` made."""
    input: Annotated[list[Message], Field(min_length=1, max_length=64)] | None = None
    """The conversation that the sample answers; by default ``item.messages``."""

    @property
    def asks_models(self) -> bool:
        return True

    async def check(self, models: Models, where: str) -> None:
        try:
            await models.check_reward(self.model)
        except (NotFound, WrongBase) as unknown:
            raise InvalidField(unknown.message, param=f"{where}.model") from unknown

    async def score(self, sample: Sample, models: Models) -> Grade:
        conversation = [*self._conversation(sample), {"role": "assistant", "content": sample.output_text}]
        try:
            rewarded = await models.reward(self.model, conversation, sample.item.get("tools"))
        except NotAnswered as refused:
            raise Ungraded(GradingError.MODEL_SERVER, str(refused)) from refused
        if not math.isfinite(rewarded.reward):
            raise Ungraded(GradingError.MODEL_SERVER, f"the model's reward is {rewarded.reward}")
        return Grade(rewarded.reward, usage={rewarded.model: rewarded.usage})

    def _conversation(self, sample: Sample) -> Sequence[Mapping[str, Any]]:
        if self.input is not None:
            return [message.rendered(sample) for message in self.input]
        messages = sample.item.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Ungraded(GradingError.VARIABLE, "item.messages is missing: give them, or the grader input")
        return messages
