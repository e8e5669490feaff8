"""Micro-batches that name the places at which a student is compared with its teacher."""

from dataclasses import dataclass

import torch

from trainyard_trainer.batches import MicroBatch


@dataclass(frozen=True, slots=True)
class TeacherRows:
    """The rows of a batch as the teacher's own tokenizer gives them.

    Attributes:
        batch: what it reads; nothing is predicted.
        places: int64 [c], into its flattened batch, where it has read as much text as the student.
    """

    batch: MicroBatch
    places: torch.Tensor


@dataclass(frozen=True, slots=True)
class ComparedBatch:
    """A micro-batch and where it is compared.

    Attributes:
        own: what the student reads.
        places: int64 [c], into the student's flattened batch.
        teacher: what the teacher reads, where it has other tokens.
    """

    own: MicroBatch
    places: torch.Tensor
    teacher: TeacherRows | None = None

    @property
    def num_labels(self) -> int:
        """Predictions to make."""
        return self.own.num_labels

    @property
    def num_tokens(self) -> int:
        """Tokens of the student, padding not counted."""
        return self.own.num_tokens

    @property
    def num_positions(self) -> int:
        """Positions of the student, padding counted."""
        return self.own.num_positions

    @property
    def num_compared(self) -> int:
        """Places that are compared."""
        return self.places.numel()

    @property
    def first_row(self) -> int:
        """Number of its first row in the stream of all rows."""
        return self.own.first_row

    @property
    def loss_weight(self) -> float:
        """What the summed loss of the labels is divided by."""
        return self.own.loss_weight

    def model_arguments(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The tensors that `DistilledModel.forward` takes in training, in its order."""
        added = [self.places]
        if self.teacher is not None:
            read = self.teacher.batch
            added += [self.teacher.places, read.input_ids, read.position_ids, read.document_ids]
        moved = (tensor.to(device, non_blocking=True) for tensor in added)
        return (*self.own.model_arguments(device), *moved)
