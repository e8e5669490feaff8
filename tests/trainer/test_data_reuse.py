"""Prepared data is used again as far as its inputs are the same, and only then."""

import pytest

from tests.support.preparation import STEPS, TEXTS, make_plan, run, write_lines
from trainyard_api.errors import (
    DataError,
)
from trainyard_trainer.data.dataset import open_prepared

CHANGES = {
    "training__seed": (9, {"pack"}),
    "data__sequenceLength": (128, {"pack"}),
    "data__packing__enabled": (False, {"pack"}),
    "data__sources__0__weight": (2.0, {"pack"}),
    "data__validationFraction": (0.2, {"tokenizer", "pack"}),
    "tokenizer__train": ({"algorithm": "BPE", "vocabularySize": 400}, {"tokenizer", "tokenize", "pack"}),
    "data__preparation__deduplicate": ({"exact": False}, {"deduplicate", "tokenizer", "tokenize", "pack"}),
    "data__preparation__normalize": (False, set(STEPS)),
    "data__preparation__minimumCharacters": (30, set(STEPS)),
    "data__sources__0__documentBoundary": ("Line", set(STEPS)),
    "data__preparation__maximumInvalidFraction": (0.5, set()),
    "data__packing__isolateDocuments": (False, set()),
    "data__sources__0__name": ("other", set()),
    "training__budget": ({"steps": 7}, set()),
    "pretraining__masking": ({"probability": 0.4}, set()),
}


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reuse")
    write_lines(folder / "texts.jsonl", [*TEXTS, *TEXTS[:50]])
    return folder, run(make_plan(folder))


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_redoes_only_what_depends_on_it(field, prepared_once):
    folder, _ = prepared_once
    value, redone = CHANGES[field]
    manifest = run(make_plan(folder, **{field: value}))
    made = {step.name for step in manifest.steps if not step.reused}
    # the tokenizer of another split may come out equal; what follows is then rightly reused
    assert made - {"tokenize"} == redone - {"tokenize"}
    assert made <= redone | {"tokenize"}


def test_a_second_run_reuses_everything_and_has_the_same_hash(prepared_once):
    folder, first = prepared_once
    second = run(make_plan(folder))
    assert all(step.reused for step in second.steps)
    assert second.hash == first.hash


def test_a_changed_file_is_noticed_and_an_equal_one_elsewhere_is_not_read_again(tmp_path):
    path = write_lines(tmp_path / "texts.jsonl")
    first = run(make_plan(tmp_path))
    moved = write_lines(tmp_path / "elsewhere" / "texts.jsonl")
    again = run(make_plan(tmp_path, source={"uri": str(moved)}))
    assert all(step.reused for step in again.steps)
    assert again.hash == first.hash
    write_lines(path, [*TEXTS[:-1], "changed"])
    changed = run(make_plan(tmp_path))
    assert not any(step.reused for step in changed.steps)
    assert changed.hash != first.hash


def test_another_source_leaves_the_extraction_of_the_first_alone(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    second = write_lines(tmp_path / "more.jsonl", [f"more {text}" for text in TEXTS[:50]] + TEXTS[:10])
    plan = make_plan(tmp_path)
    run(plan)
    sources = [*(source.model_dump(by_alias=True) for source in plan.spec.data.sources)]
    sources.append({"name": "more", "uri": str(second), "format": "JsonLines"})
    manifest = run(make_plan(tmp_path, data__sources=sources))
    assert [step.reused for step in manifest.steps] == [True, False, False, False, False, False]
    assert [source.duplicates for source in manifest.sources] == [0, 10]


def test_a_damaged_step_is_made_again(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    first = run(make_plan(tmp_path))
    [tokens] = (tmp_path / "out" / "prepared").glob("tokenize-*/*.tokens")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match="Delete it and run again"):
        open_prepared(tmp_path / "out" / "run")
    second = run(make_plan(tmp_path))
    assert [step.reused for step in second.steps] == [True, True, True, False, True]
    assert second.hash == first.hash
    assert len(open_prepared(tmp_path / "out" / "run").train) == first.train.rows


def test_a_changed_packing_index_is_refused(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    run(make_plan(tmp_path))
    [pieces] = (tmp_path / "out" / "prepared").glob("pack-*/train.pieces")
    content = bytearray(pieces.read_bytes())
    content[0] ^= 1
    pieces.write_bytes(content)
    with pytest.raises(DataError, match="was changed after it was written"):
        open_prepared(tmp_path / "out" / "run")
