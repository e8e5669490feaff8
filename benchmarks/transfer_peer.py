"""The peer of the transfer benchmark: Hugging Face Trainer on the parts of speech of words.

It is set up as its own documentation and examples of token classification do: labels at the first token of
each word, DataCollatorForTokenClassification, rows padded to the longest of a micro-batch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from hugging_face import StepClock, without_ranks
from torch.nn import functional
from transfer_arms import ADAM, Outcome, Task, rate_after_warm_up
from transfer_data import Sentence
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    TrainingArguments,
)
from transformers import Trainer as HuggingFaceTrainer

NOT_PREDICTED = -100
"""What the collator and the loss take for no label."""


class _CountingCollator(DataCollatorForTokenClassification):
    """Remembers how many tokens and positions each micro-batch had."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.tokens: list[int] = []
        self.positions: list[int] = []

    def torch_call(self, features: list[dict[str, Any]]) -> Any:
        """One micro-batch."""
        batch = super().torch_call(features)  # type: ignore[no-untyped-call]
        self.tokens.append(int(batch["attention_mask"].sum()))
        self.positions.append(batch["attention_mask"].numel())
        return batch


def hugging_face_outcome(task: Task, folder: Path, sampling: str = "random") -> Outcome:
    """Train and judge in this process.

    Args:
        task: words and their tags.
        folder: it writes there.
        sampling: its `train_sampling_strategy`; `group_by_length` changes which rows a step holds.
    """
    train, test = _sentences(task.train), _sentences(task.test)
    labels = sorted({tag for sentence in train for tag in sentence.tags})
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    torch.manual_seed(task.seed)
    model = AutoModelForTokenClassification.from_pretrained(task.model, num_labels=len(labels))
    clock, collator = StepClock(), _CountingCollator(tokenizer)
    with without_ranks():
        trainer = HuggingFaceTrainer(
            model=model,
            args=_arguments(task, folder, sampling),
            train_dataset=_encoded(train, labels, tokenizer, task.subject.sequence_length),
            data_collator=collator,
            compute_loss_func=_mean_over_step,
            callbacks=[clock],
        )
        trainer.train()
        prediction = trainer.predict(_encoded(test, labels, tokenizer, task.subject.sequence_length))
    assert trainer.model_wrapped is model, "one process needs no wrapper"
    per_step = task.subject.global_batch_size // task.subject.micro_batch_size
    num_micro_batches = task.num_steps * per_step
    tokens = np.reshape(collator.tokens[:num_micro_batches], (-1, per_step)).sum(axis=1).tolist()
    actual = np.asarray(prediction.label_ids)
    is_word = actual != NOT_PREDICTED
    is_right = np.asarray(prediction.predictions).argmax(-1) == actual
    return Outcome(
        score=float(is_right[is_word].mean()),
        num_judged=int(is_word.sum()),
        num_tokens=sum(tokens),
        fullness=sum(tokens) / sum(collator.positions[:num_micro_batches]),
        rate=rate_after_warm_up(tokens, clock.ends),
    )


def _sentences(examples: Sequence[Any]) -> list[Sentence]:
    assert all(isinstance(example, Sentence) for example in examples), "this arm learns tags of words"
    return list(examples)


def _mean_over_step(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    """The mean over all words of a step.

    Without it, Trainer 5.23 takes the model's mean over a micro-batch for a share of the step's (its forward
    takes any keyword), and the gradient of a step of four is four times too large.
    """
    logits = outputs.logits.flatten(0, 1)
    return functional.cross_entropy(logits, labels.flatten(), reduction="sum") / num_items_in_batch


def _encoded(
    sentences: Sequence[Sentence], labels: Sequence[str], tokenizer: Any, sequence_length: int
) -> datasets.Dataset:
    encoded = tokenizer(
        [list(sentence.words) for sentence in sentences],
        is_split_into_words=True,
        truncation=True,
        max_length=sequence_length,
    )
    numbers = {label: number for number, label in enumerate(labels)}
    rows = [
        labels_at_first_tokens(encoded.word_ids(row), [numbers[tag] for tag in sentence.tags])
        for row, sentence in enumerate(sentences)
    ]
    return datasets.Dataset.from_dict({**encoded, "labels": rows})


def labels_at_first_tokens(word_ids: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """The label of a word at its first token, NOT_PREDICTED elsewhere.

    Args:
        word_ids: the word of each token; None at special tokens.
        labels: of each word.
    """
    before = [None, *word_ids]
    return [
        NOT_PREDICTED if word is None or word == last else labels[word]
        for last, word in zip(before, word_ids, strict=False)
    ]


def _arguments(task: Task, folder: Path, sampling: str) -> TrainingArguments:
    subject = task.subject
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=task.num_steps,
        train_sampling_strategy=sampling,
        per_device_train_batch_size=subject.micro_batch_size,
        per_device_eval_batch_size=subject.micro_batch_size,
        gradient_accumulation_steps=subject.global_batch_size // subject.micro_batch_size,
        learning_rate=task.learning_rate,
        adam_beta1=ADAM["beta1"],
        adam_beta2=ADAM["beta2"],
        adam_epsilon=ADAM["epsilon"],
        weight_decay=ADAM["weightDecay"],
        lr_scheduler_type="linear",
        warmup_steps=task.num_schedule_warm_up_steps,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        seed=task.seed,
    )
