"""Optimizers by name, from PyTorch and pytorch-optimizer."""

from collections.abc import Iterable, Mapping

import torch

from trainyard_api.spec import Optimizer
from trainyard_trainer.optimization.parameter_groups import Pace, parameter_groups


def build_optimizer(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    settings: Optimizer,
    paces: Mapping[str, Pace] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a run.

    All but Adafactor are element-wise, so that ZeRO's flat partitions give the same result as whole
    parameters.

    Args:
        named_parameters: by their names in the Transformers model.
        settings: constants and rules.
        paces: how fast parameters train, by name.
    """
    groups = parameter_groups(named_parameters, settings, paces)
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
