"""What the sections of the configuration are made of: a frozen section, and types with their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.settings.addresses import with_port

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/[^\s]*)?$"), AfterValidator(with_port)]
Source = Annotated[
    str,
    Field(pattern=r"^(https?://[^\s/]+(/[^\s]*)?|dns://[^\s/:]+:\d+|k8s://[^\s/]+/[^\s/:]+:\d+)$"),
    AfterValidator(with_port),
]
HexKey = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
Usd = Annotated[float, Field(ge=0, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """A part of the configuration: unknown fields are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
