"""Whether a message is trained: OpenAI's ``weight``, and the keys that other trainers have for it."""

from collections.abc import Mapping
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown

_SYNONYMS: Final = ("loss", "loss_scale", "train", "training")
"""Of ms-swift and Axolotl."""
_DETAIL: Final = "train_detail"
"""Axolotl's list of spans of characters, each trained or not."""
_UNCLEAR: Final = ("mask", "masked", "trainable", "train_on_turn")
"""Keys that mean one thing here and the contrary there."""
WEIGHT_KEYS: Final = frozenset({"weight", *_SYNONYMS, _DETAIL})


def is_trained(item: Mapping[str, Any], where: str, faults: LineFaults) -> bool:
    """Whether the message ``item`` is trained; by default answers are.

    Faults are added for weights between 0 and 1, for keys that contradict each other, for an answer of which a part is
    trained, and for weights of other messages than answers.
    """
    stated = {key: _weight(item[key], f"{where}.{key}", faults) for key in ("weight", *_SYNONYMS) if key in item}
    if _DETAIL in item:
        stated[_DETAIL] = _whole(item[_DETAIL], item.get("content"), f"{where}.{_DETAIL}", faults)
    if stated.keys() - {"weight"}:
        names = f"{', '.join(_SYNONYMS)} and {_DETAIL}"
        faults.warn(WarningKind.CONVERTED, f"{names} of messages are read as weight: 1 is trained, 0 is not")
    for key in _UNCLEAR:
        if key in item:
            faults.add(FaultKind.BAD_WEIGHT, f"{where}.{key}", shown(item[key]), "weight 1 (trained) or 0 in its place")
    is_answer = item["role"] == "assistant"
    if len({*stated.values()} - {None}) > 1:
        found = " and ".join(f"{key} {shown(item[key])}" for key in stated)
        faults.add(FaultKind.BAD_WEIGHT, where, found, "one of them, or the same in all")
    for key, weight in stated.items():
        if weight and not is_answer:
            found = f"a weight on {item['role']}"
            faults.add(FaultKind.WEIGHT_ELSEWHERE, f"{where}.{key}", found, "weights on assistant alone")
    return is_answer and next(iter(stated.values()), 1) == 1


def _weight(value: Any, where: str, faults: LineFaults) -> int | None:
    """Return 0 or 1, or None and add a fault."""
    if isinstance(value, int | float) and value in (0, 1):
        return int(value)
    faults.add(FaultKind.BAD_WEIGHT, where, shown(value), "0 or 1")
    return None


def _whole(spans: Any, text: Any, where: str, faults: LineFaults) -> int | None:
    """Return the weight that ``spans`` have in common if together they are all of ``text``; else None, and a fault.

    A span has ``begin_offset``, ``end_offset`` (of its last character) and ``train``.
    """
    end, weights = 0, set()
    if isinstance(spans, list) and isinstance(text, str):
        listed = [span for span in spans if isinstance(span, dict) and type(span.get("begin_offset")) is int]
        for span in sorted(listed, key=lambda span: span["begin_offset"]):
            if span["begin_offset"] == end and type(span.get("end_offset")) is int:
                end = span["end_offset"] + 1
                weights.add(span.get("train"))
        if len(listed) == len(spans) and end == len(text) and weights in ({True}, {False}):
            return int(weights == {True})
    faults.add(FaultKind.BAD_WEIGHT, where, shown(spans), "the whole text trained, or none of it: write weight 1 or 0")
    return None
