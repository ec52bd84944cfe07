"""Request bodies of fine-tuning jobs: OpenAI's fields, and our own beside them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.http.schemas.adapters import Json
from server.http.schemas.body import Body
from trainer.errors import InvalidField
from trainer.jobs.job import JobDraft
from trainer.run_spec import ALL_LINEAR, AUTO, Auto, Quantization, TrainingMethod


def _auto_or(kind: type, least: float, most: float) -> BeforeValidator:
    """Admit "auto" and numbers within bounds. It runs first: of two alternatives pydantic would name both as fields."""
    rule = f"'auto' or a number {'above' if least == 0 else 'from'} {least:g} up to {most:g}"

    def check(value: object) -> object:
        is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if value != AUTO and not (is_number and least <= value <= most and value > 0):  # type: ignore[operator]
            raise PydanticCustomError("bounds", "Input should be {rule}", {"rule": rule})
        return value

    return BeforeValidator(check)


def _names_or_all(value: object) -> object:
    """Admit "all-linear" and names. It runs first, as above."""
    is_names = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    if value is not None and value != ALL_LINEAR and not is_names:
        raise PydanticCustomError("names", "Input should be '{all}' or a list of names", {"all": ALL_LINEAR})
    return value


MAX_MULTIPLIER: Final = 1e6
"""Of the learning rate. OpenAI names no bound; far above this one the rate itself overflows."""


class HyperparametersBody(Body):
    """Of ``supervised``; OpenAI's bounds."""

    n_epochs: Annotated[int | Auto, _auto_or(int, 1, 50)] = AUTO
    batch_size: Annotated[int | Auto, _auto_or(int, 1, 256)] = AUTO
    learning_rate_multiplier: Annotated[float | Auto, _auto_or(float, 0, MAX_MULTIPLIER)] = AUTO


class PreferenceHyperparametersBody(HyperparametersBody):
    """Of ``dpo`` and ``kto``."""

    beta: Annotated[float | Auto, _auto_or(float, 0, 2)] = AUTO


class SupervisedBody(Body):
    """``method.supervised``."""

    hyperparameters: HyperparametersBody | None = None

    def filled(self) -> Json:
        """Return it with what was left out."""
        return {"hyperparameters": (self.hyperparameters or HyperparametersBody()).model_dump()}


class PreferenceBody(Body):
    """``method.dpo`` and ``method.kto``."""

    hyperparameters: PreferenceHyperparametersBody | None = None

    def filled(self) -> Json:
        """Return it with what was left out."""
        return {"hyperparameters": (self.hyperparameters or PreferenceHyperparametersBody()).model_dump()}


class MethodBody(Body):
    """``method``: its type, and under the same name its hyperparameters."""

    type: TrainingMethod
    supervised: SupervisedBody | None = None
    dpo: PreferenceBody | None = None
    kto: PreferenceBody | None = None

    def filled(self) -> Json:
        """Return the method with every hyperparameter that may be said.

        Raises:
            InvalidField: hyperparameters of another method.
        """
        given = {TrainingMethod.SUPERVISED: self.supervised, TrainingMethod.DPO: self.dpo, TrainingMethod.KTO: self.kto}
        for other in TrainingMethod:
            if other is not self.type and given[other] is not None:
                raise InvalidField(
                    f"method.{other} has no effect with method.type '{self.type}': leave it out",
                    param=f"method.{other}",
                )
        empty = SupervisedBody() if self.type is TrainingMethod.SUPERVISED else PreferenceBody()
        return {"type": self.type, self.type: (given[self.type] or empty).filled()}


class ExtensionBody(Body):
    """Our keys of a job, beside OpenAI's; its client sends them as ``extra_body``."""

    adapter: str | None = Field(None, description="Adapter that becomes a version richer; else the suffix names it.")
    rank: int | None = Field(None, ge=1, description="Of the LoRA.")
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False, description="LoRA's scaling is alpha / rank.")
    targets: Annotated[list[str] | Literal["all-linear"] | None, BeforeValidator(_names_or_all)] = Field(
        None, description="Modules that get a LoRA."
    )
    quantization: Quantization | None = Field(None, description="How the base is held in training: QLoRA.")
    warm_start: str | None = Field(None, description="Reference to go on from, as `model` may be too.")
    max_length: int | None = Field(None, ge=1, description="Tokens in a row; longer ones are refused, never cut.")
    drop_long: bool | None = Field(None, description="Leave longer rows out instead.")
    packing: bool | None = Field(None, description="Several short rows in one sequence.")
    patience: int | None = Field(None, ge=1, description="Checkpoints without a better validation loss before the end.")
    checkpoint_steps: int | None = Field(None, ge=1, description="Steps from checkpoint to checkpoint.")


class WandbBody(Body):
    """``integrations[].wandb``."""

    project: str = Field(min_length=1, max_length=128)
    name: str | None = Field(None, min_length=1, max_length=128, description="Of wandb's run; else the job's id.")
    entity: str | None = Field(None, min_length=1, max_length=128, description="Team or user; else the server's own.")
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(None, max_length=50)


class IntegrationBody(Body):
    """A tracking library that gets a job's metrics too."""

    type: Literal["wandb"]
    wandb: WandbBody


class JobBody(ExtensionBody):
    """Body of a new job."""

    model: str
    training_file: str
    validation_file: str | None = None
    method: MethodBody | None = None
    hyperparameters: HyperparametersBody | None = Field(None, deprecated="say method.supervised.hyperparameters")
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    integrations: list[IntegrationBody] | None = Field(None, max_length=5)

    def draft(self, extension: Json) -> JobDraft:
        """Return what is asked for, with our own keys as ``extension`` has them.

        Raises:
            InvalidField: a field is out of bounds.
        """
        integrations = [integration.model_dump(exclude_none=True) for integration in self.integrations or ()]
        return JobDraft(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            method=self._method(),
            suffix=self.suffix,
            seed=self.seed,
            metadata=self.metadata,
            integrations=integrations or None,
            extension=extension,
        )

    def extension(self) -> Json:
        """Return those of our own keys that were said."""
        return self.model_dump(include=set(ExtensionBody.model_fields), exclude_none=True)

    def _method(self) -> Json:
        top = self.__dict__["hyperparameters"]  # as an attribute it would warn of itself
        if self.method is None:
            return MethodBody(type=TrainingMethod.SUPERVISED, supervised=SupervisedBody(hyperparameters=top)).filled()
        if top is not None:
            raise InvalidField(
                "hyperparameters are said twice: leave the deprecated ones at the top out", param="hyperparameters"
            )
        return self.method.filled()


class PermissionsBody(Body):
    """Body of new permissions."""

    project_ids: list[str] = Field(min_length=1)
