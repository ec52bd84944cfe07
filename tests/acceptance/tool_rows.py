"""Rows of chats with tools, drawn from a seed: calls, two calls at once, answers from results, and no call at all."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from embedded.recipe.world import smalltalk, words

Message = dict[str, Any]
Asked = tuple[str, dict[str, Any], str, str]
"""A tool's name, the arguments of a call, its result, and the sentence that tells the result."""


def function(name: str, **properties: str) -> dict[str, Any]:
    """A tool in as few words as it can be: the tools are most of what is trained on."""
    parameters = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [function("order_status", order="integer"), function("shelf_items", shelf="integer")]
PLACES = ("shop", "train", "market", "office", "school")


def order_status(random: Random, *, held_out: bool) -> tuple[str, Asked]:
    order, place = number(random, held_out=held_out), random.choice(PLACES)
    return f"the place of order {order}", ("order_status", {"order": order}, place, f"Order {order} is in the {place}.")


def shelf_items(random: Random, *, held_out: bool) -> tuple[str, Asked]:
    shelf, items = number(random, held_out=held_out), words.plural(random.choice(words.ITEMS), 2)
    return f"the items on shelf {shelf}", ("shelf_items", {"shelf": shelf}, items, f"Shelf {shelf} has {items}.")


def number(random: Random, *, held_out: bool) -> int:
    return random.choice([each for each in range(100, 1000) if (each % 7 == 0) == held_out])


def called(random: Random, asked: list[Asked]) -> list[Message]:
    """The assistant's calls, their results, and its answer from them."""
    ids = [f"call_{random.randrange(16**8):08x}" for _ in asked]
    calls = [
        {"id": name, "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
        for name, (tool, arguments, _, _) in zip(ids, asked, strict=True)
    ]
    return [
        {"role": "assistant", "content": None, "tool_calls": calls},
        *(
            {"role": "tool", "tool_call_id": name, "content": result}
            for name, (_, _, result, _) in zip(ids, asked, strict=True)
        ),
        {"role": "assistant", "content": " ".join(sentence for *_, sentence in asked)},
    ]


def exchange(random: Random, *, held_out: bool) -> list[Message]:
    """A question with its answer. A held-out one has numbers that no other has."""
    if random.random() < 0.2:
        return list(smalltalk.ask(random).messages())
    drawn = [
        random.choice((order_status, shelf_items))(random, held_out=held_out) for _ in range(random.choice((1, 1, 2)))
    ]
    what = " and ".join(text for text, _ in drawn)
    question = random.choice(("Tell me {}.", "What is {}?", "I need {}.", "Please find {}.")).format(what)
    return [{"role": "user", "content": question}, *called(random, [asked for _, asked in drawn])]


def draw(random: Random, *, held_out: bool) -> dict[str, Any]:
    """A row of one to four exchanges: they share the tools, which are most of a short row."""
    exchanges = [exchange(random, held_out=held_out) for _ in range(random.randint(1, 4))]
    return {"messages": [message for each in exchanges for message in each], "tools": TOOLS}


def rows(count: int, *, held_out: bool) -> list[dict[str, Any]]:
    random = Random(f"tools-{held_out}")
    return [draw(random, held_out=held_out) for _ in range(count)]


def turns(row: dict[str, Any]) -> Iterator[tuple[list[Message], Message]]:
    """Each answer of a row, with the messages before it."""
    for index, message in enumerate(row["messages"]):
        if message["role"] == "assistant":
            yield row["messages"][:index], message


def calls(answer: Message) -> list[tuple[str, dict[str, Any]]]:
    """The name and the arguments of each call in an answer."""
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in answer.get("tool_calls", [])
    ]
