"""A byte-level BPE tokenizer trained on the mixture, and the rendering of chats into tokens."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from embedded.recipe import mixture
from embedded.recipe.world.dialogue import Messages

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY: Final = 4096
MAX_TOKENS: Final = 2048
_DOCUMENTS: Final = 60_000  # of the mixture, to train on
_TEMPLATE: Final = Path(__file__).with_name("chat_template.jinja")


def texts(seed: int) -> Iterator[str]:
    """Yield the documents that the tokenizer is trained on, as text."""
    for document in islice(mixture.documents(seed), _DOCUMENTS):
        if isinstance(document, str):
            yield document
        else:
            yield "\n".join(f"{message['role']}\n{message['content']}" for message in document.messages)


def train(seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer. Each digit is one token, which makes arithmetic and copying of numbers easy."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts(seed),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=3,
            special_tokens=[PAD, START, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        model_max_length=MAX_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE.read_text(encoding="utf-8")
    return tokenizer


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[list[int], list[bool]]:
    """Return the tokens of a chat, and for each whether it is part of an answer, end-of-turn tokens included."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    header = tokenizer.encode(f"{START}assistant\n", add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids(END)
    is_answer, inside = [], False
    for index, token in enumerate(tokens):
        is_answer.append(inside)
        starts = tokens[max(0, index + 1 - len(header)) : index + 1] == header
        inside = starts or (inside and token != end)
    return tokens, is_answer
