"""The grammar of names: adapter names, aliases, and the references in a request's ``model``.

    model        := reference | fine-tuned
    reference    := adapter | adapter "@" alias | adapter "@" version
    sql             the version that alias `stable` points to
    sql@canary      the version that alias `canary` points to
    sql@7           version 7, which never changes

    fine-tuned   := "ft:" base ":" organization ":" [suffix] ":" job [":ckpt-step-" step]
    ft:base:patchbay:sql:9ABel2dg                 the result of a training job
    ft:base:patchbay:sql:9ABel2dg:ckpt-step-88    its checkpoint after step 88

    lora name    := text that is neither, as vLLM's load call may give one: acme/sql, base:sql, sql@step-3
    acme/sql        the version that `stable` of the adapter points to that was loaded under this name

Names are ASCII on purpose (no look-alikes) and never become file paths: blobs are addressed by digest.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from adapters.errors import InvalidName

DEFAULT_ALIAS = "stable"
DEFAULT_PROJECT = "default"
"""The project of keys that name none, and of everything on a server without keys."""

MAX_NAME_LENGTH = 96
MAX_FINE_TUNED_LENGTH = 512
MAX_LORA_NAME_LENGTH = 256
MAX_PROJECT_LENGTH = 64
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_LORA_NAME = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")

_FINE_TUNED_PREFIX = "ft:"
_STEP_PREFIX = "ckpt-step-"
_PART = "[!-9;-~]"  # visible ASCII without the colon, which only the base may have
_DIGEST_LENGTH = 8
_PARTS = re.compile(f"{_PART}*")
_FINE_TUNED = re.compile(
    rf"{_FINE_TUNED_PREFIX}[!-~]+:{_PART}+:{_PART}*:(?!{_STEP_PREFIX}){_PART}+"
    rf"(?P<checkpoint>:{_STEP_PREFIX}{_VERSION.pattern})?"
)


def check_adapter_name(name: str) -> str:
    """Return ``name`` if it is a valid adapter name; else InvalidName, whose message has the rule."""
    return _check(name, "adapter name", "name")


def check_project(project: str) -> str:
    """Return ``project`` if it is a valid name of a project; else InvalidName, whose message has the rule."""
    if len(project) > MAX_PROJECT_LENGTH:
        raise InvalidName(f"a project's name has at most {MAX_PROJECT_LENGTH} characters", param="project")
    return _check(project, "name of a project", "project")


def fit_adapter_name(text: str) -> str:
    """Return the adapter name that is nearest to ``text``: accents dropped, "-" for runs of characters not allowed.

    Text without a letter or digit of ASCII is returned as it is; it is no valid name.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    fitted = re.sub(r"\.\.+", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_text)).strip("._-")
    return fitted or text


def is_adapter_name(text: str) -> bool:
    """Whether ``text`` is a valid adapter name."""
    return len(text) <= MAX_NAME_LENGTH and ".." not in text and _NAME.fullmatch(text) is not None


def check_lora_name(name: str) -> str:
    """Return ``name`` if vLLM's load call may give it to an adapter whose own name it cannot be; else InvalidName.

    A fine-tuned name means one version for ever, and ``sql@stable`` is the default alias of ``sql``.
    """
    is_text = len(name) <= MAX_LORA_NAME_LENGTH and _LORA_NAME.fullmatch(name) is not None
    if not is_text or name.startswith(_FINE_TUNED_PREFIX) or name.endswith(f"@{DEFAULT_ALIAS}"):
        raise InvalidName(
            f"lora_name '{ascii(name)[1:-1][:MAX_NAME_LENGTH]}' is not valid: use 1 to {MAX_LORA_NAME_LENGTH} visible "
            f"ASCII characters that do not begin with '{_FINE_TUNED_PREFIX}' or end with '@{DEFAULT_ALIAS}'",
            param="lora_name",
        )
    return name


