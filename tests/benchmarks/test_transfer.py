"""The pure parts of the transfer benchmark."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from harness import Target
from transfer import OURS, PEER, Setting, check_same_work, difference, gap
from transfer_arms import Outcome, rate_after_warm_up
from transfer_data import Email, Sentence, divide, draw, read_sentences, subject_and_body
from transfer_peer import labels_at_first_tokens

from tests.support.base_models import store_model
from tests.support.gang import run_gang

EMAILS = [Email(f"text {number}", "spam" if number % 3 == 0 else "ham") for number in range(100)]
FULL = Setting(Path("runs"), Path("cache"), quick=False)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("From a@b Thu Aug 22\nReceived: x\nSubject: Hello\n\nBody\n", "Hello\nBody"),
        ("Received: x\nSubject: two\n lines\n\nBody\n\nmore", "two lines\nBody\n\nmore"),
        ("Received: x\n\nBody", "\nBody"),
        ("Subject: Hello\r\nX: y\r\n\r\nBody", "Hello\nBody"),
        ("Subject: nothing else", "nothing else\n"),
    ],
)
def test_only_the_subject_and_the_body_of_an_email_are_read(message, expected):
    assert subject_and_body(message) == expected


def test_no_text_is_in_both_parts_and_each_is_there_once():
    parts = divide([*EMAILS, *EMAILS[:40]], 30)
    test, pool = ({email.text for email in part} for part in (parts.test, parts.pool))
    assert len(parts.test) == 30
    assert len(parts.pool) == 70
    assert not test & pool
    assert test | pool == {email.text for email in EMAILS}


def test_the_division_does_not_depend_on_the_order_of_the_corpus():
    assert divide(EMAILS[::-1], 30) == divide(EMAILS, 30)


def test_a_smaller_draw_is_the_beginning_of_a_larger_one_and_seeds_differ():
    assert draw(EMAILS, 10, seed=1) == draw(EMAILS, 50, seed=1)[:10]
    assert draw(EMAILS, 10, seed=1) != draw(EMAILS, 10, seed=2)


def test_settings_are_chosen_by_emails_that_are_neither_trained_on_nor_in_the_test_set():
    setting = Setting(Path("runs"), Path("cache"), quick=True)
    vars(setting)["emails"] = divide(EMAILS, 30)
    apart = setting.emails_to_tune_by
    assert apart.test
    assert apart.pool
    assert not set(apart.test) & {*apart.pool, *setting.emails.test}


def test_more_labels_than_emails_are_refused():
    with pytest.raises(ValueError, match="101 examples are wanted, and the pool has 100"):
        draw(EMAILS, 101, seed=1)


def test_sentences_with_a_rare_tag_are_left_out(tmp_path):
    file = tmp_path / "sentences.jsonl.gz"
    records = [{"words": ["a", "b"], "tags": ["x", "y"]}, {"words": ["c"], "tags": ["x"]}]
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)
    assert read_sentences(file, 2) == [Sentence(("c",), ("x",))]
    assert read_sentences(file, 1) == [Sentence(("a", "b"), ("x", "y")), Sentence(("c",), ("x",))]


def test_a_word_has_its_label_at_its_first_token_alone():
    assert labels_at_first_tokens([None, 0, 0, 1, 2, 2, None], [7, 8, 9]) == [-100, 7, -100, 8, 9, -100, -100]


@pytest.mark.parametrize(
    ("pretrained", "random", "holds"),
    [([0.9, 0.8, 0.7], [0.5, 0.6, 0.69], True), ([0.9, 0.8, 0.7], [0.5, 0.6, 0.7], False)],
)
def test_every_seed_has_to_win(pretrained, random, holds):
    assert gap(FULL, pretrained, random, 64).holds is holds


@pytest.mark.parametrize(("ours", "holds"), [([0.8, 0.8, 0.8], True), ([0.77, 0.77, 0.9], False)])
def test_a_median_may_be_below_the_peers_by_no_more_than_its_seeds_differ(ours, holds):
    assert difference(FULL, ours, [0.80, 0.81, 0.79]).holds is holds


def test_a_quick_run_holds_no_target():
    assert Setting(Path("runs"), Path("cache"), quick=True).target(Target(">=", 1.0)) is None


def test_the_rate_leaves_the_warm_up_out():
    ends = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 18.0]
    assert rate_after_warm_up([1000] * 5 + [100, 300], ends) == pytest.approx(100)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> dict[str, Outcome]:
    """What `learn_by_both_arms` made of a tiny model, in a process of its own."""
    folder = tmp_path_factory.mktemp("arms")
    model = store_model(folder / "base" / "model")
    run_gang(str(Path(__file__).with_name("learn_by_both_arms.py")), 1, str(model), str(folder))
    outcomes = json.loads((folder / "outcomes.json").read_bytes())
    return {name: Outcome(**outcome) for name, outcome in outcomes.items()}


@pytest.mark.slow
def test_both_arms_train_on_the_same_tokens_and_judge_the_same_words(learnt):
    check_same_work({name: [learnt[name]] for name in ("trainyard", "peer", "grouped")}, whole_epoch=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trainyard", "peer", "grouped"])
def test_every_arm_learns(learnt, name):
    assert learnt[name].score > 0.9


@pytest.mark.slow
def test_spam_is_judged_by_every_email_that_is_held_out(learnt):
    assert learnt["spam"].num_judged == 42


@pytest.mark.slow
def test_sorting_by_length_within_a_step_saves_padding(learnt):
    assert learnt["trainyard"].fullness > learnt["peer"].fullness


def test_arms_that_did_other_work_are_noticed():
    outcome = Outcome(score=1.0, num_judged=9, num_tokens=99, fullness=1.0, rate=1.0)
    with pytest.raises(AssertionError):
        check_same_work({OURS: [outcome], PEER: [replace(outcome, num_tokens=98)]}, whole_epoch=True)
    with pytest.raises(AssertionError):
        check_same_work({OURS: [outcome], PEER: [replace(outcome, num_judged=8)]}, whole_epoch=False)


@pytest.mark.slow
def test_it_starts_by_its_path_in_any_folder(tmp_path):
    program = Path(__file__).parents[2] / "benchmarks" / "transfer.py"
    done = subprocess.run(
        [sys.executable, str(program), "--help"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "--tune" in done.stdout
