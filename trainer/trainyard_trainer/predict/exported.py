"""The exported model of a run, as predictions need it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.names import File
from trainyard_api.spec import Source, TrainingRunSpec
from trainyard_trainer.data.normalize import normalize
from trainyard_trainer.data.tokenizer_step import load_tokenizer
from trainyard_trainer.predict.predictor import Part
from trainyard_trainer.predict.rows import padded
from trainyard_trainer.training_record import TrainingRecord, read_training_record

MODEL_CLASSES = {
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
    "InstructionTuning": AutoModelForCausalLM,
}
"""The Transformers class of each task that predictions can be made for."""


@dataclass(frozen=True)
class ExportedModel:
    """A model in evaluation mode, with what belongs to it.

    Attributes:
        model: the network, on `device`.
        tokenizer: its tokenizer as Transformers has it: what pads, chat template, text of tokens.
        encoder: its tokenizer as training had it, which cuts at the sequence length.
        task: what it does.
        spec: the desired state of the run that made it.
        device: where it computes.
    """

    model: PreTrainedModel
    tokenizer: Any
    encoder: Tokenizer
    task: str
    spec: TrainingRunSpec
    device: torch.device

    @property
    def names(self) -> list[str]:
        """Label of each class number."""
        labels = cast("dict[int, str]", self.model.config.id2label)
        return [labels[number] for number in sorted(labels)]

    def normalized(self, text: str) -> str:
        """A text as training read it."""
        return normalize(text) if self.spec.data.preparation.normalize else text

    @property
    def source(self) -> Source:
        """The source whose field names records are read by."""
        return self.spec.data.sources[0]


def task_of(record: TrainingRecord) -> str:
    """The task that an exported model does.

    Raises:
        ConfigurationError: it does none.
    """
    fine_tuning = record.spec.fine_tuning
    task = fine_tuning.task if fine_tuning is not None else "pre-training"
    if task not in MODEL_CLASSES:
        raise ConfigurationError(
            f"the run {record.run}",
            f"its model was made by {task}, and has no task to predict for",
            f"Fine-tune it for one of {', '.join(MODEL_CLASSES)}",
        )
    return task


def load_exported(run_folder: Path, device: torch.device) -> ExportedModel:
    """Load the model of a run from safetensors, and nothing else that could run code.

    Raises:
        ConfigurationError: the model has no task.
        DataError: the run has no exported model, or its files are damaged.
    """
    folder = run_folder / File.MODEL
    record = read_training_record(folder)
    if record is None:
        raise DataError(str(folder), "there is no exported model", "Wait until the run has succeeded")
    task = task_of(record)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = MODEL_CLASSES[task].from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        _load_beside(folder, model, record)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = load_tokenizer(folder)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise DataError(
            str(folder), f"the model cannot be loaded: {error}", "Remove the folder and run the run again"
        ) from error
    return ExportedModel(
        cast("PreTrainedModel", model).to(device).eval(),  # type: ignore[arg-type]
        tokenizer,
        _prepared(encoder, task, record.spec.data.sequence_length),
        task,
        record.spec,
        device,
    )


def _prepared(encoder: Tokenizer, task: str, sequence_length: int) -> Tokenizer:
    """A tokenizer that reads special tokens as text, except where a chat template writes them."""
    if task == "InstructionTuning":
        encoder.no_truncation()
    else:
        encoder.enable_truncation(sequence_length, strategy="longest_first")
    encoder.no_padding()
    encoder.encode_special_tokens = task != "InstructionTuning"
    return encoder


def _load_beside(folder: Path, model: PreTrainedModel, record: TrainingRecord) -> None:
    """Add the adapter that stands beside the weights of an exported model to them, where there is one.

    Raises:
        ConfigurationError: the spec names layers that the model lacks.
        OSError: its file is missing.
        ValueError: it is another model's.
    """
    fine_tuning = record.spec.fine_tuning
    adapter = fine_tuning.adaptation.adapter if fine_tuning is not None else None
    if adapter is not None and not adapter.merge:
        # PEFT takes a second to import, and only such models need it.
        from trainyard_trainer.models.adapters import load_adapter  # noqa: PLC0415

        load_adapter(folder / File.ADAPTER, model, adapter)


def logits_of(exported: ExportedModel, parts: Sequence[Part]) -> torch.Tensor:
    """The logits of rows, float32 [rows, k] or [rows, length, k] on the CPU."""
    rows = padded(parts, exported.tokenizer.pad_token_id or 0)
    config = exported.model.config
    if config.model_type != "bert" or config.type_vocab_size < 2:
        del rows["token_type_ids"]
    with torch.no_grad():
        output = exported.model(**{name: tensor.to(exported.device) for name, tensor in rows.items()})
    logits: torch.Tensor = output.logits.float().cpu()
    return logits