def name_for(lora_name: str, *, is_taken: bool = False) -> str:
    """Return an adapter name for the adapter that was loaded as ``lora_name``: the characters that names may have.

    With ``is_taken`` the end of the name is a digest of ``lora_name``, because another adapter has the plain one.
    """
    digest = hashlib.sha256(lora_name.encode()).hexdigest()[:_DIGEST_LENGTH]
    plain = fit_adapter_name(lora_name)[: MAX_NAME_LENGTH - _DIGEST_LENGTH - 1].strip("._-")
    is_fit = is_adapter_name(plain)
    return plain if is_fit and not is_taken else f"{plain if is_fit else 'adapter'}-{digest}"


def check_alias(alias: str) -> str:
    """Return ``alias`` if it is a valid alias; else InvalidName. Digits alone would be a version."""
    if alias.isdigit():
        raise InvalidName(
            f"alias '{alias}' reads as a version number; use a name with a letter, such as 'v{alias}'", param="alias"
        )
    return _check(alias, "alias", "alias")


def _check(text: str, noun: str, param: str) -> str:
    if not is_adapter_name(text):
        raise InvalidName(
            f"{noun} '{text[:MAX_NAME_LENGTH]}' is not valid: use 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' "
            "or '-', beginning and ending with a letter or digit, without '..'",
            param=param,
        )
    return text


@dataclass(frozen=True, slots=True)
class Reference:
    """An adapter and either a version number or an alias, as a request's ``model`` names them."""

    adapter: str
    version: int | None = None
    alias: str = DEFAULT_ALIAS

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse ``adapter``, ``adapter@alias`` or ``adapter@version``; InvalidName for other text."""
        adapter, at, tail = text.partition("@")
        check_adapter_name(adapter)
        if not at:
            return cls(adapter)
        if _VERSION.fullmatch(tail):
            return cls(adapter, version=int(tail))
        return cls(adapter, alias=check_alias(tail))

    def __str__(self) -> str:
        return f"{self.adapter}@{self.version if self.version is not None else self.alias}"


@dataclass(frozen=True, slots=True)
class FineTunedName:
    """A name in OpenAI's form that a training job gives to one version, for ever.

    ``ft:<base>:<organization>:<suffix or nothing>:<job>``, where ``job`` is the job's id without ``ftjob-``, names the
    job's result; with ``:ckpt-step-<step>`` appended, a checkpoint. At most ``MAX_FINE_TUNED_LENGTH`` characters.
    https://platform.openai.com/docs/api-reference/fine-tuning/checkpoint-object
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> FineTunedName:
        """Return ``text`` as a fine-tuned name; InvalidName if it is none."""
        if len(text) > MAX_FINE_TUNED_LENGTH or not _FINE_TUNED.fullmatch(text):
            raise InvalidName(
                f"'{text[:MAX_NAME_LENGTH]}' is no fine-tuned name: write ft:<base>:<organization>:<suffix>:<job>, "
                f"with :{_STEP_PREFIX}<step> behind it for a checkpoint, in at most {MAX_FINE_TUNED_LENGTH} visible "
                "ASCII characters; the suffix may be empty, and only the base may contain ':'",
                param="model",
            )
        return cls(text)

    @classmethod
    def of(cls, base: str, organization: str, suffix: str | None, job: str, step: int | None = None) -> FineTunedName:
        """Return the name of the result of ``job`` (its id without ``ftjob-``); with a ``step``, of that checkpoint.

        Raises:
            InvalidName: a part has characters that are not allowed, or the name is too long.
        """
        parts = [organization, suffix or "", job]
        for part in parts:
            if not _PARTS.fullmatch(part):
                raise InvalidName(
                    f"'{part}' cannot be a part of a fine-tuned name: use visible ASCII characters other than ':'",
                    param="suffix",
                )
        return cls.parse(":".join(["ft", base, *parts, *([] if step is None else [f"{_STEP_PREFIX}{step}"])]))

    @property
    def is_checkpoint(self) -> bool:
        """True for a checkpoint of a job, False for its result."""
        named = _FINE_TUNED.fullmatch(self.text)
        return named is not None and named["checkpoint"] is not None

    def __str__(self) -> str:
        return self.text


def parse_reference(text: str) -> Reference | FineTunedName:
    """Parse a request's ``model``, a fine-tuned name if it begins with ``ft:``; InvalidName if it is neither."""
    return FineTunedName.parse(text) if text.startswith(_FINE_TUNED_PREFIX) else Reference.parse(text)
