"""What a key or a project may use, at most. No field is limited unless an operator says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

LimitedKind = Literal["key", "project"]


class Limits(BaseModel):
    """Limits of one key or project; None: no limit.

    Requests and tokens are counted by each server for itself, in windows of one minute. Training is counted by all
    servers together. Bytes are limits of projects alone: adapters and files belong to a project, not to a key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(None, ge=1, le=2**53, description="Inference requests a minute.")
    tokens_per_minute: int | None = Field(None, ge=1, le=2**53, description="Prompt and completion tokens a minute.")
    concurrent_requests: int | None = Field(None, ge=1, le=2**53, description="Inference requests at once.")
    training_minutes_per_day: int | None = Field(
        None, ge=1, le=2**53, description="Minutes a day (UTC) that workers train its jobs; a job beyond is paused."
    )
    stored_bytes: int | None = Field(None, ge=1, le=2**53, description="Bytes of a project's adapters and files.")
    resident_bytes: int | None = Field(None, ge=1, le=2**53, description="Bytes of a project's resident adapters.")

    @classmethod
    def parse(cls, pairs: Iterable[str]) -> Self:
        """Return the limits in ``name=number`` texts. Raises ValueError for another form, pydantic's for a value."""
        fields: dict[str, str] = {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not equals or name not in cls.model_fields or name in fields:
                raise ValueError(f"{pair!r:.100} is not one NAME=NUMBER of {', '.join(cls.model_fields)}")
            fields[name] = value
        return cls.model_validate(fields)

    def check_kind(self, kind: LimitedKind) -> None:
        """Raise ValueError if one of the limits is none that a ``kind`` can have."""
        if kind == "key" and (wrong := [name for name in _OF_PROJECTS if getattr(self, name) is not None]):
            raise ValueError(f"{' and '.join(wrong)}: adapters and files belong to projects; limit the project")

    def over(self, defaults: Limits) -> Limits:
        """Return these limits, with those of ``defaults`` for fields that were not set; None that was set stays."""
        return self.model_copy(update={name: value for name, value in defaults if name not in self.model_fields_set})


_OF_PROJECTS: Final = ("stored_bytes", "resident_bytes")
NO_LIMITS: Final = Limits()
Defaults = Mapping[LimitedKind, Limits]
