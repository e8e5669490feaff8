"""What adaptation lets train, and adapters: merged, alone, and wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import Optimizer, ParameterGroup
from trainyard_api.spec_model import Architecture
from trainyard_api.spec_objectives import Adaptation, Adapter
from trainyard_trainer.models.adaptation import Adapted, adapt
from trainyard_trainer.models.adapters import (
    load_adapter,
    merge_adapter,
    remove_adapter,
    save_adapter,
)
from trainyard_trainer.models.build import ModelKind, build_config, build_model
from trainyard_trainer.models.layers import is_adapter_parameter, parameter_depths
from trainyard_trainer.models.presets import PRESETS

IDS = torch.arange(6, 38).view(4, 8)
OPTIMIZER = Optimizer(learning_rate=1e-3)
MODELS: list[tuple[str, ModelKind]] = [
    ("bert-tiny", "SequenceClassification"),
    ("modernbert-tiny", "TokenClassification"),
    ("llama-tiny", "CausalLM"),
    ("gpt2-tiny", "CausalLM"),
]


def tiny(preset: str = "bert-tiny", kind: ModelKind = "SequenceClassification") -> PreTrainedModel:
    config = build_config(
        Architecture(preset=preset),
        vocabulary_size=64,
        pad_token_id=0,
        objective=PRESETS[preset].objective,
    )
    return build_model(config, kind, seed=5).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def with_adapter(model: PreTrainedModel, has_task_head: bool = True, **changes: Any) -> Adapted:
    """Put in an adapter whose weights are no longer those of the start."""
    adapted = adapt(
        model, Adaptation(adapter=Adapter(**changes)), OPTIMIZER, has_task_head=has_task_head, seed=1
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapted


def trained(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("preset", "kind"), MODELS)
def test_depths_rise_from_the_embeddings_over_every_layer_to_the_head(preset: str, kind: ModelKind) -> None:
    model = tiny(preset, kind)
    depths = parameter_depths(model)
    assert depths.num_layers == model.config.num_hidden_layers
    assert set(depths.by_name.values()) == set(range(depths.num_layers + 2))
    assert set(depths.by_name) == {name for name, _ in model.named_parameters()}
    embedding = model.get_input_embeddings().weight
    assert [depths.by_name[name] for name, p in model.named_parameters() if p is embedding] == [0]
    assert list(depths.by_name.values()) == sorted(depths.by_name.values())


@pytest.mark.parametrize("method", ["LoRA", "DoRA"])
@pytest.mark.parametrize(("preset", "kind"), MODELS)
def test_an_adapter_gives_the_same_outputs_merged_and_applied(
    preset: str, kind: ModelKind, method: str
) -> None:
    model = tiny(preset, kind)
    names = [name for name, _ in model.named_parameters()]
    before = logits(model)
    with_adapter(model, kind != "CausalLM", method=method)
    applied = logits(model)
    merge_adapter(model)
    assert (applied - before).abs().max() > 1e-3
    assert (logits(model) - applied).abs().max() < 1e-5
    assert [name for name, _ in model.named_parameters()] == names


def test_a_new_adapter_changes_nothing_and_depends_on_the_seed() -> None:
    model, other, reference = tiny(), tiny(), tiny()
    adapt(model, Adaptation(adapter=Adapter()), OPTIMIZER, seed=1)
    adapt(other, Adaptation(adapter=Adapter()), OPTIMIZER, seed=2)
    assert torch.equal(logits(model), logits(reference))
    name = next(name for name, _ in model.named_parameters() if "lora_A" in name)
    assert not torch.equal(model.get_parameter(name), other.get_parameter(name))


def test_beside_an_adapter_only_the_head_and_new_parameters_train() -> None:
    model = tiny()
    adapt(
        model,
        Adaptation(adapter=Adapter(target_modules=["query", "attention.self.value"])),
        OPTIMIZER,
        new_parameters=("bert.pooler.dense.weight",),
        has_task_head=True,
    )
    names = trained(model)
    others = {name for name in names if not is_adapter_parameter(name)}
    assert others == {"bert.pooler.dense.weight", "classifier.weight", "classifier.bias"}
    adapters = {name.partition(".lora_")[0].rpartition(".")[2] for name in names - others}
    assert adapters == {"query", "value"}


def test_removing_an_adapter_gives_back_the_weights_of_the_start() -> None:
    model, reference = tiny(), tiny()
    with_adapter(model)
    remove_adapter(model)
    for name, parameter in reference.base_model.named_parameters():
        assert torch.equal(model.base_model.get_parameter(name), parameter), name


def stored_adapter(folder: Path, method: str) -> tuple[Path, torch.Tensor]:
    """An adapter that was trained and stored alone, and the logits of the model with it."""
    model = tiny()
    adapted = with_adapter(model, method=method)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert adapted.adapter is not None
    save_adapter(
        folder / "adapter",
        adapted.adapter,
        {name: weights[name] for name in trained(model)},
        model.base_model_prefix,
    )
    return folder / "adapter", logits(model)


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # PEFT asks for it
@pytest.mark.parametrize("method", ["LoRA", "DoRA"])
def test_peft_loads_a_stored_adapter_and_computes_the_same(method: str, tmp_path: Path) -> None:
    folder, expected = stored_adapter(tmp_path, method)
    loaded = PeftModel.from_pretrained(tiny(), str(folder)).eval()
    assert (logits(loaded) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("method", ["LoRA", "DoRA"])
def test_a_stored_adapter_is_added_to_the_model_of_its_start(method: Any, tmp_path: Path) -> None:
    folder, expected = stored_adapter(tmp_path, method)
    model = tiny()
    names = [name for name, _ in model.named_parameters()]
    load_adapter(folder, model, Adapter(method=method))
    assert (logits(model) - expected).abs().max() < 1e-5
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        (Adapter(method="DoRA"), "is of another model: .*lora_magnitude_vector"),
        (Adapter(target_modules=["query"]), "is of another model: .*attention.output.dense.lora_A"),
        (Adapter(rank=4), "size mismatch"),
    ],
)
def test_a_stored_adapter_that_is_not_the_one_of_the_spec_is_refused(
    adapter: Adapter, problem: str, tmp_path: Path
) -> None:
    folder, _ = stored_adapter(tmp_path, "LoRA")
    with pytest.raises((RuntimeError, ValueError), match=problem):
        load_adapter(folder, tiny(), adapter)


@pytest.mark.parametrize(
    ("num_layers", "frozen"),
    [(0, set()), (1, {0, 1}), (2, {0, 1, 2})],
)
def test_frozen_layers_keep_the_embeddings_too(num_layers: int, frozen: set[int]) -> None:
    model = tiny()
    adapted = adapt(model, Adaptation(frozen_layers=num_layers), OPTIMIZER)
    depths = parameter_depths(model).by_name
    assert adapted.frozen == {name for name, depth in depths.items() if depth in frozen}
    assert trained(model) == set(depths) - adapted.frozen


def test_layers_begin_one_after_the_other_from_the_top_and_train_more_slowly_below() -> None:
    model = tiny()
    adapted = adapt(model, Adaptation(unfreeze_every_steps=10, layer_learning_rate_decay=0.5), OPTIMIZER)
    paces = {depth: adapted.paces[name] for name, depth in parameter_depths(model).by_name.items()}
    assert [(paces[depth].first_step, paces[depth].factor) for depth in (3, 2, 1, 0)] == [
        (0, 1.0),
        (10, 0.5),
        (20, 0.25),
        (30, 0.125),
    ]


@pytest.mark.parametrize(
    ("adaptation", "rules", "where", "problem"),
    [
        (
            Adaptation(adapter=Adapter(target_modules=["query", "q_proj"])),
            [],
            "spec.fineTuning.adaptation.adapter.targetModules[1]",
            "no linear layer of the body ends with 'q_proj'",
        ),
        (
            Adaptation(frozen_layers=3),
            [],
            "spec.fineTuning.adaptation.frozenLayers",
            "it is 3, and the model has 2 layers",
        ),
        (
            Adaptation(),
            [ParameterGroup(parameters="*", learning_rate_factor=0.0)],
            "spec.fineTuning.adaptation",
            "every parameter of the model is frozen, so nothing would be trained",
        ),
        (
            Adaptation(),
            [ParameterGroup(parameters="*.q_proj.*")],
            "spec.training.optimizer.parameterGroups[0].parameters",
            "no parameter of the model fits '*.q_proj.*'",
        ),
    ],
)
def test_an_adaptation_that_does_not_fit_the_model_is_refused(
    adaptation: Adaptation, rules: list[ParameterGroup], where: str, problem: str
) -> None:
    optimizer = Optimizer(learning_rate=1e-3, parameter_groups=rules)
    with pytest.raises(ConfigurationError) as caught:
        adapt(tiny(), adaptation, optimizer)
    assert (caught.value.where, caught.value.problem) == (where, problem)
