import pytest
import torch

from trainyard_api.spec_model import Architecture, StudentOfTeacher
from trainyard_trainer.methods.distillation_losses import divergence_of, divergence_sum
from trainyard_trainer.methods.layer_losses import (
    attention_scores,
    attention_sum,
    hidden_projection,
    hidden_sum,
    relation_sum,
)
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.language_model import vocabulary_logits
from trainyard_trainer.models.projections import captured_projections
from trainyard_trainer.models.student import student_of

OBJECTIVES = {
    "bert-tiny": "MaskedLM",
    "modernbert-tiny": "MaskedLM",
    "llama-tiny": "CausalLM",
    "gpt2-tiny": "CausalLM",
}
TOKENS = torch.arange(5, 37).view(2, 16)


def make_model(preset, seed=3):
    config = build_config(
        Architecture(preset=preset), vocabulary_size=64, pad_token_id=0, objective=OBJECTIVES[preset]
    )
    return build_model(config, OBJECTIVES[preset], seed=seed).eval()


@pytest.mark.parametrize("preset", OBJECTIVES)
def test_the_captured_queries_and_keys_make_the_attention_of_the_model(preset):
    """All positions are 0, at which a rotation turns by nothing."""
    model = make_model(preset)
    model.set_attn_implementation("eager")
    with torch.no_grad(), captured_projections(model, [2]) as projections:
        output = model(input_ids=TOKENS, position_ids=torch.zeros_like(TOKENS), output_attentions=True)
    num_heads = model.config.num_attention_heads
    scores = attention_scores(projections[2].query, projections[2].key, num_heads)
    if OBJECTIVES[preset] == "CausalLM":
        scores = scores.masked_fill(~torch.ones(16, 16, dtype=torch.bool).tril(), -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), output.attentions[1], atol=1e-5, rtol=1e-4)
    assert projections[2].value.shape == projections[2].query.shape


def test_nothing_is_captured_after_the_end():
    model = make_model("bert-tiny")
    with captured_projections(model, [1]) as projections:
        pass
    model(input_ids=TOKENS)
    assert projections[1].query is None


def step_losses(student, teacher, projection):
    """The terms of one forward pass of both models over the same tokens."""
    allowed = torch.ones(2, 16, 16, dtype=torch.bool)
    with captured_projections(student, [1]) as own, captured_projections(teacher, [2]) as others:
        states = student.base_model(input_ids=TOKENS).last_hidden_state
        with torch.no_grad():
            target = teacher.base_model(input_ids=TOKENS).last_hidden_state
    heads = student.config.num_attention_heads
    flat, flat_target = states.flatten(0, 1), target.flatten(0, 1)
    scores = [attention_scores(found.query, found.key, heads) for found in (own[1], others[2])]
    return {
        "logits": divergence_sum(
            flat,
            flat_target,
            student_head=lambda hidden: vocabulary_logits(student, hidden),
            teacher_head=lambda hidden: vocabulary_logits(teacher, hidden),
            divergence=divergence_of("ForwardKL", temperature=2.0, teacher_share=0.5),
            vocabulary_sizes=(60, 60),
        ),
        "hidden": hidden_sum(flat, flat_target, measure="Cosine", projection=projection),
        "attention": attention_sum(*scores, allowed),
        "relation": relation_sum(
            (own[1].value, own[1].value), (others[2].value, others[2].value), num_heads=heads, allowed=allowed
        ),
    }


def test_a_student_of_one_layer_comes_nearer_to_its_teacher_in_every_term():
    teacher = make_model("bert-tiny").requires_grad_(requires_grad=False)
    with torch.no_grad():
        for number, parameter in enumerate(teacher.parameters()):
            parameter.mul_(3.0).add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            )
    student = student_of(teacher, StudentOfTeacher(layers=[1])).model.eval()
    projection = hidden_projection(128, 128, seed=1)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    start = {
        name: term.total.item() / term.count
        for name, term in step_losses(student, teacher, projection).items()
    }
    for _ in range(20):
        terms = step_losses(student, teacher, projection)
        optimizer.zero_grad()
        sum(term.total / term.count for term in terms.values()).backward()
        optimizer.step()
    end = {
        name: term.total.item() / term.count
        for name, term in step_losses(student, teacher, projection).items()
    }
    assert all(end[name] < 0.8 * start[name] for name in start), (start, end)
