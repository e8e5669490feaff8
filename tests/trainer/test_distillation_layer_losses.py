import math

import numpy as np
import pytest
import torch
from torch import nn

from trainyard_trainer.methods.layer_losses import (
    attention_scores,
    attention_sum,
    head_projection,
    hidden_projection,
    hidden_sum,
    relation_sum,
)
from trainyard_trainer.methods.sorted_logit_loss import aligned_places, sorted_logits

MEASURES = ("Cosine", "MeanSquaredError")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def documents(*lengths, causal=False, padding=0):
    """Which keys a query may see in one row of isolated documents."""
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = number[:, None] == number[None, :]
    allowed = torch.nn.functional.pad(allowed, (0, padding, 0, padding))
    return (allowed.tril() if causal else allowed)[None]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("Cosine", (1.0 - 11.0 / math.sqrt(5.0 * 25.0)) + 1.0), ("MeanSquaredError", (4.0 + 4.0) / 2 + 1.0)],
)
def test_the_distance_of_hidden_states_is_its_formula(measure, expected):
    student, teacher = torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    term = hidden_sum(student, teacher, measure=measure, projection=nn.Identity())
    assert term.total.item() == pytest.approx(expected, rel=1e-6)
    assert term.count == 2


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_hidden_states_have_no_distance(measure):
    states = normal(5, 4)
    term = hidden_sum(states, states, measure=measure, projection=nn.Identity())
    assert term.total.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_gradients_of_states_and_projection_agree_with_finite_differences(measure):
    projection = hidden_projection(3, 5, seed=1).double()
    teacher = normal(4, 5, seed=2)

    def total(student, weight):
        mapped = nn.Linear(3, 5, bias=False).double()
        mapped.weight = nn.Parameter(weight)
        return torch.func.functional_call(
            _Distance(mapped, teacher, measure), {"projection.weight": weight}, (student,)
        )

    student = normal(4, 3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(total, (student, projection.weight))


class _Distance(nn.Module):
    def __init__(self, projection, teacher, measure):
        super().__init__()
        self.projection, self.teacher, self.measure = projection, teacher, measure

    def forward(self, student):
        return hidden_sum(student, self.teacher, measure=self.measure, projection=self.projection).total


def test_a_projection_exists_only_where_widths_differ_and_follows_from_its_seed():
    assert not list(hidden_projection(8, 8, seed=1).parameters())
    first, again, other = (hidden_projection(64, 96, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    states = normal(500, 64).float()
    assert first(states).square().mean().item() == pytest.approx(states.square().mean().item(), rel=0.1)


def test_attention_scores_are_scaled_products_head_by_head():
    queries, keys = normal(1, 3, 4, seed=1), normal(1, 3, 4, seed=2)
    scores = attention_scores(queries, keys, 2)
    expected = sum(float(queries[0, 2, d] * keys[0, 0, d]) for d in (2, 3)) / math.sqrt(2)
    assert scores.shape == (1, 2, 3, 3)
    assert scores[0, 1, 2, 0].item() == pytest.approx(expected, rel=1e-9)


def test_attention_counts_each_query_once_and_only_the_keys_it_sees():
    student, teacher = normal(1, 2, 5, 5, seed=1), normal(1, 2, 5, 5, seed=2)
    allowed = documents(3, 1, padding=1)
    squares = (student - teacher).square().mean(1)[0].tolist()
    expected = sum(sum(squares[query][:3]) / 3 for query in range(3)) + squares[3][3]
    term = attention_sum(student, teacher, allowed)
    assert term.total.item() == pytest.approx(expected, rel=1e-9)
    assert term.count == 4
    assert attention_sum(teacher, teacher, allowed).total.item() == 0.0


def test_the_gradient_of_attention_agrees_with_finite_differences():
    student, teacher, allowed = (
        normal(1, 1, 3, 3, seed=1),
        normal(1, 1, 3, 3, seed=2),
        documents(3, causal=True),
    )
    assert torch.autograd.gradcheck(
        lambda scores: attention_sum(scores, teacher, allowed).total, student.requires_grad_()
    )


def test_neighbouring_heads_of_a_teacher_with_more_of_them_share_one_of_the_students_at_first():
    assert head_projection(2, 5)(torch.tensor([[3.0, 7.0]])).tolist() == [[3.0, 3.0, 3.0, 7.0, 7.0]]
    assert head_projection(3, 2)(torch.tensor([[3.0, 7.0, 9.0]])).tolist() == [[3.0, 7.0]]
    assert not list(head_projection(4, 4).parameters())


def test_the_gradient_of_heads_that_are_mixed_agrees_with_finite_differences():
    teacher, allowed = normal(1, 3, 3, 3, seed=2), documents(3, causal=True)
    projection = head_projection(2, 3).double()

    def total(scores, weight):
        mixed = torch.func.functional_call(projection, {"weight": weight}, (scores,))
        return attention_sum(mixed, teacher, allowed).total

    assert torch.autograd.gradcheck(total, (normal(1, 2, 3, 3).requires_grad_(), projection.weight))


def test_relations_are_the_divergence_of_softmaxes_over_the_tokens_that_are_seen():
    student, teacher = normal(1, 4, 4, seed=1), normal(1, 4, 6, seed=2)
    allowed = documents(3, padding=1)
    expected = 0.0
    for head in range(2):
        for query in range(3):
            relation = {}
            for name, values, size in (("s", student[0], 2), ("t", teacher[0], 3)):
                part = values[:, head * size : (head + 1) * size]
                products = [float(part[query] @ part[key]) / math.sqrt(size) for key in range(3)]
                relation[name] = softmax(products)
            expected += (
                sum(t * math.log(t / s) for t, s in zip(relation["t"], relation["s"], strict=True)) / 2
            )
    term = relation_sum((student, student), (teacher, teacher), num_heads=2, allowed=allowed)
    assert term.total.item() == pytest.approx(expected, rel=1e-9)
    assert term.count == 3


def test_equal_relations_have_no_divergence_and_their_gradient_agrees_with_finite_differences():
    queries, keys, teacher = normal(1, 4, 4, seed=1), normal(1, 4, 4, seed=2), normal(1, 4, 8, seed=3)
    allowed = documents(2, 2, causal=True)

    def total(first, second):
        return relation_sum((first, second), (teacher, teacher), num_heads=2, allowed=allowed).total

    same = relation_sum((teacher, teacher), (teacher, teacher), num_heads=2, allowed=allowed)
    assert same.total.item() == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.gradcheck(total, (queries.requires_grad_(), keys.requires_grad_()))


def test_features_that_do_not_split_into_the_heads_are_refused():
    values = normal(1, 3, 5)
    with pytest.raises(ValueError, match="5 features cannot be split into 2 heads"):
        relation_sum((values, values), (values, values), num_heads=2, allowed=documents(3))


@pytest.mark.parametrize("term", ["attention", "relation"])
def test_rows_add_up_to_their_micro_batch(term):
    student, teacher = normal(3, 4, 8, seed=1), normal(3, 4, 8, seed=2)
    allowed = torch.cat([documents(4), documents(1, 2, padding=1), documents(2, padding=2)])

    def summed(rows):
        if term == "relation":
            pairs = (student[rows], student[rows]), (teacher[rows], teacher[rows])
            return relation_sum(*pairs, num_heads=2, allowed=allowed[rows])
        scores = [attention_scores(values[rows], values[rows], 2) for values in (student, teacher)]
        return attention_sum(*scores, allowed[rows])

    whole, parts = summed(slice(0, 3)), [summed(slice(row, row + 1)) for row in range(3)]
    assert sum(part.count for part in parts) == whole.count == 9
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), rel=1e-9)


def test_sorted_logits_compare_sizes_whichever_tokens_have_them():
    student = torch.log(torch.tensor([[0.1, 0.7, 0.2]]))
    permuted = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    wider = torch.log(torch.tensor([[0.25, 0.5, 0.125, 0.125]]))
    assert sorted_logits(student, permuted, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    assert sorted_logits(student, wider, 1.0).item() == pytest.approx(0.2 + 0.05 + 0.025 + 0.125, rel=1e-5)


def test_the_gradient_of_sorted_logits_agrees_with_finite_differences():
    teacher = normal(2, 6, seed=5)
    assert torch.autograd.gradcheck(
        lambda student: sorted_logits(student, teacher, 1.5), normal(2, 4).requires_grad_()
    )


def test_places_are_aligned_where_both_have_read_the_same_text():
    """`un|happ|y|!` beside `unhap|py|!` meet after `y` and after `!`; an empty token changes nothing."""
    student, teacher = aligned_places(np.array([2, 6, 7, 7, 8]), np.array([5, 7, 8]))
    assert (student.tolist(), teacher.tolist()) == ([3, 4], [1, 2])
