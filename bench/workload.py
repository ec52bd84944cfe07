"""Requests drawn from a seed: their adapters, times and lengths. Two servers get the same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import count
from typing import Final

import numpy as np

FIRST_TOKEN: Final = 16
"""Lower ids are special tokens in the tokenizers in use."""
ZIPF: Final = 1.0


@dataclass(frozen=True)
class LoadRequest:
    """One request.

    Attributes:
        at_s: when an open loop sends it, in seconds from the start of the load.
        model: the model to answer.
        prompt: token ids, or a text.
        tokens: length of the answer.
        chat: send ``prompt``, a text, as a chat message and not as a completion's prompt.
        exact: ignore the end-of-sequence token, so that the answer has exactly ``tokens`` tokens.
    """

    at_s: float
    model: str
    prompt: tuple[int, ...] | str
    tokens: int
    _: KW_ONLY
    chat: bool = False
    exact: bool = True


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens: uniform from ``low`` to ``high``, or lognormal with median ``low`` and sigma ``spread``."""

    low: int
    high: int
    spread: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """Read ``64`` (always), ``32-128`` (uniform) or ``64~0.5`` (lognormal: median and sigma).

        Raises:
            ValueError: it is none of these.
        """
        if found := re.fullmatch(r"(\d+)(?:-(\d+)|~([\d.]+))?", text):
            low, high, spread = found.groups()
            if 0 < int(low) <= int(high or low):
                return cls(int(low), int(high or low), float(spread or 0))
        raise ValueError(f"{text!r} is no distribution of lengths: 64, 32-128 or 64~0.5")

    def draw(self, random: np.random.Generator) -> int:
        """Draw a length, of one token at least."""
        if self.spread:
            return max(1, round(self.low * float(random.lognormal(0, self.spread))))
        return int(random.integers(self.low, self.high, endpoint=True))


@dataclass(frozen=True)
class Popularity:
    """How often each of many adapters is asked: the n-th in proportion to n^-``exponent``; 0 is uniform."""

    exponent: float

    @classmethod
    def parse(cls, text: str) -> Popularity:
        """Read ``uniform``, ``zipf`` or ``zipf:1.2``.

        Raises:
            ValueError: it is none of these.
        """
        if text == "uniform":
            return cls(0.0)
        if found := re.fullmatch(r"zipf(?::([\d.]+))?", text):
            return cls(float(found[1] or ZIPF))
        raise ValueError(f"{text!r} is no popularity: uniform, zipf or zipf:1.2")

    def shares(self, count: int) -> list[float]:
        """Return the share of each of ``count`` adapters; they sum to 1."""
        weights = np.arange(1, count + 1, dtype=float) ** -self.exponent
        return [float(share) for share in weights / weights.sum()]


@dataclass(frozen=True)
class Workload:
    """The distribution of a load's requests over adapters and lengths."""

    models: Sequence[str]
    _: KW_ONLY
    popularity: Popularity = Popularity(0)
    prompt: Lengths
    answer: Lengths
    vocabulary: int

    def requests(self, number: int, *, seed: int, rate: float | None = None) -> list[LoadRequest]:
        """Return ``number`` requests; with ``rate`` their times are a Poisson process of ``rate`` requests a second.

        Loads of other sizes or of more models have other prompts, so that no load finds its prompts in a prefix cache.
        """
        random = np.random.default_rng([seed, number, len(self.models)])
        shares = self.popularity.shares(len(self.models))
        times = random.exponential(1 / rate, number).cumsum() if rate else np.zeros(number)
        chosen = random.choice(len(self.models), number, p=shares)
        return [
            LoadRequest(float(at_s), self.models[index], self._prompt(random), self.answer.draw(random))
            for at_s, index in zip(times, chosen, strict=True)
        ]

    def endless(self, *, seed: int) -> Iterator[LoadRequest]:
        """Yield requests without end."""
        for number in count():
            yield from self.requests(1, seed=1000 * seed + number)

    def _prompt(self, random: np.random.Generator) -> tuple[int, ...]:
        length = self.prompt.draw(random)
        return tuple(int(token) for token in random.integers(FIRST_TOKEN, self.vocabulary, length))
