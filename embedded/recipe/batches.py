"""Documents of the mixture as tokens, each with a weight, in batches that hold almost no padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from embedded.recipe import mixture
from embedded.recipe.tokenizer import encode_chat

ANSWER, RAW, PROMPT = 1.0, 0.8, 0.4  # weight of a token's loss
_LONGEST: Final = 900  # tokens; longer documents are left out
_CHUNK: Final = 4000  # documents that are sorted by length together


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized document and the weight of each token's loss."""

    tokens: list[int]
    weights: list[float]


def _encode(document: mixture.Document, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    if isinstance(document, str):
        tokens = [*tokenizer.encode(document, add_special_tokens=False), tokenizer.pad_token_id]
        return Encoded(tokens, [RAW] * len(tokens))
    tokens, is_answer = encode_chat(tokenizer, document.messages)
    context = len(encode_chat(tokenizer, document.messages[: document.context])[0]) if document.context else 0
    learned = (answer and index >= context for index, answer in enumerate(is_answer))
    return Encoded(tokens, [ANSWER if answer else PROMPT for answer in learned])


def padded(rows: Sequence[Sequence[float]], fill: float) -> torch.Tensor:
    """Return `rows` as one tensor (rows x longest row), filled up on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


def draw(tokenizer: PreTrainedTokenizerBase, seed: int, batch_tokens: int) -> Iterator[list[Encoded]]:
    """Yield batches of at most `batch_tokens` tokens, padding included, without end."""
    documents, random = mixture.documents(seed), Random(seed)
    while True:
        chunk = [_encode(next(documents), tokenizer) for _ in range(_CHUNK)]
        chunk = sorted((row for row in chunk if len(row.tokens) <= _LONGEST), key=lambda row: len(row.tokens))
        filled: list[list[Encoded]] = [[]]
        for row in chunk:
            if filled[-1] and (len(filled[-1]) + 1) * len(row.tokens) > batch_tokens:
                filled.append([])
            filled[-1].append(row)
        random.shuffle(filled)
        yield from filled
