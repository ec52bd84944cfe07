"""Faults and warnings of training files, and the place of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

SHOWN_CHARACTERS: Final = 80


class FaultKind(StrEnum):
    """Every kind of fault. The values are part of the API's error bodies and stay as they are."""

    # the file
    EMPTY_FILE = "empty_file"
    UTF16 = "utf16"
    TOO_FEW_ROWS = "too_few_rows"
    WRONG_METHOD = "wrong_method"
    # the line
    BYTE_ORDER_MARK = "byte_order_mark"
    BLANK_LINE = "blank_line"
    LINE_TOO_LONG = "line_too_long"
    NOT_UTF8 = "not_utf8"
    BAD_JSON = "bad_json"
    REPEATED_KEY = "repeated_key"
    NOT_A_NUMBER = "not_a_number"
    TOO_DEEP = "too_deep"
    LONE_SURROGATE = "lone_surrogate"
    NUL_CHARACTER = "nul_character"
    # the row
    NOT_AN_OBJECT = "not_an_object"
    UNKNOWN_FORMAT = "unknown_format"
    MIXED_FORMATS = "mixed_formats"
    UNKNOWN_KEY = "unknown_key"
    MISSING_KEY = "missing_key"
    WRONG_TYPE = "wrong_type"
    BAD_LABEL = "bad_label"
    SAME_ANSWERS = "same_answers"
    # the messages
    NO_MESSAGES = "no_messages"
    WRONG_ROLE = "wrong_role"
    ROLE_ORDER = "role_order"
    NO_ANSWER = "no_answer"
    LAST_NOT_ASSISTANT = "last_not_assistant"
    EMPTY_ANSWER = "empty_answer"
    EMPTY_PROMPT = "empty_prompt"
    UNSUPPORTED_PART = "unsupported_part"
    BAD_WEIGHT = "bad_weight"
    WEIGHT_ELSEWHERE = "weight_elsewhere"
    NOTHING_TRAINED = "nothing_trained"
    # the tools
    BAD_TOOL = "bad_tool"
    REPEATED_TOOL = "repeated_tool"
    CALL_WITHOUT_TOOLS = "call_without_tools"
    UNKNOWN_TOOL = "unknown_tool"
    BAD_CALL = "bad_call"
    BAD_ARGUMENTS = "bad_arguments"
    UNKNOWN_CALL_ID = "unknown_call_id"
    UNANSWERED_CALL = "unanswered_call"
    # found by the renderer, with the base's own tokenizer and template
    TEMPLATE_REFUSES = "template_refuses"
    TEMPLATE_REWRITES = "template_rewrites"
    TOO_MANY_TOKENS = "too_many_tokens"


class WarningKind(StrEnum):
    """Kinds of warnings: they refuse nothing."""

    FEW_ROWS = "few_rows"
    DUPLICATE_ROW = "duplicate_row"
    CONTRADICTION = "contradiction"
    LEAKAGE = "leakage"
    ONE_LABEL = "one_label"
    IGNORED_KEY = "ignored_key"


@dataclass(frozen=True, slots=True)
class LineFault:
    """A fault: its line (from 1; None: the whole file), its place in the row, what was found and what is needed."""

    line: int | None
    kind: FaultKind
    where: str
    found: str
    needed: str

    def __str__(self) -> str:
        place = "file" if self.line is None else f"line {self.line}"
        inside = f", {self.where}" if self.where else ""
        return f"{place}{inside}: found {self.found}; needed {self.needed}"

    def to_json(self) -> dict[str, Any]:
        """The fault as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LineWarning:
    """A warning about a line (None: the whole file)."""

    line: int | None
    kind: WarningKind
    message: str

    def __str__(self) -> str:
        return f"{'file' if self.line is None else f'line {self.line}'}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """The warning as JSON values."""
        return asdict(self)


class LineFaults:
    """The faults and warnings of one line, gathered while it is read."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.found: list[LineFault] = []
        self.warnings: list[LineWarning] = []

    def add(self, kind: FaultKind, where: str, found: str, needed: str) -> None:
        """Add a fault; ``where`` is a path into the row, such as ``messages[2].role``."""
        self.found.append(LineFault(self.line, kind, where, found, needed))

    def warn(self, kind: WarningKind, message: str) -> None:
        """Add a warning."""
        self.warnings.append(LineWarning(self.line, kind, message))

    def __bool__(self) -> bool:
        return bool(self.found)


def shown(value: object) -> str:
    """Return ``value`` as messages quote it: on one line, short, in ASCII."""
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
