"""The DeepSpeed engine of a run: its configuration, and the few calls the training loop makes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.batches import Batch
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.models.layers import is_adapter_parameter
from trainyard_trainer.optimization.optimizers import build_optimizer
from trainyard_trainer.optimization.parameter_groups import Pace, group_learning_rate

SMALL_MODEL_BUCKET_ELEMENTS = 50_000_000
"""Elements per communication bucket; DeepSpeed's 5e8 would hold 2 GB whatever the model's size."""

UNUSED_KERNEL = "deepspeed_shm_comm"
"""An all-reduce for inference that DeepSpeed compiles when it starts on a CPU; training never calls it."""

MODEL_PREFIX = "model."
"""What stands before the Transformers names of the parameters of a `LanguageModel` or `TaskModel`."""

COMPUTE_DTYPES = {"BF16": torch.bfloat16, "FP16": torch.float16, "FP32": torch.float32}


def check_precision(spec: TrainingRunSpec, device: torch.device) -> None:
    """Refuse number formats that would not train here.

    Raises:
        ConfigurationError: FP16 on a CPU, or without ZeRO.
    """
    if spec.training.precision != "FP16":
        return
    if device.type == "cpu":
        raise ConfigurationError(
            "spec.training.precision", "FP16 needs an accelerator and there is none here", "Use BF16 or FP32"
        )
    if spec.deepspeed.zero_stage == 0:
        raise ConfigurationError(
            "spec.deepspeed.zeroStage",
            "FP16 keeps its master weights in ZeRO, so stage 0 has none",
            "Use 1 or more",
        )


def engine_config(plan: RunPlan) -> dict[str, Any]:
    """The DeepSpeed configuration of a run.

    Clipping and accumulation stay with DeepSpeed except at stage 0 (see `Engine.step`). At stage 0 BF16 means
    autocast over fp32 parameters, since DeepSpeed would otherwise accumulate gradients in bf16; from stage 1
    on it means bf16 parameters with fp32 master weights and fp32 accumulation.
    """
    spec = plan.spec
    stage = plan.zero_stage
    precision = spec.training.precision
    config: dict[str, Any] = {
        "train_batch_size": plan.batch.global_batch_size,
        "train_micro_batch_size_per_gpu": plan.batch.micro_batch_size,
        "gradient_accumulation_steps": plan.batch.accumulation_steps,
        "gradient_clipping": spec.training.gradient_clipping if stage > 0 else 0.0,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": SMALL_MODEL_BUCKET_ELEMENTS,
            "allgather_bucket_size": SMALL_MODEL_BUCKET_ELEMENTS,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    if precision == "BF16" and stage == 0:
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    elif precision == "BF16":
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    elif precision == "FP16":
        config["fp16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return merge(config, dict(spec.deepspeed.config))


def check_deepspeed_config(config: dict[str, Any]) -> None:
    """Have DeepSpeed read a configuration without an engine; values inside its objects are known only to it.

    Raises:
        ConfigurationError: a value that DeepSpeed does not take; only the user's own can be such.
    """
    from deepspeed.runtime.config import DeepSpeedConfig  # noqa: PLC0415 - as in build_engine

    # DeepSpeed knows the number of processes only once it is initialised, so the whole batch is left out.
    rest = {key: value for key, value in config.items() if key != "train_batch_size"}
    try:
        DeepSpeedConfig(rest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"DeepSpeed does not take {first['input']!r} for {place} ({first['msg']})"
    except (ValueError, TypeError, AssertionError) as error:
        problem = f"DeepSpeed does not take it ({error})"
    else:
        return
    raise ConfigurationError("spec.deepspeed.config", problem, "Correct the value, or remove the key")


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, object by object; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


@dataclass
class Engine:
    """A DeepSpeed engine that divides gradients by the global number of predictions."""

    deepspeed_engine: Any
    optimizer: torch.optim.Optimizer
    ranks: Ranks
    zero_stage: int
    gradient_clipping: float

    def backward(self, term_sums: torch.Tensor, factors: torch.Tensor) -> None:
        """Add the gradient of a micro-batch's share of the step's mean loss.

        DeepSpeed averages gradients over ranks, so each rank's sums are divided by what all ranks and all
        micro-batches hold together and multiplied by the number of ranks; the mean over a whole step does not
        depend on its division.

        Args:
            term_sums: [terms], see `forward`.
            factors: fp32 [terms], see `methods.loss_terms.term_factors`.
        """
        share = (term_sums * factors).sum() * self.ranks.world_size
        self.deepspeed_engine.backward(share, scale_wrt_gas=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The summed loss of a micro-batch, a scalar; of a student in training the sum of each term."""
        return self.deepspeed_engine(*batch.model_arguments(self.ranks.device))  # type: ignore[no-any-return]

    def predict(self, batch: Batch) -> torch.Tensor:
        """The logits of a micro-batch of a task, through the engine, so that precision and ZeRO apply."""
        arguments = batch.model_arguments(self.ranks.device)
        return self.deepspeed_engine(*arguments, predict=True)  # type: ignore[no-any-return]

    def next_logits(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """What a student goes on with, without gradients; see `LanguageModel.next_logits`."""
        with torch.no_grad():
            return self.deepspeed_engine(  # type: ignore[no-any-return]
                input_ids, position_ids, attention_mask, cache=cache
            )

    def mark_micro_step(self) -> None:
        """Tell DeepSpeed that a micro-batch is done; on the last of a step it updates the weights."""
        self.deepspeed_engine.step()

    def clip_at_stage_0(self) -> float | None:
        """Clip whole gradients and return their norm; at stage 0 DeepSpeed would not tell the norm."""
        if self.zero_stage > 0:
            return None
        limit = self.gradient_clipping or float("inf")
        return float(torch.nn.utils.clip_grad_norm_(self.deepspeed_engine.module.parameters(), limit))

    def gradient_norm(self) -> float:
        """L2 norm of the last step's gradient before clipping (ZeRO 1 to 3)."""
        return float(self.deepspeed_engine.get_global_grad_norm())

    def set_learning_rate(self, learning_rate: float, step: int) -> None:
        """Set the rate of each group for optimizer step `step`, counted from 0."""
        for group in self.deepspeed_engine.optimizer.param_groups:
            group["lr"] = group_learning_rate(group, learning_rate, step)

    def train(self) -> None:
        """Turn dropout on."""
        self.deepspeed_engine.train()

    def eval(self) -> None:
        """Turn dropout off."""
        self.deepspeed_engine.eval()


def build_engine(
    plan: RunPlan, model: nn.Module, ranks: Ranks, paces: Mapping[str, Pace] | None = None
) -> Engine:
    """Wrap a model that holds the same weights on every rank.

    Args:
        plan: the run.
        model: a `LanguageModel` or `TaskModel`, whose frozen parameters need no gradient.
        ranks: the gang.
        paces: how fast parameters train, by their names in the Transformers model.

    Raises:
        ConfigurationError: DeepSpeed does not take a value of `spec.deepspeed.config`.
    """
    import deepspeed  # noqa: PLC0415 - reads DS_ACCELERATOR at import, which join_gang sets

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Without this, every first start on a machine compiles for 15 s and fails where there is no C++ compiler.
    deepspeed.ops.__compatible_ops__[UNUSED_KERNEL] = False
    config = engine_config(plan)
    check_deepspeed_config(config)
    named = ((name.removeprefix(MODEL_PREFIX), parameter) for name, parameter in model.named_parameters())
    optimizer = build_optimizer(named, plan.spec.training.optimizer, paces)
    model.to(ranks.device)
    if plan.zero_stage == 3 and any(is_adapter_parameter(name) for name, _ in model.named_parameters()):
        from trainyard_trainer.models.adapters import borrowed_parameters  # noqa: PLC0415 - slow to import

        for module, parameter in borrowed_parameters(model):
            deepspeed.zero.register_external_parameter(module, parameter)
    deepspeed_engine, _, _, _ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )
    if ranks.world_size == 1 and plan.zero_stage == 0:
        # DeepSpeed would copy all gradients to a flat buffer, add up those of nobody, and copy them back.
        deepspeed_engine.enable_backward_allreduce = False
    return Engine(
        deepspeed_engine=deepspeed_engine,
        optimizer=optimizer,
        ranks=ranks,
        zero_stage=plan.zero_stage,
        gradient_clipping=plan.spec.training.gradient_clipping,
    )
