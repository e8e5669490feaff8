"""The types of single fields of the TrainingRun."""

from typing import Annotated

from pydantic import Field, JsonValue

FreeForm = dict[str, JsonValue]
"""An object whose shape belongs to another project (a pod template, a DeepSpeed configuration)."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
Uri = Annotated[str, Field(min_length=1, max_length=2048)]
