"""Small stored models for runs that start from one: real folders of Transformers, with a real tokenizer."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.support.preparation import make_plan, run, write_lines
from trainyard_api.spec_model import Architecture
from trainyard_trainer.data.base_config import JSON_NAMES
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.presets import PRESETS


def store_model(folder: Path, preset: str = "bert-tiny", *, positions: int | None = None) -> Path:
    """Write a model with random weights and a tokenizer that was trained on the texts of `preparation`.

    Args:
        folder: where; its parent gets the texts and the prepared data.
        preset: its architecture.
        positions: its longest row; the preset's when None.
    """
    objective = PRESETS[preset].objective
    masked = objective == "MaskedLM"
    write_lines(folder.parent / "texts.jsonl")
    plan = make_plan(
        folder.parent,
        output="of-base",
        pretraining={"objective": objective},
        model={"architecture": {"preset": preset}},
        tokenizer={"train": {"algorithm": "WordPiece" if masked else "BPE", "vocabularySize": 400}},
    )
    manifest = run(plan)
    data = open_prepared(Path(plan.paths.run_folder))
    field = PRESETS[preset].family.named("max_position_embeddings")
    config = build_config(
        Architecture(preset=preset, overrides={field: positions} if positions else {}),
        vocabulary_size=manifest.tokenizer.vocabulary_size,
        pad_token_id=manifest.tokenizer.pad_token_id,
        objective=objective,
    )
    build_model(config, objective, seed=11).save_pretrained(folder)
    for name in JSON_NAMES:
        if (data.tokenizer_folder / name).is_file():
            shutil.copyfile(data.tokenizer_folder / name, folder / name)
    return folder


def stored_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder with one file of them."""
    return load_file(folder / "model.safetensors")


def start_from(place: Path | str, **changes: object) -> dict[str, Any]:
    """Changes for `make_plan` of a run that starts from a folder or URI, with the model's own tokenizer."""
    uri = place if isinstance(place, str) else place.as_uri()
    return {"model": {"pretrained": {"uri": uri}}, "tokenizer": None, **changes}
