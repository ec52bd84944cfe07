"""Request bodies of fine-tuning jobs: OpenAI's fields, and our own beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, create_model

from adapters.names import fit_adapter_name
from server.access.caller import Caller
from server.http.schemas.base import Body, Json
from trainer.data.prompts import PROMPT, read_prompt
from trainer.errors import InvalidField
from trainer.jobs.job import JobDraft
from trainer.options import JobOptions, MethodOptions
from trainer.training_method import TrainingMethod

GRADER: Final = "method.reinforcement.grader"
"""The place of a job's grader."""
VERDICT_GRADER: Final = "verdict_grader"


class _MethodBody(Body):
    """``method``: its type, and under the same name its hyperparameters. The table of methods adds a field for each."""

    type: TrainingMethod

    def to_json(self, teacher: str | None = None) -> Json:
        """Return the method with all its hyperparameters: those left out have their defaults.

        ``teacher``: the version that the method's teacher is.

        Raises:
            InvalidField: hyperparameters of another method; no grader or no prompt where the method has one.
        """
        for other in TrainingMethod:
            if other is not self.type and getattr(self, other) is not None:
                raise InvalidField(
                    f"method.{other} has no effect with method.type '{self.type}': leave it out",
                    param=f"method.{other}",
                )
        stated = getattr(self, self.type)
        if self.type.draws and stated is None:
            raise InvalidField(f"{GRADER} is missing: the grader whose rewards the job learns from", param=GRADER)
        if self.type.traits.is_taught and stated is None:
            raise InvalidField(f"{PROMPT} is missing: the messages to distil", param=PROMPT)
        options = (stated and stated.hyperparameters) or self.type.traits.options()
        prompt = read_prompt(stated.prompt) if self.type.traits.is_taught else None
        return _method_json(self.type, options, grader=self.grader, prompt=prompt, teacher=teacher)

    @property
    def teacher(self) -> str | None:
        """The reference of the model that answers the questions, where the method has one."""
        return getattr(getattr(self, self.type), "teacher", None)

    @property
    def grader(self) -> Json | None:
        """The definition of the grader, where the method has one."""
        return getattr(getattr(self, self.type), "grader", None)


def _method_json(method: TrainingMethod, options: MethodOptions, **beside: Any) -> Json:
    stated = {name: value for name, value in beside.items() if value is not None}
    return {"type": method, method: {**stated, "hyperparameters": options.model_dump()}}


def _field(method: TrainingMethod) -> Any:
    """Return the optional field ``method.<name>`` as ``create_model`` takes it."""
    options: Any = method.traits.options
    fields: dict[str, Any] = {"hyperparameters": (options | None, None)}
    if method.draws:
        fields["grader"] = (dict[str, Any], ...)
    if method.traits.is_taught:
        before = "Messages that the teacher has before each question; a text is a system message."
        fields["prompt"] = (str | list[dict[str, Any]], Field(description=before))
        asked = "Reference of the model that answers the questions; by default the base model."
        fields["teacher"] = (str | None, Field(None, description=asked))
    body: Any = create_model(f"{method.title()}Body", __base__=Body, **fields)
    return body | None, None


if TYPE_CHECKING:
    MethodBody = _MethodBody
else:
    MethodBody = create_model(
        "MethodBody", __base__=_MethodBody, **{str(method): _field(method) for method in TrainingMethod}
    )


_Name = Annotated[str, Field(min_length=1, max_length=128)]


class WandbBody(Body):
    """``integrations[].wandb``."""

    project: _Name
    name: _Name | None = Field(None, description="Name of wandb's run; by default the job's id.")
    entity: _Name | None = Field(None, description="Team or user; by default the server's own.")
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(None, max_length=50)


class IntegrationBody(Body):
    """A tracking library that also receives the job's metrics."""

    type: Literal["wandb"]
    wandb: WandbBody


class JobBody(Body, JobOptions):
    """Body of a new job. OpenAI's client sends our own fields as ``extra_body``."""

    model: str
    training_file: str
    validation_file: str | None = None
    method: MethodBody | None = None
    hyperparameters: MethodOptions | None = Field(None, deprecated="use method.supervised.hyperparameters")
    suffix: str | None = None
    metadata: dict[str, str] | None = None
    integrations: list[IntegrationBody] | None = Field(None, max_length=5)
    adapter: str | None = Field(
        None, description="Adapter to publish the result to, as its next version; else the suffix names it."
    )
    warm_start: str | None = Field(
        None, description="Reference of the adapter to go on from; `model` may name it instead."
    )
    verdict_grader: Json | None = Field(
        None,
        description="Grader whose rewards decide the verdict instead of exact match and likelihood; the row's messages "
        "are `{{item.messages}}`, its reference answer is `{{item.reference}}`.",
    )

    @property
    def fitted_suffix(self) -> str | None:
        """The suffix as names can carry it: OpenAI's API takes any characters."""
        return self.suffix and fit_adapter_name(self.suffix)

    @property
    def graders(self) -> Mapping[str, Json]:
        """The definitions of graders, by their place in the body.

        Raises:
            InvalidField: a grader of the verdict, of a method whose verdicts have no use for one.
        """
        method = TrainingMethod.SUPERVISED if self.method is None else self.method.type
        if self.verdict_grader is not None and (method.draws or method is TrainingMethod.REWARD):
            raise InvalidField(
                f"verdict_grader has no effect with method.type '{method}': leave it out", param=VERDICT_GRADER
            )
        of_method = None if self.method is None else self.method.grader
        named = {GRADER: of_method, VERDICT_GRADER: self.verdict_grader}
        return {place: definition for place, definition in named.items() if definition is not None}

    @property
    def teacher(self) -> str | None:
        """The reference of the model that answers the questions, where the method has one."""
        return None if self.method is None else self.method.teacher

    def draft(self, extension: Json, caller: Caller, base_fingerprint: str, *, teacher: str | None = None) -> JobDraft:
        """Return the job to create for ``caller`` on that base model, with our own fields as ``extension`` has them.

        ``teacher``: the version that the method's teacher is.

        Raises:
            InvalidField: a field is out of bounds.
        """
        suffix = self.fitted_suffix
        is_fitted = suffix != self.suffix
        integrations = [integration.model_dump(exclude_none=True) for integration in self.integrations or ()]
        return JobDraft(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            project=caller.project,
            key_id=caller.key_id,
            base_fingerprint=base_fingerprint,
            method=self._method(teacher),
            suffix=suffix,
            seed=self.seed,
            metadata=self.metadata,
            integrations=integrations or None,
            extension=extension,
            notes=(f"The suffix '{self.suffix}' is written '{suffix}' in names",) if is_fitted else (),
        )

    def extension(self) -> Json:
        """Return those of our own fields that the body states."""
        own = (JobOptions.model_fields.keys() | {"adapter", "warm_start", "verdict_grader"}) - {"seed"}
        return self.model_dump(mode="json", include=own, exclude_unset=True, exclude_none=True)

    def _method(self, teacher: str | None) -> Json:
        deprecated: MethodOptions | None = self.__dict__["hyperparameters"]  # reading the attribute would warn
        if self.method is None:
            return _method_json(TrainingMethod.SUPERVISED, deprecated or MethodOptions())
        if deprecated is not None:
            raise InvalidField(
                "hyperparameters are given twice: leave out the deprecated ones at the top", param="hyperparameters"
            )
        return self.method.to_json(teacher)


class PermissionsBody(Body):
    """Body of new permissions."""

    project_ids: list[str] = Field(min_length=1)
