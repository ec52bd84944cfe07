"""What a key or a project may use, at most. No field is limited unless an operator says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

LimitedKind = Literal["key", "project"]


class Limits(BaseModel):
    """Limits of one key or project; None: no limit. Each server counts by itself; windows are of one minute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(None, ge=1, le=2**53, description="Inference requests a minute.")
    tokens_per_minute: int | None = Field(None, ge=1, le=2**53, description="Prompt and completion tokens a minute.")
    concurrent_requests: int | None = Field(None, ge=1, le=2**53, description="Inference requests at once.")

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

    def over(self, defaults: Limits) -> Limits:
        """Return these limits, with those of ``defaults`` for fields that were not set; None that was set stays."""
        return self.model_copy(update={name: value for name, value in defaults if name not in self.model_fields_set})


NO_LIMITS: Final = Limits()
Defaults = Mapping[LimitedKind, Limits]
