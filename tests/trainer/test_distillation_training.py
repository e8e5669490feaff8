"""A student beside its teacher, trained for real by two ranks at every ZeRO stage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM

from tests.support.base_models import store_model
from tests.support.gang import run_gang
from tests.support.preparation import make_plan, run, write_lines
from tests.support.runs import write_plan
from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import RunPlan
from trainyard_trainer.checkpoint import latest_committed, load_model_weights
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.export import export
from trainyard_trainer.progress import read_history

NUM_STEPS = 12
EMBEDDINGS = {"bert-tiny": "bert.embeddings.word_embeddings.weight", "gpt2-tiny": "transformer.wte.weight"}


def sure_teacher(folder: Path, preset: str) -> Path:
    """A stored model with random weights that is sure of what it says: its logits are ten times as large."""
    model = store_model(folder, preset)
    weights = load_file(model / "model.safetensors")
    weights[EMBEDDINGS[preset]] *= 10.0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


def student_plan(folder: Path, teacher: Path, name: str, **changes: Any) -> RunPlan:
    """The plan of a smaller student of a stored teacher."""
    write_lines(folder / "texts.jsonl")
    distillation = {"teacher": {"pretrained": {"uri": teacher.as_uri()}}, **changes.pop("distillation", {})}
    sizes = {
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "num_attention_heads": 1,
        "hidden_dropout_prob": 0.0,
    }
    encoder = {"architecture": {"preset": "bert-tiny", "overrides": sizes}}
    plan = make_plan(
        folder,
        output=name,
        distillation=distillation,
        **{
            "pretraining": {"objective": "MaskedLM"},
            "model": encoder,
            "tokenizer": None,
            "training__budget": {"steps": NUM_STEPS},
            "training__globalBatchSize": 8,
            "training__microBatchSize": 2,
            "training__optimizer": {"learningRate": 3e-3},
            "training__precision": "FP32",
            "workers": {"processesPerNode": 2},
            **changes,
        },
    ).model_copy(update={"threads_per_process": 1})
    run(plan)
    return plan


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sure_teacher(tmp_path_factory.mktemp("teacher") / "model", "bert-tiny")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sure_teacher(tmp_path_factory.mktemp("decoder") / "model", "gpt2-tiny")


LOSSES: tuple[dict[str, Any], ...] = (
    {},
    {"losses": {"logits": {"divergence": "ReverseKL", "positions": "Labelled"}}},
    {
        "losses": {
            "logits": {},
            "labels": {},
            "hiddenStates": {"measure": "MeanSquaredError"},
            "attentions": {},
            "relations": {},
        }
    },
    {
        "losses": {
            "logits": {"divergence": "JensenShannon"},
            "hiddenStates": {},
            "attentions": {},
            "relations": {},
        }
    },
    {"losses": {"sortedLogits": {}, "labels": {}}, "tokenizerMismatch": "Align"},
    {
        "losses": {"logits": {"divergence": "ReverseKL"}, "labels": {}},
        "onPolicy": {"maximumNewTokens": 6, "promptTokens": 4},
    },
    {"teacherCache": {}},
)

DECODER = {
    "training__optimizer": {"learningRate": 1e-2},
    "pretraining": {"objective": "CausalLM"},
    "model": {
        "architecture": {
            "preset": "llama-tiny",
            "overrides": {"num_hidden_layers": 1, "hidden_size": 64, "head_dim": 16},
        }
    },
}
CHANGES: tuple[dict[str, Any], ...] = (
    {"deepspeed": {"zeroStage": 0}},
    {"deepspeed": {"zeroStage": 1}, "model": {"fromTeacher": {"everyNthLayer": 2}}},
    {"deepspeed": {"zeroStage": 2}},
    {"deepspeed": {"zeroStage": 3}},
    {
        **DECODER,
        "deepspeed": {"zeroStage": 2},
        "tokenizer": {"train": {"algorithm": "BPE", "vocabularySize": 300}},
    },
    {**DECODER, "deepspeed": {"zeroStage": 3}},
    {"deepspeed": {"zeroStage": 3}},
)
"""How the run of each set of terms differs."""

COPIED = 1
"""Number of the set of terms whose student is cut from its teacher."""
DECODERS = (4, 5)
"""Numbers of the sets of decoders: one with a tokenizer of its own, one that writes."""


@pytest.fixture(scope="module")
def runs(
    teacher: Path, decoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[RunPlan, RunPlan]]:
    """For each set of terms a run, and one that was stopped in the middle and went on."""
    folder = tmp_path_factory.mktemp("distilled")

    def plan(name: str, number: int) -> RunPlan:
        imitated = decoder if number in DECODERS else teacher
        changes = {"distillation": LOSSES[number], **CHANGES[number]}
        return student_plan(folder, imitated, f"{name}-{number}", **changes)

    made = [(plan("whole", number), plan("stopped", number)) for number in range(len(LOSSES))]
    files = [
        [str(write_plan(each, Path(each.paths.run_folder) / "p.json")) for each in pair] for pair in made
    ]
    run_gang("losses.py", 2, str(folder / "ignored.json"), "5", *(stopped for _, stopped in files))
    run_gang("losses.py", 2, str(folder / "losses.json"), "0", *(file for pair in files for file in pair))
    assert len(json.loads((folder / "losses.json").read_text())) == 2 * len(LOSSES)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_every_term_falls_and_is_told(runs: list[tuple[RunPlan, RunPlan]], number: int) -> None:
    history = [record for record in read_history(Path(runs[number][0].paths.run_folder)) if record.loss]
    assert len(history) == NUM_STEPS
    terms = [record.loss_terms or {"logits": record.loss or 0.0} for record in history]
    expected = LOSSES[number].get("losses", {"labels": {}, "logits": {}})
    assert terms[0].keys() == expected.keys()
    # The predictions of a decoder that starts from nothing change little in so few steps.
    most = 1.0 if number in DECODERS else 0.97
    for name in terms[0]:
        assert sum(each[name] for each in terms[-3:]) < most * sum(each[name] for each in terms[:3]), name


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_a_stopped_student_goes_on_as_if_it_had_not_stopped(
    runs: list[tuple[RunPlan, RunPlan]], number: int
) -> None:
    """Maps of hidden states and heads included: student and teacher differ in width and heads."""
    ends = [latest_committed(Path(each.paths.checkpoints)) for each in runs[number]]
    assert ends[0] is not None
    assert ends[1] is not None
    whole, resumed = (load_model_weights(end) for end in ends if end is not None)
    mapped = {name.split(".")[1] for name in whole if name.startswith("projections.")}
    assert mapped == LOSSES[number].get("losses", {}).keys() & {"hiddenStates", "attentions"}
    assert whole.keys() == resumed.keys()
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


@pytest.mark.slow
def test_the_exported_student_is_a_plain_model_without_projections(
    runs: list[tuple[RunPlan, RunPlan]],
) -> None:
    plan = runs[2][0]
    export(plan, clock=lambda: 1.8e9)
    model, info = AutoModelForMaskedLM.from_pretrained(
        plan.paths.model, local_files_only=True, output_loading_info=True
    )
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (64, 1)


@pytest.mark.slow
def test_a_student_that_was_cut_from_its_teacher_is_exported_with_its_own_depth(
    runs: list[tuple[RunPlan, RunPlan]],
) -> None:
    plan = runs[COPIED][0]
    export(plan, clock=lambda: 1.8e9)
    model = AutoModelForMaskedLM.from_pretrained(plan.paths.model, local_files_only=True)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (128, 1)


@pytest.mark.slow
def test_gradients_do_not_depend_on_accumulation_and_ranks(teacher: Path, tmp_path: Path) -> None:
    losses = {"losses": LOSSES[2]["losses"]}

    def plan(micro: int, world_size: int) -> str:
        made = student_plan(
            tmp_path,
            teacher,
            f"{micro}-{world_size}",
            distillation=losses,
            training__microBatchSize=micro,
            workers={"processesPerNode": world_size},
            deepspeed={"zeroStage": 0},
        )
        return str(write_plan(made, tmp_path / f"{micro}-{world_size}.json"))

    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    run_gang("gradients.py", 1, str(one), plan(8, 1), plan(2, 1))
    run_gang("gradients.py", 2, str(two), plan(2, 2))
    whole = {name: tensor for name, tensor in load_file(one).items() if name.startswith("0/")}
    assert {"hiddenStates", "attentions"} <= {part for name in whole for part in name.split(".")}
    for name, gradient in whole.items():
        assert gradient.abs().max() > 0, name
        others = (load_file(one)[f"1/{name[2:]}"], load_file(two)[name])
        for other in others:
            assert (gradient - other).abs().max() < 2e-6, name


def test_a_teacher_of_another_vocabulary_is_refused_before_training(teacher: Path, tmp_path: Path) -> None:
    """The tokenizer that the spec names is another one."""
    words = [f"term{number} of {number * 7}" for number in range(300)]
    write_lines(tmp_path / "other" / "texts.jsonl", words)
    plan = make_plan(tmp_path / "other", output="tokenizer")
    manifest = run(plan)
    tokenizer = Path(plan.paths.prepared) / manifest.tokenizer.folder
    differs = r"spec\.distillation\.teacher: token \d+ of the student, '.*', is .* to the teacher"
    with pytest.raises(ConfigurationError, match=differs):
        student_plan(tmp_path, teacher, "student", tokenizer={"uri": tokenizer.as_uri()})


def test_a_teacher_with_more_tokens_behind_those_of_the_student_is_accepted(
    teacher: Path, tmp_path: Path
) -> None:
    extended = tmp_path / "extended"
    shutil.copytree(teacher, extended)
    tokenizer = Tokenizer.from_file(str(extended / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["<chat>"])
    tokenizer.save(str(extended / "tokenizer.json"))
    plan = student_plan(tmp_path, extended, "student", tokenizer={"uri": teacher.as_uri()})
    assert open_prepared(Path(plan.paths.run_folder)).manifest.tokenizer.vocabulary_size == size
