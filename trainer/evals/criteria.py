"""The testing criteria of an eval: graders, and the score from which on an answer passes each."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainer.evals.data_source import texts_in
from trainer.evals.faults import Faults
from trainer.graders.grader import Grade, Grader, GradingError
from trainer.graders.json_schema import JsonSchemaGrader
from trainer.graders.models import Models
from trainer.graders.multi import MultiGrader
from trainer.graders.parsing import parse
from trainer.graders.python_grader import PythonGrader
from trainer.graders.reward_model import RewardModelGrader
from trainer.graders.template import variables

MAX_CRITERIA: Final = 32
FAULTS_OF_ANSWERS: Final = frozenset({GradingError.SAMPLE, GradingError.VARIABLE})
"""Errors of grading that an answer brings about: it fails. After others, nothing is known about the answer."""

_PYTHON_READS: Final = re.compile(r"output_text|output_json|output_tools|choices")
"""The keys of the sample that code gets; it may also look at the item alone."""

Json = Mapping[str, Any]


def read_criteria(definitions: Sequence[Json], item_schema: Json | None = None) -> list[Grader]:
    """Return the graders that ``definitions`` describe.

    ``item_schema``: of the items; where it lists properties, each ``{{item.…}}`` has to be one. None: not compared.

    Raises:
        InvalidField: with the faults of all of them.
    """
    faults, graders = Faults(), []
    where = "testing_criteria"
    if not 1 <= len(definitions) <= MAX_CRITERIA:
        faults.add(where, f"an eval has 1 to {MAX_CRITERIA} testing criteria (found {len(definitions)})")
    for index, definition in enumerate(definitions[:MAX_CRITERIA]):
        at = f"{where}.{index}"
        with faults.collecting():
            graders.append(grader := parse(definition, at))
            if not grader.name:
                faults.add(f"{at}.name", "a testing criterion has a name, which its results carry")
            if grader.type == "text_similarity" and grader.pass_threshold is None:
                faults.add(f"{at}.pass_threshold", "states the least similarity that passes, such as 0.8")
            known = (item_schema or {}).get("properties")
            missing = _item_keys(definition) - known.keys() if isinstance(known, dict) and known else set()
            for key in sorted(missing):
                faults.add(at, f"{{{{item.{key}}}}} is no property of data_source_config.item_schema: declare it there")
    faults.check()
    return graders


async def check_models(graders: Sequence[Grader], models: Models) -> None:
    """Check that the models of ``graders`` are available; raises InvalidField, or what ``models`` raise."""
    for index, grader in enumerate(graders):
        await grader.check(models, f"testing_criteria.{index}")


def reads_answer(grader: Grader) -> bool:
    """Whether ``grader``, or one of a multi, reads the answer: by ``{{sample.…}}`` or by itself."""
    if isinstance(grader, MultiGrader):
        return any(map(reads_answer, grader.graders.values()))
    if isinstance(grader, JsonSchemaGrader | RewardModelGrader):
        return True
    if isinstance(grader, PythonGrader):
        return _PYTHON_READS.search(grader.source) is not None
    return any(space == "sample" for text in texts_in(grader.model_dump()) for space, _ in variables(text))


def threshold(grader: Grader) -> float:
    """Return the least reward that passes: as stated, else the middle of the grader's range; 0 of a reward model."""
    if grader.pass_threshold is not None:
        return grader.pass_threshold
    if isinstance(grader, RewardModelGrader):
        return 0.0  # the log-odds of even chances
    low, high = getattr(grader, "range", None) or (0.0, 1.0)
    return float(low + high) / 2


def is_judged(result: Json) -> bool:
    """Whether a result says something of the answer; not where the grading itself failed."""
    return not result.get("errors", {}).keys() - FAULTS_OF_ANSWERS


def result_of(grader: Grader, grade: Grade) -> dict[str, Any]:
    """Return OpenAI's result of a criterion; ``errors`` and ``scores`` beside its fields."""
    own = {key: value for key, value in grade.scores.items() if key != "passed"}
    more = {"scores": own, "sub_rewards": dict(grade.sub_rewards), "errors": {**grade.errors}}
    return {
        "name": grader.name,
        "type": grader.type,
        "score": grade.reward,
        "passed": not grade.errors and grade.reward >= threshold(grader),
        **{key: value for key, value in more.items() if value},
    }


def _item_keys(definition: Json) -> set[str]:
    return {key for text in texts_in(definition) for space, key in variables(text) if space == "item"}
