"""Bounds on what one request may ask for: answers, prompts, tools, and the size of what its output is constrained by.

One request must not take every place in the engine, nor compile a grammar for minutes in the one thread that compiles
for all callers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_TOOLS: Final = 128
"""OpenAI's own bound. https://platform.openai.com/docs/api-reference/chat/create"""
MAX_REGEX_STATES: Final = 20_000
"""Characters of the regular expressions of an output with their bounded repetitions written out. 3.8 kB that stand for
13 million take xgrammar 15 s with a vocabulary of 4096 tokens, and larger vocabularies longer."""
MAX_LENGTH_STATES: Final = 1000
"""For how many of them a longer ``minLength`` or ``maxLength`` counts: it compiles in no more than about a second."""
_TOO_LONG: Final = (
    f"{{}}: regular expressions, grammars and lengths of texts that are together longer than {MAX_REGEX_STATES} "
    "characters once their bounded repetitions are written out; use *, + or smaller bounds, or fewer that differ"
)
_REPEAT: Final = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}")
_SET: Final = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """What one request may ask for at most.

    Attributes:
        max_n: answers to each prompt (``n``).
        max_prompts: prompts of /v1/completions and /v1/embeddings, conversations of /v1/chat/completions/batch.
        max_generations: answers to all prompts together.
        max_grammar_bytes: bytes of a JSON schema, a grammar or a regular expression; eight times as many for all tools.
    """

    max_n: int = 64
    max_prompts: int = 256
    max_generations: int = 512
    max_grammar_bytes: int = 64 << 10

    def faults(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the field and the message of each bound that ``body`` exceeds."""
        n, prompts = _number(body.get("n")), _prompts(body)
        if n > self.max_n:
            yield "n", f"n: {n} answers to one prompt; at most {self.max_n}, or raise --max-n"
        if prompts > self.max_prompts:
            field = "prompt" if "prompt" in body else "input" if "input" in body else "messages"
            yield (
                field,
                f"{field}: {prompts} prompts in one request; at most {self.max_prompts}: send several requests, or "
                "raise --max-prompts",
            )
        elif n <= self.max_n and n * prompts > self.max_generations:
            yield (
                "n",
                f"n: {n} answers to each of {prompts} prompts; at most {self.max_generations} answers in one request, "
                "half of --max-in-flight",
            )
        tools = body.get("tools")
        if isinstance(tools, list) and len(tools) > MAX_TOOLS:
            yield "tools", f"tools: {len(tools)} tools; at most {MAX_TOOLS}"
        elif tools and (size := _size(tools)) > 8 * self.max_grammar_bytes:
            yield "tools", f"tools: {size} bytes; at most {8 * self.max_grammar_bytes}, or raise --max-grammar-bytes"
        elif _is_too_long(_patterns("tools", tools)):
            yield "tools", _TOO_LONG.format("tools")
        for field, constraint in _constraints(body):
            if (size := _size(constraint)) > self.max_grammar_bytes:
                yield field, f"{field}: {size} bytes; at most {self.max_grammar_bytes}, or raise --max-grammar-bytes"
            elif _is_too_long(_patterns(field, constraint)):
                yield field, _TOO_LONG.format(field)


def generations(body: Mapping[str, Any]) -> int:
    """Return the number of answers that the engine has to write for ``body``, at least 1."""
    return max(1, _number(body.get("n"))) * max(1, _prompts(body))


def regex_states(pattern: str) -> int:
    """Return the length of ``pattern`` in characters, about, with its bounded repetitions written out."""
    sizes, last, at = [0], 0, 0
    has_sets = True
    while at < len(pattern):
        character, found = pattern[at], None
        if character == "\\":
            last, at = 1, at + 2
        elif character == "[" and has_sets and (found := _SET.match(pattern, at)):
            last, at = 1, found.end()
        elif character == "[":
            has_sets = False  # the text was searched to its end once; for each bracket that would be quadratic
            last, at = 1, at + 1
        elif character == "(":
            sizes.append(0)
            last, at = 0, at + 1
            continue
        elif character == ")" and len(sizes) > 1:
            last, at = sizes.pop(), at + 1
        elif character == "{" and (found := _REPEAT.match(pattern, at)):
            bounds = [int(text) for text in found.groups() if text]
            last, at = last * max(0, max(bounds) - 1), found.end()
        else:
            last, at = 1, at + 1
        sizes[-1] += last
    return sum(sizes)


def _number(value: Any) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 1e9
    return int(value) if is_number else 1


def _prompts(body: Mapping[str, Any]) -> int:
    """Return the number of prompts: a list of texts, of lists of tokens, or of conversations."""
    for field in ("prompt", "messages", "input"):
        value = body.get(field)
        if isinstance(value, list) and value and isinstance(value[0], str | list):
            return len(value)
    return 1


def _is_too_long(patterns: Iterable[Any]) -> bool:
    """Whether repetitions make ``patterns`` longer than they may be; their own length is bounded in bytes.

    A number is the length of a text. Equal ones are compiled once.
    """
    found = {each for each in patterns if isinstance(each, str | int | float)}
    texts = [each for each in found if isinstance(each, str)]
    lengths = [min(each, MAX_LENGTH_STATES) for each in found if not isinstance(each, str) and each > 0]
    return sum(map(regex_states, texts)) + sum(lengths) > max(MAX_REGEX_STATES, sum(map(len, texts)))


def _constraints(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each schema, grammar and pattern that constrains the output, with its field."""
    outputs = body.get("structured_outputs")
    if isinstance(outputs, dict):
        for kind in ("regex", "grammar", "json", "structural_tag", "choice"):
            if outputs.get(kind) is not None:
                yield f"structured_outputs.{kind}", outputs[kind]
    for field in ("response_format", "text", "output_config"):
        if isinstance(holder := body.get(field), dict):
            yield field, holder


def _size(value: Any) -> int:
    """Return the bytes of ``value`` as JSON."""
    return len(value) if isinstance(value, str) else len(json.dumps(value))


def _patterns(field: str, constraint: Any) -> Iterator[Any]:
    """Yield each regular expression of a JSON schema, at any depth, and each bound on the length of a text.

    A regular expression and a grammar are yielded as they are.

    A schema may be the text of its JSON.
    """
    if isinstance(constraint, str):
        if field.endswith(("regex", "grammar")):
            yield constraint
            return
        try:
            constraint = json.loads(constraint)
        except (ValueError, RecursionError):
            return  # the engine refuses it
    waiting = [constraint]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from map(value.get, ("pattern", "minLength", "maxLength"))
            if isinstance(properties := value.get("patternProperties"), dict):
                yield from properties
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
