"""Which keys of `spec.deepspeed.config` a person may set, and where the others belong.

DeepSpeed ignores keys that it does not know, and some that it knows would undo what Trainyard computes (the
batch, the loss denominator, the data order). So only known harmless keys pass.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

_BATCH = "spec.training.globalBatchSize, spec.training.microBatchSize and spec.workers decide it"
_PRECISION = "Set spec.training.precision"
_DATA_ORDER = "Trainyard decides the data order from spec.training.seed"
_CHECKPOINT = "Set spec.checkpoint; Trainyard writes and commits checkpoints itself"
_WORKERS = "Set spec.workers"


class ValueType(StrEnum):
    """What the value of a key has to be."""

    BOOLEAN = "true or false"
    WHOLE_NUMBER = "a whole number of 0 or more"
    TEXT = "text"
    OBJECT = "an object"


OWNED_KEYS: dict[str, str] = {
    "train_batch_size": "Set spec.training.globalBatchSize",
    "train_micro_batch_size_per_gpu": "Set spec.training.microBatchSize",
    "gradient_accumulation_steps": f"Leave it out: {_BATCH}",
    "gradient_clipping": "Set spec.training.gradientClipping",
    "gradient_predivide_factor": f"Leave it out: {_BATCH}",
    "gradient_allreduce_op": f"Leave it out: {_BATCH}",
    "managed_gradient_accumulation": f"Leave it out: {_BATCH}",
    "prescale_gradients": f"Leave it out: {_BATCH}",
    "optimizer": "Set spec.training.optimizer",
    "scheduler": "Set spec.training.schedule",
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "bfloat16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": f"{_PRECISION}; gradients are always accumulated in FP32",
    "zero_allow_untested_optimizer": "Leave it out: Trainyard sets it",
    "zero_force_ds_cpu_optimizer": "Set spec.training.optimizer",
    "check_overflow": _PRECISION,
    "zero_optimization.compute_grad_norm": "Leave it out: progress reports the norm",
    "zero_optimization.stage": "Set spec.deepspeed.zeroStage",
    "seed": "Set spec.training.seed",
    "checkpoint": _CHECKPOINT,
    "load_universal_checkpoint": _CHECKPOINT,
    "nebula": _CHECKPOINT,
    "zero_optimization.elastic_checkpoint": _CHECKPOINT,
    "zero_optimization.load_from_fp32_weights": _CHECKPOINT,
    "elasticity": _WORKERS,
    "data_efficiency": _DATA_ORDER,
    "curriculum_learning": _DATA_ORDER,
    "dataloader_drop_last": _DATA_ORDER,
}
"""Keys that Trainyard sets from its own fields, by path, with what to do instead."""

UNSUPPORTED_KEYS = frozenset(
    {
        "activation_checkpointing",
        "autotuning",
        "compression_training",
        "eigenvalue",
        "hybrid_engine",
        "pipeline",
        "progressive_layer_drop",
        "quantize_training",
        "sequence_parallel_size",
        "sparse_attention",
        "sparse_gradients",
        "tensor_parallel",
        "zero_optimization.cpu_offload",
        "zero_optimization.cpu_offload_param",
        "zero_optimization.cpu_offload_use_pin_memory",
        "zero_optimization.legacy_stage1",
        "zero_optimization.mics_hierarchical_params_gather",
        "zero_optimization.mics_shard_size",
        "zero_optimization.offload_optimizer",
        "zero_optimization.offload_param",
        "zero_optimization.zenflow",
        "zero_optimization.zero_hpz_partition_size",
        "zero_optimization.zero_quantized_gradients",
        "zero_optimization.zero_quantized_nontrainable_weights",
        "zero_optimization.zero_quantized_weights",
    },
)
"""Keys of DeepSpeed features that Trainyard does not drive yet, or that would change the model unrecorded."""

ALLOWED_KEYS: dict[str, ValueType] = {
    "aio": ValueType.OBJECT,
    "comms_logger": ValueType.OBJECT,
    "communication_data_type": ValueType.TEXT,
    "csv_monitor": ValueType.OBJECT,
    "disable_allgather": ValueType.BOOLEAN,
    "disable_python_gc": ValueType.BOOLEAN,
    "dump_state": ValueType.BOOLEAN,
    "flops_profiler": ValueType.OBJECT,
    "memory_breakdown": ValueType.BOOLEAN,
    "log_level": ValueType.TEXT,
    "steps_per_print": ValueType.WHOLE_NUMBER,
    "timers": ValueType.OBJECT,
    "wall_clock_breakdown": ValueType.BOOLEAN,
    "zero_optimization": ValueType.OBJECT,
    "zero_optimization.allgather_bucket_size": ValueType.WHOLE_NUMBER,
    "zero_optimization.allgather_partitions": ValueType.BOOLEAN,
    "zero_optimization.contiguous_gradients": ValueType.BOOLEAN,
    "zero_optimization.gather_16bit_weights_on_model_save": ValueType.BOOLEAN,
    "zero_optimization.ignore_unused_parameters": ValueType.BOOLEAN,
    "zero_optimization.max_live_parameters": ValueType.WHOLE_NUMBER,
    "zero_optimization.max_reuse_distance": ValueType.WHOLE_NUMBER,
    "zero_optimization.log_trace_cache_warnings": ValueType.BOOLEAN,
    "zero_optimization.memory_efficient_linear": ValueType.BOOLEAN,
    "zero_optimization.overlap_comm": ValueType.BOOLEAN,
    "zero_optimization.param_persistence_threshold": ValueType.WHOLE_NUMBER,
    "zero_optimization.prefetch_bucket_size": ValueType.WHOLE_NUMBER,
    "zero_optimization.reduce_bucket_size": ValueType.WHOLE_NUMBER,
    "zero_optimization.reduce_scatter": ValueType.BOOLEAN,
    "zero_optimization.round_robin_gradients": ValueType.BOOLEAN,
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": ValueType.BOOLEAN,
    "zero_optimization.stage3_max_live_parameters": ValueType.WHOLE_NUMBER,
    "zero_optimization.stage3_max_reuse_distance": ValueType.WHOLE_NUMBER,
    "zero_optimization.stage3_param_persistence_threshold": ValueType.WHOLE_NUMBER,
    "zero_optimization.stage3_prefetch_bucket_size": ValueType.WHOLE_NUMBER,
    "zero_optimization.sub_group_size": ValueType.WHOLE_NUMBER,
    "zero_optimization.use_multi_rank_bucket_allreduce": ValueType.BOOLEAN,
}
"""Keys that pass: communication, memory and logging, none of which changes what is learnt, with their types.

