"""The gate of an alias: which verdict a version needs before the alias may point to it.

An eval writes its verdict into the report of a version: ``"verdict": {"result": "better", "of": {…}}``. ``result`` is
``better``, ``no_gain`` or ``worse``; ``of`` holds the numbers behind it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from adapters.errors import VerdictNeeded

VERDICT: Final = "verdict"
"""The entry of a version's report."""


class VerdictResult(StrEnum):
    """How a version did in an eval, beside what it was compared with."""

    BETTER = "better"
    NO_GAIN = "no_gain"
    WORSE = "worse"


class Requirement(StrEnum):
    """The verdict that an alias demands."""

    BETTER = "better"
    NO_WORSE = "no_worse"


_PASSING: Final = {
    Requirement.BETTER: frozenset({VerdictResult.BETTER}),
    Requirement.NO_WORSE: frozenset({VerdictResult.BETTER, VerdictResult.NO_GAIN}),
}


def verdict_in(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the verdict of a version's ``report``; None if it has none, or one that is not well-formed."""
    found = report.get(VERDICT)
    if not isinstance(found, dict) or found.get("result") not in set(VerdictResult):
        return None
    return found


def passes(requirement: Requirement | None, report: Mapping[str, Any]) -> bool:
    """Whether a version with this ``report`` satisfies ``requirement``; None demands nothing."""
    verdict = verdict_in(report)
    return requirement is None or (verdict is not None and verdict["result"] in _PASSING[requirement])


def check_gate(requirement: Requirement | None, report: Mapping[str, Any], *, version: str, alias: str) -> None:
    """Raise VerdictNeeded unless ``passes``. ``version``, ``alias``: their names, for the message."""
    if requirement is None or passes(requirement, report):
        return
    verdict = verdict_in(report)
    found = "has no verdict" if verdict is None else f"has the verdict '{verdict['result']}'"
    raise VerdictNeeded(
        f"alias '{alias}' demands the verdict '{requirement}', and version '{version}' {found}: evaluate the version, "
        "choose another one, or send `force`, which is recorded",
        requirement=requirement,
        verdict=verdict,
    )
