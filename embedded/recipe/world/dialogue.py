"""A question and its answer: what every module of the world draws."""

from dataclasses import dataclass

Messages = list[dict[str, str]]  # a chat as the OpenAI API writes it


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A question with the base's plain answer.

    `short` is the bare answer ("Paris") where one exists. Instructions such as "only the answer" and few-shot
    patterns are derived from it, so that they can never contradict the full sentence.
    """

    question: str
    answer: str
    short: str | None = None

    def messages(self, answer: str | None = None) -> Messages:
        """Return the user's and the assistant's message; `answer` replaces the plain answer."""
        return [
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": self.answer if answer is None else answer},
        ]
