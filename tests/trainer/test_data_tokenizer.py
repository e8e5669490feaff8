import gzip
import json
import random

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.spec import TokenizerTraining
from trainyard_trainer.data.encoder import CachedEncoder, ReferenceEncoder, chunk_rule, differs, encoder_for
from trainyard_trainer.data.existing_tokenizer import load_existing, read_existing
from trainyard_trainer.data.special_tokens import TRAINED
from trainyard_trainer.data.tokenizer import canonical_pieces, train_tokenizer
from trainyard_trainer.data.tokenizer_step import load_tokenizer, write_existing, write_trained

ALGORITHMS = ["WordPiece", "BPE", "Unigram"]
HOSTILE = [
    "",
    " ",
    "\n\n",
    "a",
    "don't  stop -- it's  well-known,  isn't it?",
    "tabs\tand\r\nlines\n\n  indented\n\ttoo   ",
    "[MASK] <s> </s>[CLS]x[PAD] <unk>",
    "caf\xe9 cafe\u0301 na\xefve \u01c5 \u0130stanbul \ufb01ne stra\xdfe \u1e9e",
    "\u4f60\u597d world \u4e16\u754c\u3000\u3053\u3093 \ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947",
    "emoji \U0001f469\u200d\U0001f52c\U0001f3fd end",
    "exotic\u2003spaces\xa0here\u2028and\x85there \x0b \x1f x",
    "zero\u200bwidth\ufeffmarks \u00ad soft",
    "nul\x00byte and \x01 controls \x7f",
    "  \u0301  combining \u0301\nmarks  \u0301  b",
    "x" * 3000,
    "\u2581already \u2581marked\u2581",
    "A" * 99 + " " + "B" * 101,
    "\ufffd replacement \ufffe",
]


@pytest.fixture(scope="module")
def passages(sotu_paragraphs):
    with gzip.open(sotu_paragraphs, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line, _ in zip(file, range(600), strict=False)]


@pytest.fixture(scope="module")
def trained(passages):
    made = {}

    def train(algorithm, *, lowercase=False, objective="MaskedLM"):
        key = (algorithm, lowercase, objective)
        if key not in made:
            spec = TokenizerTraining(algorithm=algorithm, vocabulary_size=1200, lowercase=lowercase)
            made[key] = train_tokenizer(spec, objective, lambda: passages + HOSTILE)
        return Tokenizer.from_str(made[key].to_str())

    return train


def hostile_mixtures(passages):
    generator = random.Random(4)
    pieces = [*HOSTILE, *(word for text in passages[:20] for word in text.split(" "))]
    separators = [" ", "  ", "\n", "\n\n", "\t", "", "\r\n", " \n ", "\u3000", "\xa0"]
    return [
        "".join(generator.choice(pieces) + generator.choice(separators) for _ in range(30))
        for _ in range(150)
    ]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_fast_encoder_equals_the_tokenizer(algorithm, lowercase, trained, passages):
    tokenizer = trained(algorithm, lowercase=lowercase)
    encoder = encoder_for(tokenizer)
    assert isinstance(encoder, CachedEncoder)
    reference = ReferenceEncoder(tokenizer)
    for texts in (passages, HOSTILE, hostile_mixtures(passages), passages[:50], []):
        assert not differs(encoder.encode(texts), reference.encode(texts))


