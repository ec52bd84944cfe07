"""Compares the chat template and the tokenizer that an adapter brings with those of the base model.

All adapters of a server share the base model's, so that an adapter trained with others answers unlike it was trained.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from adapters import strict_json
from adapters.lora.config_fields import shown
from adapters.storage.manifest import ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE

_VOCABULARY_FILE: Final = "tokenizer.json"
_SHOWN: Final = 3

_ReadJson = Callable[[str], dict[str, Any]]
"""Reads a file of JSON by its name; empty where there is none, or it holds something else."""


def tokenizer_notes(files: Mapping[str, bytes], base: Path) -> Iterator[str]:
    """Yield a note for each difference between the adapter's ``files`` and those of the base model in ``base``.

    Files that cannot be read are passed over, and so is everything that only one of the two has. Blocks.
    """
    sent, own = _json_in(files), _json_under(base)
    template = _template(_text(files.get(TEMPLATE_FILE)), sent)
    if template is not None and template != _template(_text_of(base / TEMPLATE_FILE), own):
        yield (
            "it brings a chat template that differs from the base model's, and is not used: chats are rendered with "
            "the template that the server has for all adapters"
        )
    if (added := _added_tokens(sent)) and (new := added - _vocabulary(own)):
        names = ", ".join(shown(token) for token in sorted(new)[:_SHOWN])
        yield f"its tokenizer has {len(new)} tokens that the base model's lacks, such as {names}: they are not used"
    ends, base_ends = _end_token(sent), _end_token(own)
    if ends is not None and base_ends is not None and ends != base_ends:
        yield f"its tokenizer ends an answer with {shown(ends)}, the base model's with {shown(base_ends)}"


def _json_in(files: Mapping[str, bytes]) -> _ReadJson:
    def read(name: str) -> dict[str, Any]:
        try:
            value = strict_json.parse(files.get(name, b""))
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    return read


def _json_under(directory: Path) -> _ReadJson:
    def read(name: str) -> dict[str, Any]:
        try:
            value = json.loads((directory / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    return read


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "replace")


def _text_of(path: Path) -> str | None:
    try:
        return _text(path.read_bytes())
    except OSError:
        return None


def _template(text: str | None, read: _ReadJson) -> str | None:
    """Return the chat template: the file's ``text``, or that in the tokenizer's config; None where there is none."""
    found: Any = text
    if found is None:
        found = read(TOKENIZER_CONFIG_FILE).get("chat_template")
    if isinstance(found, list):  # several, each with a name
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found.strip() if isinstance(found, str) else None


def _added_tokens(read: _ReadJson) -> set[str]:
    decoder = read(TOKENIZER_CONFIG_FILE).get("added_tokens_decoder")
    entries = decoder.values() if isinstance(decoder, dict) else ()
    return {*read(ADDED_TOKENS_FILE), *filter(None, map(_content, entries))}


def _vocabulary(own: _ReadJson) -> set[str]:
    """Return every token of the base model, as far as its files list them."""
    whole = own(_VOCABULARY_FILE)
    model, added = whole.get("model"), whole.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    tokens = {content for each in added or () if (content := _content(each)) is not None}
    return tokens | _added_tokens(own) | (set(vocabulary) if isinstance(vocabulary, dict) else set())


def _end_token(read: _ReadJson) -> str | None:
    places = (read(name).get("eos_token") for name in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE))
    return next((content for place in places if (content := _content(place)) is not None), None)


def _content(token: Any) -> str | None:
    """Return a token's text: it stands by itself, or in an object with what else is true about it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
