"""``python``: the caller's function ``grade(sample, item)`` returns the reward. Off unless the operator allows it.

https://platform.openai.com/docs/guides/graders#python-graders
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from adapters.errors import WorkerProcessDied
from adapters.processes.limits import LimitExceeded
from adapters.processes.sandbox import SourceFailed
from trainer.errors import InvalidField
from trainer.graders.grader import Grade, Grader, GradingError, Sample, Ungraded
from trainer.graders.models import Models
from trainer.graders.python_processes import FUNCTION, PythonUnavailable

MAX_SOURCE_BYTES: Final = 256 << 10
"""OpenAI's limit."""


def _bounded(source: str) -> str:
    if (size := len(source.encode(errors="replace"))) > MAX_SOURCE_BYTES:
        context = {"most": f"{MAX_SOURCE_BYTES:,}", "size": f"{size:,}"}
        raise PydanticCustomError("source", "Input should have at most {most} bytes, and has {size}", context)
    return source


class PythonGrader(Grader):
    """Calls ``grade`` of ``source`` in a sandbox; the reward is the finite number that it returns."""

    type: Literal["python"]
    source: Annotated[str, Field(min_length=1), AfterValidator(_bounded)]
    image_tag: Annotated[str, Field(max_length=64)] | None = None
    """OpenAI's choice of packages. Here the packages are the server's own, whichever tag is stated."""

    async def check(self, models: Models, where: str) -> None:
        try:
            models.python.check()
        except PythonUnavailable as off:
            raise InvalidField(str(off), param=f"{where}.type") from off

    async def score(self, sample: Sample, models: Models) -> Grade:
        try:
            arguments = [_sample_json(sample), dict(sample.item)]
            return Grade(await models.python.call(models.project, self.source, arguments))
        except PythonUnavailable as off:
            raise Ungraded(GradingError.PYTHON_SERVER, str(off)) from off
        except SourceFailed as failed:
            raise Ungraded(GradingError.PYTHON_RUNTIME, str(failed)) from None
        except LimitExceeded as slow:
            message = f"{FUNCTION} took longer than {slow}: make it faster, or raise --max-grader-s"
            raise Ungraded(GradingError.UNRESPONSIVE, message) from None
        except WorkerProcessDied as died:
            raise Ungraded(GradingError.PYTHON_SERVER, died.message) from None
        except RecursionError:
            raise Ungraded(GradingError.OTHER, "the sample or the item is nested too deeply for JSON") from None


def _sample_json(sample: Sample) -> dict[str, Any]:
    """Return the ``sample`` that ``grade`` gets: OpenAI's variables, with the one choice that was graded."""
    try:
        parsed = sample.output_json
    except ValueError:
        parsed = None
    message = {"role": "assistant", "content": sample.output_text}
    return {
        "output_text": sample.output_text,
        "output_json": parsed,
        "output_tools": [],
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }
