"""Every task from records to a model that stock Transformers loads: trained for real by two ranks."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tests.support.base_models import store_model
from tests.support.gang import run_gang
from tests.support.labelled import CHAT_TEMPLATE, prepare_labelled, task_plan
from tests.support.preparation import TEXTS
from tests.support.runs import write_plan
from tests.support.teachers import make_sure, store_classifier
from trainyard_api.plan import RunPlan
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.checkpoint import latest_committed
from trainyard_trainer.data.labelled.dataset import LabelledData, open_labelled
from trainyard_trainer.export import export
from trainyard_trainer.predict.exported import load_exported
from trainyard_trainer.training_record import read_training_record

WORDS = ("word1", "word2", "word3")
NUM_STEPS = 24
SEQUENCE = "SequenceClassification"


def texts(labels: Sequence[Any]) -> list[dict[str, Any]]:
    """Texts whose most frequent word tells the label."""
    count = len(labels)
    return [
        {"text": f"{WORDS[number % count]} " * 8 + f"number {number}", "label": labels[number % count]}
        for number in range(160)
    ]


def tagged() -> list[dict[str, Any]]:
    """Words, of which some are names."""
    words = [text.split() for text in TEXTS[:160]]
    return [
        {"words": each, "tags": ["B-NAME" if word.startswith("word1") else "O" for word in each]}
        for each in words
    ]


def conversations() -> list[dict[str, Any]]:
    """Questions, short enough for a row, with one answer."""
    questions = [" ".join(text.split()[:4]) for text in TEXTS[:160]]
    return [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "word1 of word2"}]}
        for text in questions
    ]


TASKS: dict[str, tuple[list[dict[str, Any]], Mapping[str, Any]]] = {
    "single": (
        texts(["ham", "spam", "ham"]),
        {"task": SEQUENCE, "classBalance": {"classWeights": "InverseFrequency"}},
    ),
    "adapted": (texts(["ham", "spam", "ham"]), {"task": SEQUENCE, "adaptation": {"adapter": {"rank": 8}}}),
    "alone": (
        texts(["ham", "spam", "ham"]),
        {"task": SEQUENCE, "adaptation": {"adapter": {"merge": False, "method": "DoRA"}}},
    ),
    "multi": (texts([["a"], ["a", "b"], []]), {"task": SEQUENCE, "problem": "MultiLabel"}),
    "number": (texts([1.0, -1.0]), {"task": SEQUENCE, "problem": "Regression"}),
    "words": (tagged(), {"task": "TokenClassification", "adaptation": {"frozenLayers": 1}}),
    "chat": (
        conversations(),
        {
            "task": "InstructionTuning",
            "chatTemplate": CHAT_TEMPLATE,
            "adaptation": {"adapter": {"targetModules": ["q_proj", "v_proj"]}},
        },
    ),
}

TAUGHT: dict[str, dict[str, Any]] = {
    "single": {"model": {"fromTeacher": {"everyNthLayer": 2}}},
    "multi": {"distillation__losses": {"logits": {"divergence": "ReverseKL"}, "labels": {}}},
    "number": {"distillation__losses": {"logits": {"weight": 0.5}, "labels": {}}},
    "words": {
        "distillation__losses": {"logits": {"positions": "Labelled"}, "hiddenStates": {}},
        "fineTuning__adaptation": {},
    },
    "chat": {"fineTuning__adaptation": {}},
}
"""Tasks that a student learns from a teacher too, and how it differs from the run without one."""


@dataclass(frozen=True)
class Trained:
    """A run that was trained and exported.

    Attributes:
        plan: the run.
        data: its examples.
        losses: of its steps.
        base: the model it started from.
    """

    plan: RunPlan
    data: LabelledData
    losses: list[float]
    base: Path

    @property
    def model(self) -> Path:
        """The folder of the exported model."""
        return Path(self.plan.paths.model)


def teacher_of(kind: str, base: Path, folder: Path) -> Path:
    """A stored model that does a task, with the shape of another."""
    if kind == "chat":
        shutil.copytree(base, folder)
        return make_sure(folder, "model.embed_tokens.weight", 10.0)
    names = {"single": ["ham", "spam"], "multi": ["a", "b"], "number": ["value"], "words": ["B-NAME", "O"]}
    return store_classifier(base, folder, FineTuning.model_validate(TASKS[kind][1]), names[kind])


def student_changes(kind: str, teacher: Path) -> dict[str, Any]:
    """What makes a student of a run: a teacher, and a smaller model with random weights."""
    preset = "llama-tiny" if kind == "chat" else "bert-tiny"
    sizes = {} if kind == "chat" else {"hidden_size": 64}
    small = {"preset": preset, "overrides": {"num_hidden_layers": 1, **sizes}}
    return {
        "model": {"architecture": small},
        "distillation": {"teacher": {"pretrained": {"uri": teacher.as_uri()}}},
        **TAUGHT[kind],
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    folder = tmp_path_factory.mktemp("tasks")
    encoder = store_model(folder / "encoder" / "model")
    decoder = store_model(folder / "decoder" / "model", "llama-tiny")
    plans, files = {}, []
    for number, name in enumerate([*TASKS, *(f"taught-{each}" for each in TAUGHT)]):
        kind = name.removeprefix("taught-")
        records, task = TASKS[kind]
        base = decoder if kind == "chat" else encoder
        changes = {}
        if kind != name:
            base = teacher_of(kind, base, folder / "teachers" / kind)
            changes = student_changes(kind, base)
        plan = task_plan(
            base,
            folder / name,
            records,
            task,
            data__validationFraction=0.2,
            training__budget={"steps": NUM_STEPS},
            training__globalBatchSize=16,
            training__microBatchSize=4,
            training__optimizer={"learningRate": 3e-3},
            training__precision="FP32",
            workers={"processesPerNode": 2},
            deepspeed={"zeroStage": number % 4},
            **changes,
        ).model_copy(update={"threads_per_process": 1})
        prepare_labelled(plan)
        plans[name] = (plan, base)
        files.append(str(write_plan(plan, folder / f"{name}.json")))
    run_gang("losses.py", 2, str(folder / "losses.json"), "0", *files)
    curves = json.loads((folder / "losses.json").read_text())
    found = {}
    for (name, (plan, base)), losses in zip(plans.items(), curves, strict=True):
        export(plan, clock=lambda: 1.8e9)
        found[name] = Trained(plan, open_labelled(Path(plan.paths.run_folder)), losses, base)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TASKS, *(f"taught-{each}" for each in TAUGHT)])
def test_every_task_is_learnt(trained: dict[str, Trained], name: str) -> None:
    losses = trained[name].losses
    assert len(losses) == NUM_STEPS
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single", "adapted"])
def test_the_exported_classifier_has_the_measured_loss_and_the_names(
    trained: dict[str, Trained], name: str
) -> None:
    """The first is trained with class weights, which the evaluation does not know."""
    run = trained[name]
    model = AutoModelForSequenceClassification.from_pretrained(run.model, local_files_only=True).eval()
    assert model.config.id2label == {0: "ham", 1: "spam"}
    assert model.config.problem_type == "single_label_classification"
    losses = []
    for number in range(len(run.data.validation)):
        sample = run.data.validation.sample(number)
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(sample.token_ids).long()[None]).logits
        losses.append(float(-logits.log_softmax(-1)[0, sample.labels]))
    record = read_training_record(run.model)
    assert record is not None
    assert sum(losses) / len(losses) == pytest.approx(record.evaluation_loss, abs=1e-3)


@pytest.mark.slow
def test_a_taught_student_is_a_plain_smaller_model_that_predicts(trained: dict[str, Trained]) -> None:
    """One is cut from its teacher, one has a width of its own, whose projection is no part of it."""
    for name, names, width in (("single", ["ham", "spam"], 128), ("words", ["B-NAME", "O"], 64)):
        run = trained[f"taught-{name}"]
        exported = load_exported(Path(run.plan.paths.run_folder), torch.device("cpu"))
        config = exported.model.config
        assert (config.num_hidden_layers, config.hidden_size) == (1, width)
        assert exported.names == names


@pytest.mark.slow
def test_the_other_kinds_of_labels_stand_in_the_configuration(trained: dict[str, Trained]) -> None:
    load = AutoModelForSequenceClassification.from_pretrained
    multi, number = (load(trained[name].model, local_files_only=True) for name in ("multi", "number"))
    words = AutoModelForTokenClassification.from_pretrained(trained["words"].model, local_files_only=True)
    assert multi.config.id2label == {0: "a", 1: "b"}
    assert multi.config.problem_type == "multi_label_classification"
    assert (number.config.num_labels, number.config.problem_type) == (1, "regression")
    assert set(words.config.id2label.values()) == {"B-NAME", "O"}


@pytest.mark.slow
def test_frozen_weights_of_the_exported_model_are_those_of_the_start(trained: dict[str, Trained]) -> None:
    run = trained["words"]
    checkpoint = latest_committed(Path(run.plan.paths.checkpoints))
    assert checkpoint is not None
    frozen = checkpoint.manifest.frozen
    assert frozen
    model = AutoModelForTokenClassification.from_pretrained(run.model, local_files_only=True)
    start = AutoModelForTokenClassification.from_pretrained(run.base, local_files_only=True)
    for name in frozen:
        assert torch.equal(model.get_parameter(name), start.get_parameter(name)), name
    changed = "bert.encoder.layer.1.output.dense.weight"
    assert not torch.equal(model.get_parameter(changed), start.get_parameter(changed))


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # PEFT asks for it
def test_an_adapter_alone_on_its_start_equals_the_merged_model(trained: dict[str, Trained]) -> None:
    run = trained["chat"]
    merged = AutoModelForCausalLM.from_pretrained(run.model, local_files_only=True).eval()
    start = AutoModelForCausalLM.from_pretrained(run.base, local_files_only=True)
    alone = PeftModel.from_pretrained(start, str(run.model / "adapter")).eval()
    token_ids = torch.from_numpy(run.data.validation.sample(0).token_ids).long()[None]
    with torch.no_grad():
        difference = (merged(input_ids=token_ids).logits - alone(input_ids=token_ids).logits).abs().max()
    assert difference < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # PEFT asks for it
def test_predictions_use_an_adapter_that_stands_beside_the_weights(trained: dict[str, Trained]) -> None:
    run = trained["alone"]
    token_ids = torch.from_numpy(run.data.validation.sample(0).token_ids).long()[None]
    exported = load_exported(Path(run.plan.paths.run_folder), torch.device("cpu"))
    without = AutoModelForSequenceClassification.from_pretrained(run.model, local_files_only=True).eval()
    alone = PeftModel.from_pretrained(without, str(run.model / "adapter")).eval()
    with torch.no_grad():
        predicted, expected = (each(input_ids=token_ids).logits for each in (exported.model, alone))
        with alone.disable_adapter():
            plain = alone(input_ids=token_ids).logits
    assert (predicted - expected).abs().max() < 1e-5
    assert (predicted - plain).abs().max() > 1e-3


@pytest.mark.slow
def test_an_adapter_that_is_not_merged_leaves_the_body_of_the_start(trained: dict[str, Trained]) -> None:
    run = trained["alone"]
    model = AutoModelForSequenceClassification.from_pretrained(run.model, local_files_only=True)
    start = AutoModelForSequenceClassification.from_pretrained(run.base, local_files_only=True)
    for name, parameter in start.bert.encoder.named_parameters():
        assert torch.equal(model.bert.encoder.get_parameter(name), parameter), name
    record = read_training_record(run.model)
    assert record is not None
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= record.files.keys()
