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
from trainyard_trainer.models.sight import Sight, attention_windows
from trainyard_trainer.models.view import View, against_nothing, as_they_are

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
        most_places: see `losses.sum_over_places`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        loss: TaskLoss,
        class_weights: torch.Tensor | None = None,
        most_places: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._most_places = most_places
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
        view = self.view(input_ids, attention_mask, token_type_ids, labels, example_ids)
        if not predict:
            return self.loss_sum(view)
        logits = self._project(view.states) if self.loss.kind == "Tokens" else view.states
        rows, length = input_ids.shape
        return logits.view(rows, length, -1) if view.has_tokens else logits.view(rows, -1)

    def view(  # noqa: PLR0913 - the tensors of a batch
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        labels: torch.Tensor,
        example_ids: torch.Tensor,
        *,
        of_layers: bool = False,
    ) -> View:
        """The batch through the model, before the loss; arguments are those of `forward`.

        Args:
            input_ids: see `forward`.
            attention_mask: see `forward`.
            token_type_ids: see `forward`.
            labels: see `forward`.
            example_ids: see `forward`.
            of_layers: whether to keep the output of the embeddings and of each layer.
        """
        kind, model = self.loss.kind, cast("Any", self.model)
        arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if of_layers:
            arguments["output_hidden_states"] = True
        if kind == "Tokens":
            output = model.base_model(use_cache=False, **arguments)
            states = output.last_hidden_state
        else:
            types = {"token_type_ids": token_type_ids} if self._takes_token_types else {}
            output = model(**arguments, **types)
            states = output.logits
        has_tokens = kind in {"Tokens", "Words"}
        # Classes that are decided one by one are predictions of their own.
        states = states.reshape(-1, 1) if kind == "MultiLabel" else states.view(-1, states.shape[-1])
        if has_tokens:
            is_labelled = labels.flatten() != IGNORED
        else:
            is_labelled = (example_ids >= 0).repeat_interleave(len(states) // len(example_ids))
        heads = {"Tokens": self._project, "MultiLabel": against_nothing}
        labelled = is_labelled.nonzero()[:, 0]
        return View(
            states=states,
            head=heads.get(kind, as_they_are),
            labelled=labelled,
            labels=labels.flatten().index_select(0, labelled),
            is_token=attention_mask.flatten() > 0,
            has_tokens=has_tokens,
            sight=Sight(attention_mask - 1, causal=kind == "Tokens", windows=attention_windows(model.config)),
            layers=tuple(layer.flatten(0, 1) for layer in output.hidden_states) if of_layers else (),
            most_places=self._most_places,
        )

    def predict(self, *arguments: torch.Tensor) -> torch.Tensor:
        """The logits of a batch, of a model that no engine holds."""
        return cast("torch.Tensor", self(*arguments, predict=True))

    def loss_sum(self, view: View) -> torch.Tensor:
        """The summed loss of the labels of a view."""
        loss, targets = self.loss, view.labels
        states = view.states.index_select(0, view.labelled)
        if loss.kind == "Tokens":
            # The vocabulary is projected to at no other place.
            return cross_entropy_sum(states, targets, self._project, most_places=view.most_places)
        if loss.kind == "Regression":
            return regression_loss_sum(states, targets[:, None])
        weights = None if self._class_weights is None else self._class_weights.to(states.device)
        balance = {
            "class_weights": weights,
            "focal_gamma": loss.focal_gamma,
            "label_smoothing": loss.label_smoothing,
        }
        if loss.kind == "MultiLabel":
            shape = (-1, self.model.config.num_labels)
            return multi_label_loss_sum(states.view(shape), targets.view(shape), **balance)  # type: ignore[arg-type]
        return class_loss_sum(states, targets, **balance)  # type: ignore[arg-type]

    def _project(self, states: torch.Tensor) -> torch.Tensor:
        return vocabulary_logits(self.model, states)
