"""TrainingRun v1alpha1: the model that a run starts from. Part of the hand-written schema; see `spec.py`."""

from typing import Annotated, Literal

from pydantic import Field

from trainyard_api.model import ApiModel
from trainyard_api.spec_types import DnsLabel, FreeForm, PositiveInt, Uri


class ModelFromRun(ApiModel):
    """The model that another TrainingRun of the same namespace made."""

    name: DnsLabel
    """Name of the TrainingRun; this run waits until it has succeeded."""


class PretrainedModel(ApiModel):
    """A model stored as a Hugging Face folder."""

    uri: Uri
    """Its folder (safetensors, never pickle) by file, http(s), s3, gs or az URI; or hf://organisation/name@commit."""


class Architecture(ApiModel):
    """A model that starts from random weights."""

    preset: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of a shipped architecture, such as bert-mini or llama-tiny; `trainyard presets` lists them."""
    overrides: FreeForm = {}
    """Fields of the Transformers configuration that replace the preset's, such as num_hidden_layers."""


class StudentWidth(ApiModel):
    """A student narrower than its teacher: how its weights are cut from the teacher's."""

    hidden_size: PositiveInt
    """Features of a token between layers, a multiple of the size of the teacher's attention heads."""
    intermediate_size: PositiveInt | None = None
    """Features inside the feed-forward layers; in the teacher's ratio to the hidden size when not set."""
    method: Literal["Slice", "Project"] = "Slice"
    """Slice keeps the strongest features; Project maps them onto the embeddings' principal components."""


class StudentOfTeacher(ApiModel):
    """A shallower or narrower copy of the teacher; layers are counted from 1 at the bottom."""

    every_nth_layer: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Copy every nth layer, counted from the top, so that the last one is among them."""
    layers: (
        Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1, max_length=1000)] | None
    ) = None
    """Copy these layers of the teacher, in ascending order."""
    width: StudentWidth | None = None
    """Also make it narrower; as wide as the teacher when not set."""


class Model(ApiModel):
    """The model to train; exactly one member is set."""

    architecture: Architecture | None = None
    """Start from random weights."""
    pretrained: PretrainedModel | None = None
    """Start from a stored model."""
    from_run: ModelFromRun | None = None
    """Start from the model of another run."""
    from_teacher: StudentOfTeacher | None = None
    """Start from layers of the model that distillation.teacher names."""