What stands inside objects other than `zero_optimization` only DeepSpeed knows; the trainer has it read them.
"""


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """A key of `spec.deepspeed.config` that does not pass."""

    key: str
    """Path below `spec.deepspeed.config`."""
    problem: str
    """Why."""
    remedy: str
    """What to do instead."""


def refused_keys(config: Mapping[str, Any]) -> Iterator[RefusedKey]:
    """The keys of a DeepSpeed configuration that do not pass, or whose values do not, in their order."""
    for name, value in config.items():
        yield from _refused(name, value)
        if name == "zero_optimization" and isinstance(value, Mapping):
            for inner, inner_value in value.items():
                yield from _refused(f"{name}.{inner}", inner_value)


def _refused(key: str, value: Any) -> Iterator[RefusedKey]:
    """The refusal of one key, if any."""
    if key in OWNED_KEYS:
        yield RefusedKey(key, "Trainyard sets this key itself", OWNED_KEYS[key])
    elif key in UNSUPPORTED_KEYS:
        yield RefusedKey(key, "this DeepSpeed feature is not supported yet", "Remove it")
    elif key not in ALLOWED_KEYS:
        known = sorted(ALLOWED_KEYS.keys() | OWNED_KEYS.keys())
        nearest = get_close_matches(key, known, n=1)
        remedy = f"Did you mean {nearest[0]}?" if nearest else "Remove it"
        yield RefusedKey(key, "DeepSpeed would ignore this unknown key", remedy)
    elif not _is_of_type(value, ALLOWED_KEYS[key]):
        wanted = ALLOWED_KEYS[key]
        example = "{overlap_comm: true}" if key == "zero_optimization" else _EXAMPLES.get(wanted)
        remedy = f"Write {wanted}, such as {example}" if example else f"Write {wanted}"
        yield RefusedKey(key, f"this must be {wanted}, not {value!r}", remedy)


_EXAMPLES = {ValueType.WHOLE_NUMBER: "50000000", ValueType.OBJECT: "{enabled: true}"}


def _is_of_type(value: Any, wanted: ValueType) -> bool:
    """Whether DeepSpeed gets what it expects; a whole number may be written as 5.0e+7."""
    match wanted:
        case ValueType.BOOLEAN:
            return isinstance(value, bool)
        case ValueType.WHOLE_NUMBER:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and value >= 0 and float(value).is_integer()
        case ValueType.TEXT:
            return isinstance(value, str)
        case ValueType.OBJECT:
            return isinstance(value, Mapping)
