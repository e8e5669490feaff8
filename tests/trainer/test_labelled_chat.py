"""Conversations become tokens by their chat template, and only what the assistant wrote is learnt."""

import pytest
from transformers import AutoTokenizer

from tests.support.base_models import store_model
from tests.support.labelled import CHAT_TEMPLATE, prepare_labelled, task_plan
from trainyard_api.errors import ConfigurationError, DataError
from trainyard_trainer.data.labelled.chat import ChatTemplate, rendered_spans
from trainyard_trainer.data.labelled.values import UnusableError

TASK = {"task": "InstructionTuning", "chatTemplate": CHAT_TEMPLATE}
OWN = {"task": "InstructionTuning"}
ROWS = {"data__sequenceLength": 128}


def conversation(number):
    return {
        "messages": [
            {"role": "user", "content": f"word{number} of"},
            {"role": "assistant", "content": f"of word{number} word1"},
            {"role": "user", "content": "word2 word3"},
            {"role": "assistant", "content": f"word4 {number}"},
        ]
    }


CONVERSATIONS = [conversation(number) for number in range(60)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return store_model(tmp_path_factory.mktemp("base") / "model", "llama-tiny")


def test_only_the_answers_and_their_ends_are_learnt(base, tmp_path):
    data = prepare_labelled(task_plan(base, tmp_path, CONVERSATIONS, TASK, **ROWS))
    tokenizer = AutoTokenizer.from_pretrained(data.tokenizer_folder)
    expected = {
        tuple(tokenizer.apply_chat_template(record["messages"], return_dict=False)): record["messages"]
        for record in CONVERSATIONS
    }
    for dataset in (data.train, data.validation):
        for index in range(len(dataset)):
            sample = dataset.sample(index)
            messages = expected.pop(tuple(sample.token_ids.tolist()))
            learnt = tokenizer.decode([label for label in sample.labels.tolist() if label != -100])
            assert learnt == "".join(f"{messages[number]['content']}</s>" for number in (1, 3))
    assert not expected
    assert data.manifest.labels is None
    assert data.manifest.frequency_loss > 0


def test_a_template_of_its_own_is_taken_from_the_tokenizer(base, tmp_path):
    with pytest.raises(ConfigurationError, match="the tokenizer has no chat template") as raised:
        prepare_labelled(task_plan(base, tmp_path / "none", CONVERSATIONS, OWN, **ROWS))
    assert raised.value.where == "spec.fineTuning.chatTemplate"
    own = store_model(tmp_path / "own" / "model", "llama-tiny")
    (own / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    data = prepare_labelled(task_plan(own, tmp_path / "own", CONVERSATIONS, OWN, **ROWS))
    given = prepare_labelled(task_plan(base, tmp_path / "given", CONVERSATIONS, TASK, **ROWS))
    assert data.train.sample(0).token_ids.tolist() == given.train.sample(0).token_ids.tolist()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}", "the chat template does not take the messages"),
        ("{{ messages[0]['content'] }}", "leaves out what the assistant says"),
        ("{{ raise_exception('no') }}", "does not take the messages: no"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_before_any_record(template, problem, base, tmp_path):
    task = {"task": "InstructionTuning", "chatTemplate": template}
    with pytest.raises(ConfigurationError, match=problem):
        prepare_labelled(task_plan(base, tmp_path, CONVERSATIONS, task))


def test_a_template_that_writes_earlier_messages_otherwise_is_refused():
    template = ChatTemplate(
        "{% for m in messages %}{% if loop.last %}{{ m['content'] }}{% endif %}{% endfor %}", {}
    )
    with pytest.raises(UnusableError, match="writes message 2 otherwise"):
        rendered_spans(template, CONVERSATIONS[0]["messages"])


BAD = {
    "spells the special token '</s>'": [{"role": "assistant", "content": "a </s> b"}],
    "no message of the assistant": [{"role": "user", "content": "word1"}],
    "the role 'robot'": [{"role": "robot", "content": "word1"}],
    "without role and content": [{"role": "assistant"}],
    "holds str, not a list of messages": "word1",
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_conversations_are_refused_with_examples(reason, base, tmp_path):
    records = [*CONVERSATIONS, {"messages": BAD[reason]}]
    with pytest.raises(DataError, match="1 of 61 records") as raised:
        prepare_labelled(task_plan(base, tmp_path, records, TASK, **ROWS))
    assert reason in raised.value.problem
    assert f"texts.jsonl line {len(records)}" in raised.value.problem


def test_a_conversation_that_is_cut_before_the_first_answer_is_set_aside(base, tmp_path):
    long = {"messages": [{"role": "user", "content": "word1 " * 200}, CONVERSATIONS[0]["messages"][1]]}
    changes = {"data__preparation": {"maximumInvalidFraction": 0.1}}
    data = prepare_labelled(task_plan(base, tmp_path, [*CONVERSATIONS, long], TASK, **ROWS, **changes))
    assert data.manifest.sources[0].invalid_records == 1
    assert len(data.train) + len(data.validation) == len(CONVERSATIONS)
