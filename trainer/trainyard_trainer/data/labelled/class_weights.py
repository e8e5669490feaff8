"""The weight of each class in the loss, from how often it is predicted in an epoch: pure functions."""

import numpy as np
from numpy.typing import NDArray

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec_objectives import ClassBalance
from trainyard_trainer.data.manifest import LabelManifest

_GIVEN = "spec.fineTuning.classBalance.givenWeights"


def class_weights(balance: ClassBalance, labels: LabelManifest) -> NDArray[np.float32]:
    """The weights, float32 [k], whose mean over the classes is 1.

    Inverse frequency: 1 / n of a class with n predictions. Effective number (Cui et al. 2019, "Class-balanced
    loss based on effective number of samples", equation 2): (1 - beta) / (1 - beta ** n).

    Args:
        balance: what is done about unequal classes.
        labels: the classes; each has at least one prediction.

    Raises:
        ConfigurationError: weights are given for other classes.
    """
    refuse_given_weights(balance, labels)
    counts = np.array(labels.training_counts, dtype=np.float64)
    if balance.class_weights == "InverseFrequency":
        weights = 1.0 / counts
    elif balance.class_weights == "EffectiveNumber":
        beta = balance.effective_number_beta
        weights = (1.0 - beta) / -np.expm1(counts * np.log(beta))
    elif balance.class_weights == "Given":
        weights = np.array([balance.given_weights[name] for name in labels.names])
    else:
        weights = np.ones(len(counts))
    scaled: NDArray[np.float32] = (weights / weights.mean()).astype(np.float32)
    return scaled


def loss_weights(balance: ClassBalance, labels: LabelManifest) -> NDArray[np.float32] | None:
    """`class_weights`, or None where every class weighs the same."""
    return None if balance.class_weights == "Equal" or not labels.names else class_weights(balance, labels)


def refuse_given_weights(balance: ClassBalance, labels: LabelManifest | None) -> None:
    """Refuse weights that are given for other classes than those of the data.

    Raises:
        ConfigurationError: a class has no weight, or a weight no class.
    """
    if balance.class_weights != "Given":
        return
    names = set() if labels is None else set(labels.names)
    without, unknown = (
        sorted(names - balance.given_weights.keys()),
        sorted(balance.given_weights.keys() - names),
    )
    if without or unknown:
        shown = [f"no weight for {', '.join(map(repr, without[:10]))}"] if without else []
        shown += [f"no class {', '.join(map(repr, unknown[:10]))}"] if unknown else []
        raise ConfigurationError(_GIVEN, "; ".join(shown), "Give one weight for each class of the data")
