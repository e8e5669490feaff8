"""How large a run is: parameters, memory of a process and arithmetic per token, before it is built."""

from dataclasses import dataclass

from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.data.stored_size import StoredSize
from trainyard_trainer.models.architecture import (
    padded_vocabulary_size,
    resolve_architecture,
    served_objective,
)
from trainyard_trainer.models.parameter_count import ParameterCount, Shape, count_parameters, model_shape

ASSUMED_VOCABULARY_SIZE = 32_768
"""Used where the vocabulary is known only once an existing tokenizer has been read."""

BUCKET_ELEMENTS = 50_000_000
"""Gradient elements that ZeRO holds for communication; the engine's configuration sets the same."""

LOGITS_CHUNK_POSITIONS = 8192
"""Positions whose logits exist at once; the loss computes larger batches in chunks of it."""

_OPTIMIZER_BYTES = {"AdamW": 8, "SGD": 4, "Lion": 4}
"""Bytes of fp32 state per parameter: two moments, or one."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Peak memory of one training process, in bytes by part; the framework's own share is not included."""

    parameters: int
    gradients: int
    master_parameters: int
    optimizer_state: int
    activations: int
    logits: int
    teacher: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return (
            self.parameters
            + self.gradients
            + self.master_parameters
            + self.optimizer_state
            + self.activations
            + self.logits
            + self.teacher
        )


@dataclass(frozen=True, slots=True)
class SizeEstimate:
    """The size of a run."""

    parameters: ParameterCount
    memory: MemoryEstimate
    flops_per_token: int
    """Floating-point operations of a forward and a backward pass, per token of a full row."""
    vocabulary_size: int
    """Rows of the embedding, padded to a multiple of 64."""
    vocabulary_is_assumed: bool
    """Whether the vocabulary is a guess, because an existing tokenizer has not been read yet."""


def estimate(
    plan: RunPlan, *, vocabulary_size: int | None = None, teacher: StoredSize | None = None
) -> SizeEstimate:
    """Estimate the size of a run from its plan.

    Parameters are exact. Memory follows ZeRO (Rajbhandari et al., arXiv:1910.02054, section 3) for the states
    and Korthikanti et al. (arXiv:2205.05198, section 4) for activations, adapted as the functions below say.

    Args:
        plan: the run.
        vocabulary_size: entries of the tokenizer, if it is known already.
        teacher: the size of the run's teacher, if it is known already.

    Raises:
        ConfigurationError: the run does not start from an architecture, or that is wrong.
    """
    spec = plan.spec
    if spec.model.architecture is None:
        raise ConfigurationError("spec.model.architecture", "it is not set", "Set it to start anew")
    resolved = resolve_architecture(spec.model.architecture, served_objective(spec))
    known = vocabulary_size or _vocabulary_to_train(spec)
    padded = padded_vocabulary_size(known or ASSUMED_VOCABULARY_SIZE)
    parameters = count_parameters(resolved, padded)
    shape = model_shape(resolved)
    predicted = _predicted_fraction(spec)
    memory = _state_memory(plan, parameters.total, shape)
    return SizeEstimate(
        parameters=parameters,
        memory=MemoryEstimate(
            **memory,
            activations=_activation_bytes(spec, shape, plan.batch.micro_batch_size),
            logits=_logits_bytes(
                spec, padded, plan.batch.micro_batch_size, _compared_fraction(spec, predicted)
            ),
            teacher=0 if teacher is None or spec.caches_teacher else teacher_bytes(plan, teacher),
        ),
        flops_per_token=flops_per_token(
            shape, parameters, padded, sequence_length=spec.data.sequence_length, predicted_fraction=predicted
        ),
        vocabulary_size=padded,
        vocabulary_is_assumed=known is None,
    )


def _vocabulary_to_train(spec: TrainingRunSpec) -> int | None:
    training = spec.tokenizer.train if spec.tokenizer else None
    return training.vocabulary_size if training else None


def _predicted_fraction(spec: TrainingRunSpec) -> float:
    """The fraction of the positions at which the vocabulary's logits are computed; 0 for classifiers."""
    objective, modeling = served_objective(spec), spec.language_modeling
    if objective == "CausalLM":
        return 1.0
    return modeling.masking.probability if modeling is not None else 0.0


def _compared_fraction(spec: TrainingRunSpec, predicted_fraction: float) -> float:
    """The fraction of the positions at which logits are computed: all where a teacher is compared at all."""
    losses = spec.distillation.losses if spec.distillation is not None else None
    compares_all = losses is not None and losses.logits is not None and losses.logits.positions == "All"
    return 1.0 if compares_all and spec.language_modeling is not None else predicted_fraction


def teacher_bytes(plan: RunPlan, teacher: StoredSize) -> int:
    """Bytes of a teacher's weights in each process that listens to it, while no layer computes.

    Args:
        plan: the run; under ZeRO-3 its processes share the layers.
        teacher: the size of the teacher.
    """
    of_layers = teacher.in_layers // (plan.batch.world_size if plan.divides_weights else 1)
    return (teacher.parameters - teacher.in_layers + of_layers) * _compute_bytes(plan.spec)


