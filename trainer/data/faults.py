"""Faults and warnings of training files, the place of each, and the checks of a JSON object's fields that add them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

SHOWN_CHARACTERS: Final = 80
_JSON_NAMES: Final[Mapping[type, str]] = {
    str: "a string",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


class FaultKind(StrEnum):
    """Every kind of fault. The values are part of the API's error bodies and stay as they are."""

    # the file
    EMPTY_FILE = "empty_file"
    OTHER_FILE = "other_file"
    UTF16 = "utf16"
    BAD_ARCHIVE = "bad_archive"
    BAD_TABLE = "bad_table"
    TOO_LARGE = "too_large"
    TOO_FEW_ROWS = "too_few_rows"
    WRONG_METHOD = "wrong_method"
    # the line
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
    AMBIGUOUS_COLUMNS = "ambiguous_columns"
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
    PROMPT_DIFFERS = "prompt_differs"
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
    TEMPLATE_ARGUMENTS = "template_arguments"
    SYSTEM_TWICE = "system_twice"


class WarningKind(StrEnum):
    """Kinds of warnings: they refuse nothing. The values are part of reports and stay as they are."""

    FEW_ROWS = "few_rows"
    DUPLICATE_ROW = "duplicate_row"
    CONTRADICTION = "contradiction"
    LEAKAGE = "leakage"
    ONE_LABEL = "one_label"
    IGNORED_KEY = "ignored_key"
    NULL_VALUE = "null_value"
    BYTE_ORDER_MARK = "byte_order_mark"
    BLANK_LINE = "blank_line"
    CONVERTED = "converted"
    MADE_ID = "made_id"
    PLAIN_TEXT = "plain_text"
    LEFT_OUT = "left_out"
    CLOSED_THOUGHT = "closed_thought"


MAX_PLACE_CHARACTERS: Final = 200
MAX_WARNING_CHARACTERS: Final = 1000
"""Places and warnings hold keys of the row, which have any length."""


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


@dataclass(frozen=True, slots=True)
class LineWarning:
    """A warning about a line (None: the whole file); ``rows`` have the same, and ``line`` is the first of them."""

    line: int | None
    kind: WarningKind
    message: str
    rows: int = 1


class LineFaults:
    """The faults and warnings of one line, gathered while it is read.

    ``where`` is a path into the row, such as ``messages[2].role``; "" is the row itself.
    """

    def __init__(self, line: int) -> None:
        self.line = line
        self.found: list[LineFault] = []
        self.warnings: list[LineWarning] = []

    def add(self, kind: FaultKind, where: str, found: str, needed: str) -> None:
        self.found.append(LineFault(self.line, kind, _cut(where, MAX_PLACE_CHARACTERS), found, needed))

    def warn(self, kind: WarningKind, message: str) -> None:
        """Add a warning, once for the line. Lines with an equal ``message`` become one warning of the file."""
        warning = LineWarning(self.line, kind, _cut(message, MAX_WARNING_CHARACTERS))
        if warning not in self.warnings:
            self.warnings.append(warning)

    def __bool__(self) -> bool:
        return bool(self.found)

    def typed(self, value: Any, wanted: type, where: str) -> Any:
        """Return ``value`` if its type is ``wanted`` (``true`` is no number), else None and add a fault."""
        if type(value) is wanted:
            return value
        found = f"the object {shown(value)}" if isinstance(value, dict) else _JSON_NAMES[type(value)]
        self.add(FaultKind.WRONG_TYPE, where, found, _JSON_NAMES[wanted])
        return None

    def required(self, value: Mapping[str, Any], key: str, wanted: type, where: str) -> Any:
        """Return ``value[key]`` if it exists with the type ``wanted``, else None and add a fault."""
        if key in value:
            return self.typed(value[key], wanted, inside(where, key))
        self.add(FaultKind.MISSING_KEY, inside(where, key), "nothing", _JSON_NAMES[wanted])
        return None


def inside(where: str, key: str) -> str:
    """Return the path of ``key`` in the object at ``where``."""
    return f"{where}.{key}" if where else key


def shown(value: object) -> str:
    """Return ``value`` as messages quote it: on one line, short, in ASCII."""
    return _cut(ascii(value), SHOWN_CHARACTERS)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]}..."
