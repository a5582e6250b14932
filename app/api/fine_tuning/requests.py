"""The body of `POST /v1/fine_tuning/jobs`, judged by OpenAI's ranges; unknown fields are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator, model_validator

from app.api.admin.fields import PRINTABLE

AUTO = "auto"
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
MAX_SEED = 2**31 - 1


def is_text(value: str) -> bool:
    """Whether it can be stored, found and shown again: PostgreSQL keeps no null character, JSON no half of a pair."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)


def _whole(low: int, high: int) -> PlainValidator:
    def judged(value: Any) -> Any:
        if value != AUTO and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
            raise ValueError(f"expected auto, or a whole number from {low} to {high}")
        return value

    return PlainValidator(judged)


def _above_zero(high: float, said: str) -> PlainValidator:
    def judged(value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != AUTO and not (number and 0 < value <= high):
            raise ValueError(f"expected auto, or a number above 0{said}")
        return value

    return PlainValidator(judged)


Epochs = Annotated[Any, _whole(1, 50)]
BatchSize = Annotated[Any, _whole(1, 256)]
Multiplier = Annotated[Any, _above_zero(1e6, " (and at most a million)")]
Beta = Annotated[Any, _above_zero(2, " and at most 2")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hyperparameters(_Strict):
    """Supervised fine-tuning; `auto` is the trainer's recipe."""

    n_epochs: Epochs = AUTO
    batch_size: BatchSize = AUTO
    learning_rate_multiplier: Multiplier = AUTO


class DpoHyperparameters(Hyperparameters):
    """Preference tuning."""

    beta: Beta = AUTO


class Supervised(_Strict):
    """The supervised method."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(_Strict):
    """Direct preference optimisation."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(_Strict):
    """How it is trained; the settings of another method than `type` are refused."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _only_its_own(self) -> Method:
        others = {"supervised", "dpo", "reinforcement"} - {self.type}
        sent = sorted(name for name in others if getattr(self, name) is not None)
        if sent:
            raise ValueError(f"{sent[0]} is sent, but type is {self.type}")
        return self


class NewJob(_Strict):
    """A fine-tuning job to create. `recipe` (not OpenAI's) names one of the trainer's recipes for the base."""

    model: str = Field(min_length=1, max_length=400, pattern=PRINTABLE)
    training_file: str = Field(min_length=1, max_length=64, pattern=PRINTABLE)
    validation_file: str | None = Field(default=None, max_length=64, pattern=PRINTABLE)
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: str | None = Field(default=None, min_length=1, max_length=64, pattern=PRINTABLE)
    seed: int | None = Field(default=None, strict=True, ge=0, le=MAX_SEED)
    metadata: dict[str, str] | None = None
    integrations: list[dict[str, Any]] | None = None
    recipe: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")

    @field_validator("metadata")
    @classmethod
    def _small(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        pairs = value or {}
        if len(pairs) > MAX_PAIRS:
            raise ValueError(f"expected at most {MAX_PAIRS} pairs")
        if any(len(key) > MAX_KEY or len(text) > MAX_VALUE for key, text in pairs.items()):
            raise ValueError(f"expected keys of at most {MAX_KEY} and values of at most {MAX_VALUE} characters")
        if not all(is_text(part) for pair in pairs.items() for part in pair):
            raise ValueError("expected text without null characters and lone surrogates")
        return value

    @field_validator("integrations")
    @classmethod
    def _none(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if value:
            raise ValueError("none are offered here; trainers report to the MLflow that they are configured with")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> NewJob:
        if self.method is not None and self.hyperparameters is not None:
            raise ValueError("hyperparameters stand in method or at the top, not in both")
        return self

    @property
    def kind(self) -> str:
        """The method's name."""
        return "supervised" if self.method is None else self.method.type

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The hyperparameters, wherever they were sent."""
        if self.method is None:
            return (self.hyperparameters or Hyperparameters()).model_dump()
        if self.method.type == "dpo":
            return (self.method.dpo or Dpo()).hyperparameters.model_dump()
        return (self.method.supervised or Supervised()).hyperparameters.model_dump()