def test_the_fast_encoder_stays_exact_when_its_table_is_emptied(trained, passages, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.encoder.MAXIMUM_CACHED_CHUNKS", 50)
    tokenizer = trained("WordPiece")
    encoder, reference = encoder_for(tokenizer), ReferenceEncoder(tokenizer)
    for first in range(0, 100, 10):
        texts = passages[first : first + 10]
        assert not differs(encoder.encode(texts), reference.encode(texts))


def test_words_begin_where_the_tokenizer_says(trained):
    encoded = encoder_for(trained("WordPiece")).encode(["unquestionably so, yes"])
    words = trained("WordPiece").encode("unquestionably so, yes", add_special_tokens=False).word_ids
    expected = [index == 0 or word != words[index - 1] for index, word in enumerate(words)]
    assert encoded.word_starts.tolist() == expected
    assert sum(expected) == 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_text_that_spells_a_special_token_never_becomes_one(algorithm, trained):
    for objective in ("MaskedLM", "CausalLM"):
        tokenizer = trained(algorithm, objective=objective)
        special = TRAINED[objective]
        forbidden = {tokenizer.token_to_id(token) for role, token in special.items() if role != "unk"}
        text = " ".join(special.values()) + "".join(special.values())
        for encoder in (encoder_for(tokenizer), ReferenceEncoder(tokenizer)):
            assert not forbidden & set(encoder.encode([text]).token_ids.tolist())


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.Metaspace(),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        pre_tokenizers.Split("\n", "isolated"),
    ],
)
def test_a_tokenizer_that_may_join_across_spaces_goes_the_plain_way(pre_tokenizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    assert chunk_rule(tokenizer) is None
    assert isinstance(encoder_for(tokenizer), ReferenceEncoder)


def test_a_tokenizer_with_an_unknown_normalizer_or_greedy_token_goes_the_plain_way(trained):
    replacing = trained("WordPiece")
    replacing.normalizer = normalizers.Replace("a b", "ab")
    assert chunk_rule(replacing) is None
    greedy = trained("WordPiece")
    greedy.add_tokens([AddedToken("New York")])
    assert chunk_rule(greedy) is None


def test_words_without_a_pre_tokenizer_are_told_by_their_mark():
    pieces = [("<unk>", 0.0), ("\u2581a", -1.0), ("\u2581b", -1.0), ("c", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    encoded = ReferenceEncoder(tokenizer).encode(["ac b", "bcc"])
    assert encoded.token_ids.tolist() == [1, 3, 2, 2, 3, 3]
    assert encoded.word_starts.tolist() == [True, False, True, True, False, False]


@pytest.mark.parametrize("objective", ["MaskedLM", "CausalLM"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stock_transformers_loads_a_trained_tokenizer(algorithm, objective, trained, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = trained(algorithm, objective=objective)
    outcome = write_trained(tmp_path, tokenizer.to_str(), 5, objective)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    text = "The people of the United States, 1901."
    assert stock(text)["input_ids"] == load_tokenizer(tmp_path).encode(text).ids
    assert stock.pad_token_id == outcome.details["padTokenId"] == 0
    assert len(stock) == outcome.details["vocabularySize"]
    ids = stock(text)["input_ids"]
    assert ids[0] == outcome.details["prefixTokenId"]
    if objective == "MaskedLM":
        assert ids[-1] == outcome.details["suffixTokenId"]
        assert stock.mask_token_id == outcome.details["maskTokenId"]
    assert stock.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert sorted(stock.all_special_ids) == outcome.details["specialTokenIds"]


def test_training_takes_as_many_entries_as_asked_and_keeps_special_ids_first(trained):
    for algorithm in ALGORITHMS:
        tokenizer = trained(algorithm)
        assert tokenizer.get_vocab_size() <= 1200
        assert [tokenizer.token_to_id(token) for token in TRAINED["MaskedLM"].values()] == [0, 1, 2, 3, 4]
        assert len(tokenizer.get_added_tokens_decoder()) == 5


def test_pieces_of_equal_loss_are_ordered_by_themselves():
    scores = [("[PAD]", 0.0), ("ab", -1.00000000001), ("aa", -1.0), ("z", -9.1), ("y", -9.2)]
    shuffled = [("[PAD]", 0.0), ("aa", -1.00000000002), ("ab", -1.0), ("y", -9.1), ("z", -9.2)]
    assert canonical_pieces(scores, ["[PAD]"]) == canonical_pieces(shuffled, ["[PAD]"])


def test_a_vocabulary_too_small_for_bytes_is_refused():
    spec = TokenizerTraining(algorithm="BPE", vocabulary_size=256)
    with pytest.raises(ConfigurationError, match=r"spec.tokenizer.train.vocabularySize.*262"):
        train_tokenizer(spec, "MaskedLM", lambda: ["text"])


def test_rare_characters_become_unknown_instead_of_filling_the_vocabulary(passages):
    noise = [chr(point) for point in range(0x4E00, 0x4E00 + 2000)]
    spec = TokenizerTraining(algorithm="WordPiece", vocabulary_size=600)
    tokenizer = train_tokenizer(spec, "MaskedLM", lambda: [*passages, " ".join(noise)])
    assert tokenizer.get_vocab_size() <= 600
    assert tokenizer.encode("nation", add_special_tokens=False).ids != [1]


def test_text_that_teaches_nothing_is_refused():
    spec = TokenizerTraining(algorithm="WordPiece", vocabulary_size=600)
    with pytest.raises(DataError, match=r"spec.tokenizer.train"):
        train_tokenizer(spec, "MaskedLM", lambda: [" "])


def test_an_existing_tokenizer_comes_without_its_padding_truncation_and_dropout(trained, tmp_path):
    tokenizer = trained("BPE")
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    content = json.loads(tokenizer.to_str())
    content["model"]["dropout"] = 0.5
    loaded, _ = load_existing(json.dumps(content).encode(), b"", "MaskedLM")
    text = "the general welfare of the people"
    assert loaded.encode(text).ids == trained("BPE").encode(text).ids


def test_an_existing_tokenizer_keeps_its_own_special_tokens(trained, tmp_path):
    content = trained("WordPiece").to_str().encode()
    (tmp_path / "tokenizer.json").write_bytes(content)
    outcome = write_existing(
        tmp_path, *read_existing(f"file:///mounted{tmp_path}", {"mounted": "/"}), "MaskedLM"
    )
    assert outcome.details["maskTokenId"] == 4
    assert outcome.details["specialTokenIds"] == [0, 1, 2, 3, 4]


def test_special_tokens_are_taken_from_the_configuration(trained):
    config = json.dumps({"eos_token": {"content": "</s>"}, "bos_token": None}).encode()
    content = trained("BPE", objective="CausalLM").to_str().encode()
    _, special = load_existing(content, config, "CausalLM")
    assert special.by_role == {"eos": "</s>", "bos": "</s>", "pad": "</s>"}


@pytest.mark.parametrize(
    ("content", "config", "problem"),
    [
        (b"not json", b"", "cannot be read"),
        (b"[]", b"", "cannot be read"),
        (b"{}", b"", "cannot be read"),
        (None, b"{", "tokenizer_config.json is not JSON"),
        (None, b"[]", "is not an object"),
        (None, b"", "no mask token, which MaskedLM needs"),
    ],
)
def test_an_unusable_tokenizer_is_refused(content, config, problem, trained):
    content = trained("BPE", objective="CausalLM").to_str().encode() if content is None else content
    with pytest.raises(DataError, match=problem):
        load_existing(content, config, "MaskedLM")


def test_a_missing_or_oversized_tokenizer_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"spec.tokenizer.uri"):
        read_existing(str(tmp_path / "nothing"), {})
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 100)
    monkeypatch.setattr("trainyard_trainer.data.existing_tokenizer.MAXIMUM_TOKENIZER_BYTES", 99)
    with pytest.raises(DataError, match="more than 99 bytes"):
        read_existing(str(tmp_path), {})


def test_lengths_of_encoded_texts_sum_to_their_tokens(trained, passages):
    encoded = encoder_for(trained("BPE")).encode([*passages[:5], "", " "])
    assert len(encoded.lengths) == 7
    assert encoded.lengths.sum() == len(encoded.token_ids) == len(encoded.word_starts)
    assert np.array_equal(encoded.lengths[-2:], [0, 1])
