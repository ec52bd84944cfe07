"""The two tokens whose probabilities a reward model's reward is made of.

A reward model is an ordinary adapter: the reward of a conversation is the log-odds of "yes" against "no" as the next
token after it. So it is served like every other adapter, and needs no head of its own.
"""

from collections.abc import Callable
from typing import Final

_PAIRS: Final = (("Yes", "No"), ("yes", "no"), ("True", "False"), ("1", "0"), ("A", "B"), ("a", "b"), ("+", "-"))


def reward_tokens(encode: Callable[[str], list[int]]) -> tuple[int, int]:
    """Return the ids of "yes" and "no": the first of a few pairs of which each is one token of its own.

    ``encode`` returns the ids of a text without special tokens.

    Raises:
        ValueError: the tokenizer has no such pair.
    """
    for pair in _PAIRS:
        better, worse = map(encode, pair)
        if len(better) == len(worse) == 1 and better != worse:
            return better[0], worse[0]
    raise ValueError("the base model's tokenizer has no two tokens that could mean yes and no")
