"""Optimizers by name, from PyTorch and pytorch-optimizer."""

from collections.abc import Iterable

import torch

from trainyard_api.spec import Optimizer


def parameter_groups(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float
) -> list[dict[str, object]]:
    """Two groups: matrices decay; biases, norms and other one-dimensional parameters do not."""
    parameters = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    # A ZeRO-3 parameter that is already divided shows its whole shape only as ds_shape.
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) > 1]
    vectors = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]], settings: Optimizer
) -> torch.optim.Optimizer:
    """The optimizer of a run.

    All but Adafactor are element-wise, so that ZeRO's flat partitions give the same result as whole
    parameters.
    """
    groups = parameter_groups(named_parameters, settings.weight_decay)
    rate = settings.learning_rate
    betas = (settings.beta1, settings.beta2)
    match settings.name:
        case "AdamW":
            return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=settings.epsilon, fused=True)
        case "SGD":
            return torch.optim.SGD(
                groups, lr=rate, momentum=settings.momentum, nesterov=settings.nesterov, foreach=True
            )
        case "Adafactor":
            return torch.optim.Adafactor(groups, lr=rate)
        case "Lion":
            from pytorch_optimizer import Lion  # noqa: PLC0415 - slow to import, needed by few

            return Lion(groups, lr=rate, betas=betas, weight_decouple=True)
