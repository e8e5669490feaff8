"""A Transformers model with the loss of a fine-tuning task."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from trainyard_api.spec_objectives import ClassBalance, FineTuning
from trainyard_trainer.methods.losses import cross_entropy_sum
from trainyard_trainer.methods.task_losses import (
    IGNORED,
    class_loss_sum,
    multi_label_loss_sum,
    regression_loss_sum,
)
from trainyard_trainer.models.language_model import vocabulary_logits

LossKind = Literal["SingleLabel", "MultiLabel", "Regression", "Words", "Tokens"]


@dataclass(frozen=True)
class TaskLoss:
    """What is summed.

    Attributes:
        kind: one class, any classes or a number for each row; a class for each word; the next token.
        focal_gamma: exponent of the focal loss.
        label_smoothing: fraction of the target that is spread over all classes.
    """

    kind: LossKind
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0


def task_loss(fine_tuning: FineTuning) -> TaskLoss:
    """The loss of a task; only classes are balanced."""
    balance: ClassBalance = fine_tuning.class_balance
    if fine_tuning.task == "InstructionTuning":
        return TaskLoss("Tokens")
    if fine_tuning.task == "TokenClassification":
        return TaskLoss("Words", balance.focal_gamma, balance.label_smoothing)
    if fine_tuning.problem == "Regression":
        return TaskLoss("Regression")
    return TaskLoss(fine_tuning.problem, balance.focal_gamma, balance.label_smoothing)


class TaskModel(nn.Module):
    """Body and head of a Transformers model; forward gives the summed loss of a batch, or its logits.

    The parameters keep their Transformers names behind the prefix `model.`.

    Args:
        model: a classifier of sequences or tokens, or a causal language model.
        loss: what is summed.
        class_weights: fp32 [k], the weight of each class in the sum; 1 each when None.
    """

    def __init__(
        self, model: PreTrainedModel, loss: TaskLoss, class_weights: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        # Kept from the engine, which would make a 16-bit number of it; it holds no state of training either.
        self._class_weights = class_weights
        has_types = getattr(model.config, "type_vocab_size", 0) > 1
        self._takes_token_types = has_types and model.config.model_type == "bert"

    def forward(  # noqa: PLR0913 - the tensors of a batch, in the order of `TaskBatch.model_arguments`
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        labels: torch.Tensor,
        example_ids: torch.Tensor,
        *,
        predict: bool = False,
    ) -> torch.Tensor:
        """The summed loss of a batch in fp32, or its logits.

        Args:
            input_ids: int64 [rows, length].
            attention_mask: int64 [rows, length], 0 at padding.
            token_type_ids: int64 [rows, length], 1 in the second text of a pair.
            labels: int64 [rows] (one class), [rows, k] of 0 and 1 (any classes), [rows, 1] (a number), or
                int64 [rows, length] with -100 where nothing is predicted. For instructions it is the token to
                be predicted after each place.
            example_ids: int64 [rows], below 0 in rows that do not count.
            predict: whether logits are asked for: [rows, k], or [rows, length, k] of words.
        """
        if self.loss.kind == "Tokens":
            return self._next_tokens(input_ids, attention_mask, labels, predict=predict)
        arguments = {"token_type_ids": token_type_ids} if self._takes_token_types else {}
        logits = cast(
            "torch.Tensor",
            self.model(input_ids=input_ids, attention_mask=attention_mask, **arguments).logits,
        )
        return logits if predict else self._loss_sum(logits, labels, example_ids >= 0)

    def predict(self, *arguments: torch.Tensor) -> torch.Tensor:
        """The logits of a batch, of a model that no engine holds."""
        return cast("torch.Tensor", self(*arguments, predict=True))

    def _loss_sum(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        loss = self.loss
        weights = None if self._class_weights is None else self._class_weights.to(logits.device)
        if loss.kind == "Regression":
            return regression_loss_sum(logits[counts], labels[counts])
        balance = {
            "class_weights": weights,
            "focal_gamma": loss.focal_gamma,
            "label_smoothing": loss.label_smoothing,
        }
        if loss.kind == "MultiLabel":
            return multi_label_loss_sum(logits[counts], labels[counts], **balance)  # type: ignore[arg-type]
        if loss.kind == "Words":
            return class_loss_sum(logits.flatten(0, 1), labels.flatten(), **balance)  # type: ignore[arg-type]
        return class_loss_sum(logits[counts], labels[counts], **balance)  # type: ignore[arg-type]

    def _next_tokens(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, *, predict: bool
    ) -> torch.Tensor:
        """The loss on the places that are trained; the vocabulary is projected to at no other place."""
        body: Any = self.model.base_model
        hidden = body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        if predict:
            return vocabulary_logits(self.model, hidden)
        places = (labels.flatten() != IGNORED).nonzero()[:, 0]
        return cross_entropy_sum(
            hidden.flatten(0, 1).index_select(0, places),
            labels.flatten().index_select(0, places),
            lambda states: vocabulary_logits(self.model, states),
        )
