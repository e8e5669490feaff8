"""A teacher with another tokenizer reads the same text; both are compared where they have read as much."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.base_models import store_model
from tests.support.preparation import make_plan, run, write_lines
from trainyard_api.errors import DataError
from trainyard_trainer.data.align_step import ends_of
from trainyard_trainer.data.aligned_rows import open_aligned
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.workload import open_workload

LOSSES = {"sortedLogits": {}, "labels": {}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A decoder with a vocabulary of 400."""
    return store_model(tmp_path_factory.mktemp("teacher") / "model", "gpt2-tiny")


@pytest.fixture(scope="module")
def aligned_plan(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    plan = plan_of(folder, teacher)
    run(plan)
    return plan


def plan_of(folder, teacher, **changes):
    """The plan of a student with a vocabulary of 300."""
    write_lines(folder / "texts.jsonl")
    return make_plan(
        folder,
        output="student",
        **{
            "pretraining": {"objective": "CausalLM"},
            "model": {"architecture": {"preset": "llama-tiny"}},
            "tokenizer": {"train": {"algorithm": "BPE", "vocabularySize": 300}},
            "data__sequenceLength": 48,
            "distillation": {
                "teacher": {"pretrained": {"uri": teacher.as_uri()}},
                "losses": LOSSES,
                "tokenizerMismatch": "Align",
            },
            **changes,
        },
    )


def text_of(tokenizer, ids):
    """What tokens spell, special ones left out."""
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_the_teacher_reads_the_same_documents_in_its_own_tokens(aligned_plan, teacher):
    """Documents that are cut are cut for both; a piece may begin or end within a token of the teacher's."""
    data = open_prepared(Path(aligned_plan.paths.run_folder))
    rows, special = open_aligned(data), data.manifest.tokenizer
    own = Tokenizer.from_file(str(data.tokenizer_folder / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    num_whole = num_cut = 0
    for row in range(len(data.train)):
        sample = data.train.sample(row)
        borders = np.cumsum(sample.document_lengths)[:-1]
        pieces = zip(np.split(sample.token_ids, borders), rows.pieces(row), strict=True)
        for tokens, piece in pieces:
            has_start, has_end = tokens[0] == special.prefix_token_id, tokens[-1] == special.suffix_token_id
            assert (piece.token_ids[0] == rows.prefix_token_id) == has_start
            assert (piece.token_ids[-1] == rows.suffix_token_id) == has_end
            if has_start and has_end:
                assert (
                    text_of(own, tokens.tolist()).strip() == text_of(theirs, piece.token_ids.tolist()).strip()
                )
                num_whole += 1
            num_cut += not (has_start and has_end)
    assert num_whole > 100
    assert num_cut > 10


def test_predictions_are_compared_after_the_same_text_of_the_same_document(aligned_plan, teacher):
    """Rows are packed and cut, and padded to other lengths on either side."""
    workload = open_workload(aligned_plan)
    own = Tokenizer.from_file(str(workload.data.tokenizer_folder / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    batch = workload.supply(0).step_batches(0)[0]
    read = batch.teacher.batch
    assert batch.num_compared == len(batch.places) == len(batch.teacher.places) > 0.3 * batch.num_tokens
    for place, other in zip(batch.places.tolist(), batch.teacher.places.tolist(), strict=True):
        texts = [
            _text_until(each, at, tokenizer)
            for each, at, tokenizer in ((batch.own, place, own), (read, other, theirs))
        ]
        # A piece may begin within a token of the teacher's.
        assert texts[0].endswith(texts[1]) or texts[1].endswith(texts[0])


def _text_until(batch, place, tokenizer):
    """The text of a document of a row up to a place, which is included."""
    row, column = divmod(place, batch.input_ids.shape[1])
    documents = batch.document_ids[row]
    same = (documents == documents[column]).nonzero()[:, 0]
    ids = batch.input_ids[row, same[same <= column]].tolist()
    return text_of(tokenizer, ids).lstrip()


def test_evaluation_is_the_students_alone(aligned_plan):
    batch = next(iter(open_workload(aligned_plan).supply(0).evaluation_batches(4)))
    assert len(batch.model_arguments("cpu")) == 5


def test_text_beyond_the_teachers_longest_row_is_cut(aligned_plan):
    data = open_prepared(Path(aligned_plan.paths.run_folder))
    whole = open_aligned(data)
    short = type(whole)(data.train, whole.shards, whole.prefix_token_id, whole.suffix_token_id, 5)
    for long, cut in zip(whole.pieces(0), short.pieces(0), strict=True):
        assert cut.token_ids.tolist() == long.token_ids[:5].tolist()
        assert cut.teacher_ends.tolist() == long.teacher_ends[:5].tolist()


def test_a_teacher_without_a_tokenizer_cannot_be_aligned(teacher, tmp_path):
    (copy := tmp_path / "teacher").mkdir()
    for path in teacher.iterdir():
        if path.name != "tokenizer.json":
            (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"teacher\.pretrained\.uri: .* has no tokenizer\.json"):
        run(plan_of(tmp_path, copy))


def test_ends_count_characters_and_never_fall(teacher):
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    text = "word7 \u65e5\u672c of"
    ids, ends = ends_of(tokenizer, text)
    assert len(ids) == len(ends)
    assert (np.diff(ends.astype(int)) >= 0).all()
    assert ends[-1] == len(text)
