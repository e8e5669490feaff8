"""Cut a narrow model's weights from a wide one's: whole heads, inner features, features between layers.

This gives a start, not the same function: a norm over fewer features is another norm. What is kept is what
weighs most: heads and inner features by the squares of all weights that touch them, features between layers
by the embeddings, either as they stand (Slice) or turned onto their principal components (Project).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec_model import StudentWidth
from trainyard_trainer.models.weight_axes import Axis, axes_of

INNER = {"gpt2": "n_inner"}
"""What families call the inner size of a feed-forward, where it is not intermediate_size."""

_WHERE = "spec.model.fromTeacher.width"
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The widths of a model."""

    hidden: int
    inner: int
    head: int
    num_heads: int
    num_key_value_heads: int


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """The widths of a configuration of one of the four families."""
    num_heads = int(config.num_attention_heads)
    return Sizes(
        hidden=int(config.hidden_size),
        inner=int(
            getattr(config, INNER.get(config.model_type, "intermediate_size")) or 4 * config.hidden_size
        ),
        head=int(getattr(config, "head_dim", None) or config.hidden_size // num_heads),
        num_heads=num_heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or num_heads),
    )


def narrowed_sizes(teacher: Sizes, width: StudentWidth) -> Sizes:
    """The widths of a student: heads keep their size, and query heads their number for each key-value head.

    Raises:
        ConfigurationError: the width is larger than the teacher's, or does not divide into heads.
    """
    group = teacher.num_heads // teacher.num_key_value_heads
    multiple = teacher.head * group
    if not multiple <= width.hidden_size <= teacher.hidden or width.hidden_size % multiple:
        raise ConfigurationError(
            f"{_WHERE}.hiddenSize",
            f"{width.hidden_size} is no multiple of {multiple} (heads of {teacher.head}, {group} for each "
            f"key-value head) up to {teacher.hidden}",
            f"Write such a multiple, or keep the width by removing {_WHERE}",
        )
    inner = width.intermediate_size or max(1, round(teacher.inner * width.hidden_size / teacher.hidden))
    if inner > teacher.inner:
        raise ConfigurationError(
            f"{_WHERE}.intermediateSize",
            f"{inner} is more than the teacher's {teacher.inner}",
            f"Write at most {teacher.inner}",
        )
    num_key_value_heads = width.hidden_size // multiple
    return Sizes(width.hidden_size, inner, teacher.head, num_key_value_heads * group, num_key_value_heads)


def hidden_basis(embedding: torch.Tensor, size: int, method: str) -> torch.Tensor:
    """Orthonormal directions of the stream between layers that a student keeps, [features, size].

    Args:
        embedding: [tokens, features].
        size: features to keep.
        method: Slice takes single features, those with the largest sum of squares, in their order; Project
            takes the embedding's first right singular vectors, which keep most of that sum.
    """
    energy = embedding.double()
    if method == "Project":
        _, vectors = torch.linalg.eigh(energy.T @ energy)
        largest_first: torch.Tensor = vectors.flip(1)
        return largest_first[:, :size].to(embedding.dtype)
    strongest = energy.square().sum(0).topk(size).indices.sort().values
    return torch.eye(embedding.shape[1], dtype=embedding.dtype)[:, strongest]


def narrowed_state(
    state: State, model_type: str, layers: tuple[str, ...], widths: tuple[Sizes, Sizes], basis: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The weights of a narrower model.

    Args:
        state: the teacher's weights by name.
        model_type: its family.
        layers: beginnings of the names of the layers; each chooses heads and inner features by itself.
        widths: those of the teacher and those of the student.
        basis: the directions between layers that are kept, [features of the teacher, of the student].
    """
    kept = {prefix: _kept_features(state, model_type, prefix, widths) for prefix in layers}
    narrowed = {}
    for name, weight in state.items():
        features = next((kept[prefix] for prefix in layers if name.startswith(prefix)), {})
        cut = weight
        for dimension, axis in enumerate(axes_of(model_type, name)):
            cut = _along(cut, dimension, axis, features, basis)
        narrowed[name] = cut.contiguous()
    return narrowed


def _along(
    weight: torch.Tensor,
    dimension: int,
    axis: Axis,
    features: Mapping[str, torch.Tensor],
    basis: torch.Tensor,
) -> torch.Tensor:
    """A weight, cut along one axis."""
    if axis.kind == "free":
        return weight
    if axis.kind in ("hidden", "gain"):
        # A factor of a feature becomes the mean factor of what makes up the new one.
        directions = basis.square() if axis.kind == "gain" else basis
        cut: torch.Tensor = torch.tensordot(weight, directions.to(weight.dtype), dims=([dimension], [0]))
        return cut.movedim(-1, dimension)
    parts = weight.chunk(axis.parts, dim=dimension)
    return torch.cat([part.index_select(dimension, features[axis.kind]) for part in parts], dim=dimension)


def _kept_features(
    state: State, model_type: str, prefix: str, widths: tuple[Sizes, Sizes]
) -> dict[str, torch.Tensor]:
    """The features inside one layer that a student keeps, by the kind of their axis, ascending."""
    teacher, student = widths
    squares = {"heads": torch.zeros(teacher.head * teacher.num_heads), "inner": torch.zeros(teacher.inner)}
    for name, weight in state.items():
        if not name.startswith(prefix):
            continue
        for dimension, axis in enumerate(axes_of(model_type, name)):
            if axis.kind in squares:
                size = weight.shape[dimension]
                by_feature = weight.float().square().movedim(dimension, 0).reshape(size, -1).sum(1)
                squares[axis.kind] += by_feature.view(axis.parts, -1).sum(0)
    group = teacher.head * teacher.num_heads // teacher.num_key_value_heads
    by_group = squares["heads"].view(teacher.num_key_value_heads, group).sum(1)
    groups = by_group.topk(student.num_key_value_heads).indices.sort().values
    return {
        "heads": _expanded(groups, group),
        "key_value": _expanded(groups, teacher.head),
        "inner": squares["inner"].topk(student.inner).indices.sort().values,
    }


def _expanded(groups: torch.Tensor, size: int) -> torch.Tensor:
    """The features of groups of equal size."""
    return (groups[:, None] * size + torch.arange(size)).flatten()
