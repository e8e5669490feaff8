import json

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

from trainyard_api.errors import ConfigurationError
from trainyard_trainer.distillation.vocabulary import PROBES, common_vocabulary

WORDS = ["[UNK]", "the", "quick", "brown", "it", "'", "s", "##s", "or", "no"]


def tokenizer_of(words=WORDS, *, lowercase=True):
    content = {"type": "WordPiece", "vocab": {word: number for number, word in enumerate(words)}}
    settings = {"unk_token": words[0], "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "model": {**content, **settings}}))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def common(teacher, student, teacher_rows=64, student_rows=64):
    return common_vocabulary(teacher, student, teacher_rows=teacher_rows, student_rows=student_rows)


def test_equal_tokenizers_share_their_tokens_and_padded_rows_are_cut():
    assert common(tokenizer_of(), tokenizer_of(), teacher_rows=128, student_rows=64) == 10


def test_entries_of_the_teacher_behind_all_of_the_students_are_cut():
    teacher = tokenizer_of()
    teacher.add_special_tokens(["<chat>"])
    assert common(teacher, tokenizer_of()) == 10
    with pytest.raises(
        ConfigurationError, match="token 10 of the student, '<chat>', is unknown to the teacher"
    ):
        common(tokenizer_of(), teacher)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            [*WORDS[:2], "brown", "quick", *WORDS[4:]],
            "token 2 of the student, 'quick', is number 3 to the teacher",
        ),
        ([*WORDS[:9], "not"], "token 9 of the student, 'no', is unknown to the teacher"),
    ],
)
def test_vocabularies_that_differ_are_refused_with_the_first_token_and_the_remedy(words, problem):
    with pytest.raises(ConfigurationError, match=problem) as raised:
        common(tokenizer_of(words), tokenizer_of())
    assert raised.value.where == "spec.distillation.teacher"
    assert "tokenizerMismatch to Align" in raised.value.remedy


def test_an_entry_of_the_teacher_among_the_students_is_refused():
    """Ids with a gap, into which the teacher has put a token of its own."""
    content = json.loads(tokenizer_of().to_str())
    del content["model"]["vocab"]["brown"]
    student = Tokenizer.from_str(json.dumps(content))
    with pytest.raises(ConfigurationError, match="its token 'brown' stands among those of the student"):
        common(tokenizer_of(), student)


def test_equal_vocabularies_with_other_rules_are_refused_by_what_they_do():
    with pytest.raises(
        ConfigurationError, match=r"The quick brown fox.* into tokens .* and the student into"
    ):
        common(tokenizer_of(lowercase=False), tokenizer_of(words=[*WORDS]))


def test_equal_tokens_that_are_read_back_as_another_text_are_refused():
    teacher = tokenizer_of()
    teacher.decoder = decoders.Fuse()
    with pytest.raises(ConfigurationError, match="what the student reads as"):
        common(teacher, tokenizer_of())


@pytest.mark.parametrize(
    ("rows", "field"),
    [({"teacher_rows": 8}, "spec.distillation.teacher"), ({"student_rows": 9}, "spec.model")],
)
def test_a_model_with_fewer_rows_than_tokens_is_refused(rows, field):
    with pytest.raises(ConfigurationError, match="rows for a vocabulary of 10 tokens") as raised:
        common(tokenizer_of(), tokenizer_of(), **rows)
    assert raised.value.where == field


def test_probes_have_what_tokenizers_treat_differently():
    text = "".join(PROBES)
    assert any(character.isupper() for character in text)
    assert any(ord(character) > 0xFFFF for character in text)
    assert {"\n", "\t", "  "} <= {*text, *(text[place : place + 2] for place in range(len(text)))}
