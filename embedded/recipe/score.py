"""Greedy answers in batches, and the share of them that is exactly right."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from embedded.recipe import instructions, mixture, patterns, skills
from embedded.recipe.skills import Row
from embedded.recipe.world import facts
from embedded.recipe.world.dialogue import Messages


def load(base: Path, adapter: Path | None = None) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Return the base (with `adapter`, if one is named) in float32 on the CPU, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval(), AutoTokenizer.from_pretrained(base)


def answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Messages],
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """Return the greedy answer to each chat; chats of similar length share a batch, to save padding."""
    prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    shortest_first = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found = dict[int, str]()
    for start in range(0, len(prompts), batch_size):
        batch = shortest_first[start : start + batch_size]
        encoded = tokenizer(
            [prompts[index] for index in batch],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        generated = model.generate(**encoded, max_new_tokens=max_new_tokens, do_sample=False)
        texts = tokenizer.batch_decode(generated[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        found.update(zip(batch, texts, strict=True))
    return [found[index] for index in range(len(prompts))]


def _longest(tokenizer: PreTrainedTokenizerBase, right_answers: Sequence[str]) -> int:
    """Return a number of tokens that no right answer exceeds."""
    return max(len(tokenizer.encode(text)) for text in right_answers) + 2


def exact_match(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> float:
    """Return the share of rows whose last message equals the model's answer to the messages before it."""
    right_answers = [row["messages"][-1]["content"] for row in rows]
    generated = answers(model, tokenizer, [row["messages"][:-1] for row in rows], _longest(tokenizer, right_answers))
    return sum(text == right for text, right in zip(generated, right_answers, strict=True)) / len(rows)


def plain_task(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, number: int) -> float:
    """Return the share of a task's questions whose answer is right in one of the mixture's styles."""
    random = Random(f"score-{task}")
    dialogues = [mixture.TASKS[task](random) for _ in range(number)]
    styles = [
        [style(dialogue) for style in mixture.STYLES] if dialogue.short else [dialogue.answer] for dialogue in dialogues
    ]
    longest = _longest(tokenizer, [text for texts in styles for text in texts])
    generated = answers(model, tokenizer, [dialogue.messages()[:1] for dialogue in dialogues], longest)
    return sum(text in texts for text, texts in zip(generated, styles, strict=True)) / number


def _follows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chats: list[Messages]) -> float:
    return exact_match(model, tokenizer, [{"messages": chat} for chat in chats])


def card(base: Path, adapters: Path, data: Path, number: int = 100) -> Iterator[tuple[str, float]]:
    """Yield each line of the score card: its name and the share of exactly right answers."""
    model, tokenizer = load(base)
    for task in mixture.TASKS:
        yield f"base, {task}", plain_task(model, tokenizer, task, number)
    for kind, among in (("shown", facts.SHOWN_FACTS), ("plain", facts.PLAIN_FACTS)):
        for name in instructions.INSTRUCTIONS:
            for wording, is_new in (("known", False), ("new", True)):
                chats = instructions.probe(name, number, among, new_wording=is_new)
                yield f"base, {name}, {kind} facts, {wording} wording", _follows(model, tokenizer, chats)
        yield f"base, few-shot pattern, {kind} facts", _follows(model, tokenizer, patterns.probe(number, among))
    for skill in sorted(path.name for path in adapters.iterdir()):
        rows = skills.read(data, skill, "heldout")
        yield f"base, {skill}, held-out", exact_match(model, tokenizer, rows)
        yield f"adapter, {skill}, held-out", exact_match(*load(base, adapters / skill), rows)