def flops_per_token(
    shape: Shape,
    parameters: ParameterCount,
    vocabulary_size: int,
    *,
    sequence_length: int,
    predicted_fraction: float,
) -> int:
    """Floating-point operations per token, a multiply-add counted as two.

    6 N for the non-embedding parameters N (2 forward, 4 backward; Kaplan et al., arXiv:2001.08361, section
    2.1), 6 H V for each predicted position, and 12 Q T for each layer's attention (Chowdhery et al.,
    arXiv:2204.02311, appendix B), with Q = heads x head size and T the keys that a query may see. Causal
    attention is counted whole, as that paper does, and nothing is added for recomputation; packed rows attend
    to less than a full one.
    """
    spans = [min(sequence_length, span or sequence_length) for span in shape.attention_spans]
    matrices = 6 * parameters.non_embedding
    projection = 6 * shape.hidden_size * vocabulary_size * predicted_fraction
    attention = 12 * shape.query_size * sum(spans)
    return round(matrices + projection + attention)


def _state_memory(plan: RunPlan, num_parameters: int, shape: Shape) -> dict[str, int]:
    """Bytes of what outlives a forward pass, for the engine's way of using DeepSpeed.

    ZeRO's 2 + 2 + 12 bytes per parameter become, with gradients accumulated in fp32: parameters in the
    compute format, gradients in it and in fp32, fp32 master weights and the optimizer's moments. Stage 0
    trains fp32 parameters (BF16 by autocast, which caches one 16-bit copy). Stage 1 divides master weights
    and moments, stage 2 also gradients and stage 3 also parameters; the bucket of gradients under
    communication is not divided.
    """
    spec, world_size, stage = plan.spec, plan.batch.world_size, plan.zero_stage
    compute_bytes = _compute_bytes(spec)
    state = _optimizer_bytes(spec, num_parameters, shape)
    if stage == 0:
        copy = compute_bytes if compute_bytes < 4 else 0
        return {
            "parameters": num_parameters * (4 + copy),
            "gradients": num_parameters * 4,
            "master_parameters": 0,
            "optimizer_state": state,
        }
    accumulation = 4 if compute_bytes < 4 else 0
    bucket = min(num_parameters, BUCKET_ELEMENTS) * compute_bytes
    whole_gradients = num_parameters * (compute_bytes + accumulation)
    return {
        "parameters": num_parameters * compute_bytes // (world_size if stage == 3 else 1),
        "gradients": bucket + (whole_gradients if stage == 1 else num_parameters * 4 // world_size),
        "master_parameters": num_parameters * 4 // world_size,
        "optimizer_state": state // world_size,
    }


def _compute_bytes(spec: TrainingRunSpec) -> int:
    return 4 if spec.training.precision == "FP32" else 2


def _optimizer_bytes(spec: TrainingRunSpec, num_parameters: int, shape: Shape) -> int:
    """Bytes of the whole optimizer state.

    Adafactor keeps a row and a column per matrix (about 2 / hidden size of the parameters) on whole
    parameters, and an element each on ZeRO's flat partitions, which have no rows.
    """
    name = spec.training.optimizer.name
    if name == "Adafactor":
        factored = spec.deepspeed.zero_stage == 0
        return 4 * num_parameters * 2 // shape.hidden_size if factored else 4 * num_parameters
    return num_parameters * _OPTIMIZER_BYTES[name]


def _activation_bytes(spec: TrainingRunSpec, shape: Shape, micro_batch_size: int) -> int:
    """Bytes that the forward pass keeps for the backward one.

    Per token and layer: two norm inputs and outputs (4 H), queries, keys, values and the attention's result,
    and the MLP's projections and activations (2 I, or 4 I where it is gated). This is the count of
    Korthikanti et al. without dropout masks and without the score matrix, which fused attention does not
    keep. The additive mask of packed rows (length squared per row) is added, once per kind of layer.
    """
    length = spec.data.sequence_length
    per_layer = (
        4 * shape.hidden_size
        + 2 * shape.query_size
        + 2 * shape.key_value_size
        + (4 if shape.is_gated else 2) * shape.intermediate_size
    )
    tokens = micro_batch_size * length
    num_masks = len(set(shape.attention_spans)) if spec.data.packing.enabled else 0
    mask = micro_batch_size * length * length * num_masks
    return (tokens * (shape.num_layers * per_layer + 2 * shape.hidden_size) + mask) * _compute_bytes(spec)


def _logits_bytes(
    spec: TrainingRunSpec, vocabulary_size: int, micro_batch_size: int, predicted_fraction: float
) -> int:
    """Bytes of logits, log-probabilities and their gradient at the predicted positions of one chunk."""
    positions = min(
        LOGITS_CHUNK_POSITIONS, round(micro_batch_size * spec.data.sequence_length * predicted_fraction)
    )
    bytes_per_logit = 12 if _compute_bytes(spec) == 4 else 16
    if spec.distillation is not None and not spec.caches_teacher:
        bytes_per_logit += 8  # the teacher's logits and log-probabilities, without a gradient
    return positions * vocabulary_size * bytes_per_logit
