"""The fields of adapter_config.json, of whatever kind of adapter: read, shown in messages, known to PEFT or not."""

import json
import re
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from typing import Any

from adapters import strict_json
from adapters.errors import AdapterRefused, Fault
from adapters.storage.manifest import CONFIG_FILE
from adapters.storage.mistaken_files import START_BYTES, mistaken_file

LORA = "LORA"
_OWN_FIELDS = ("peft_type", "r", "lora_alpha", "target_modules")
"""Without any of these fields a JSON object is no adapter's config."""
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})")
_SHOWN_FIELD = 256
_SHOWN_NAME = 60
_SHOWN_NAMES = 10

_KNOWN_PEFT = (0, 21)
_SWITCH = "use_"
"""How the names of PEFT's variants of LoRA begin."""
_HARMLESS_SWITCHES = frozenset(
    {"use_auth_token", "use_cache", "use_fast", "use_gradient_checkpointing", "use_liger_kernel", "use_lora"}
    | {"use_peft", "use_reentrant", "use_safetensors"}
)
"""Keys of transformers, trainers and Unsloth that change nothing about an adapter."""


def parse_fields(raw: bytes) -> dict[str, Any]:
    """Return the fields of adapter_config.json, of whatever kind of adapter, unchecked; ``peft_type`` in capitals.

    Raises:
        AdapterRefused: not a JSON object, or one without any field of an adapter's config.
    """
    needed = "the file that PEFT's save_pretrained wrote"
    try:
        fields = strict_json.parse(raw)
    except ValueError as error:
        found = f"text that is not JSON ({error})" if raw else "an empty file"
        is_json = raw.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"["))
        if not is_json and (mistaken := mistaken_file(raw[:START_BYTES])) is not None:
            found, needed = mistaken[0], f"{needed}: {mistaken[1]}"
        raise AdapterRefused([Fault(CONFIG_FILE, found, needed)]) from None
    if not isinstance(fields, dict):
        raise AdapterRefused([Fault(CONFIG_FILE, "JSON that is no object", needed)])
    if fields and fields.keys().isdisjoint(_OWN_FIELDS):
        found = f"JSON of another kind, with the fields {_listed(fields)}"
        raise AdapterRefused([Fault(CONFIG_FILE, found, needed)])
    return fields | {"peft_type": kind.upper()} if isinstance(kind := fields.get("peft_type"), str) else fields


def ignored_fields(fields: Mapping[str, Any], known: Container[str]) -> tuple[str, ...]:
    """Return the names of ``fields`` that have a value and are not ``known``."""
    return tuple(name for name, value in fields.items() if value and name not in known)


def ignored_note(ignored: Sequence[str]) -> Iterator[str]:
    """Yield the note for a report that fields called ``ignored`` were ignored, if there are any."""
    if ignored:
        yield f"fields of {CONFIG_FILE} that PEFT does not know were ignored, as PEFT does: {_listed(ignored)}"


def _listed(names: Collection[str]) -> str:
    first = ", ".join(ascii(name)[1:-1][:_SHOWN_NAME] for name in sorted(names)[:_SHOWN_NAMES])
    return f"{first} and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else first


def unknown_switches(fields: Mapping[str, Any], known: Container[str]) -> Iterator[Fault]:
    """Yield a fault for each field that is not ``known`` and may switch another way of computing on.

    Those are a ``use_…`` with a value, and what a later PEFT than 0.21 wrote as true or as an object.
    """
    version = _VERSION.match(str(fields.get("peft_version")))
    is_newer = version is not None and (int(version[1]), int(version[2])) > _KNOWN_PEFT
    for name in ignored_fields(fields, known):
        value = fields[name]
        is_switch = name.startswith(_SWITCH) or (is_newer and (value is True or isinstance(value, dict)))
        if is_switch and name not in _HARMLESS_SWITCHES:
            needed = "a field of PEFT 0.21: remove it if it only steered training, else train without it"
            yield config_fault(name, shown(value), needed)


def shown(value: Any) -> str:
    """``value`` as JSON, short enough for a message."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def config_fault(field: str, found: str, needed: str) -> Fault:
    # ascii: a field's name may be any text
    return Fault(f"{CONFIG_FILE}: {ascii(field)[1:-1][:_SHOWN_FIELD]}", found, needed)
