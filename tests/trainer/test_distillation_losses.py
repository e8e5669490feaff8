import math

import pytest
import torch
from torch import nn

from trainyard_trainer.methods.distillation_losses import (
    divergence_of,
    divergence_sum,
    forward_kl,
    jensen_shannon,
    reverse_kl,
)

STUDENT = [[2.0, -1.0, 0.5], [0.0, 0.3, -2.0]]
TEACHER = [[0.1, 1.2, -0.4], [1.5, -0.5, -3.0]]
KINDS = ("ForwardKL", "ReverseKL", "JensenShannon")


def divergence(kind, temperature=1.0):
    return divergence_of(kind, temperature=temperature, teacher_share=0.3)


def distribution(logits, temperature):
    """Softmax by its definition, in plain Python."""
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def entropy_difference(first, second):
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


def by_definition(kind, student, teacher, temperature):
    p, q = distribution(teacher, temperature), distribution(student, temperature)
    mixture = [0.3 * of_teacher + 0.7 * of_student for of_teacher, of_student in zip(p, q, strict=True)]
    value = {
        "ForwardKL": entropy_difference(p, q),
        "ReverseKL": entropy_difference(q, p),
        "JensenShannon": 0.3 * entropy_difference(p, mixture) + 0.7 * entropy_difference(q, mixture),
    }[kind]
    return temperature**2 * value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_divergence_is_its_formula_at_every_position(kind, temperature):
    found = divergence(kind, temperature)(torch.tensor(STUDENT), torch.tensor(TEACHER))
    expected = [by_definition(kind, *logits, temperature) for logits in zip(STUDENT, TEACHER, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_divergence_is_zero_where_both_are_equal_and_positive_elsewhere(kind):
    logits = torch.tensor(TEACHER)
    assert divergence(kind)(logits + 3.0, logits).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert (divergence(kind)(torch.tensor(STUDENT), logits) > 0.01).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_the_gradient_of_a_divergence_agrees_with_finite_differences(kind, temperature):
    student = torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(TEACHER, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda logits: divergence(kind, temperature)(logits, teacher), student)


def test_forward_and_reverse_are_told_apart_by_two_points():
    """The teacher is sure, the student is not: KL((.9, .1) || (.5, .5)) is .368, the other way .511."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(9.0), 0.0]])
    assert forward_kl(student, teacher, 1.0).item() == pytest.approx(0.3681, abs=1e-4)
    assert reverse_kl(student, teacher, 1.0).item() == pytest.approx(0.5108, abs=1e-4)


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient():
    """For small logits the gradient tends to that of a squared error, whatever the temperature (Hinton)."""
    sizes = []
    for temperature in (1.0, 10.0, 50.0):
        student = (0.1 * torch.tensor(STUDENT)).requires_grad_()
        forward_kl(student, 0.1 * torch.tensor(TEACHER), temperature).sum().backward()
        sizes.append(student.grad.norm().item())
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.05)


def test_the_mixture_tends_to_the_forward_and_to_the_reverse_divergence():
    student, teacher = torch.tensor(STUDENT).double(), torch.tensor(TEACHER).double()
    nearly_forward = jensen_shannon(student, teacher, 1.0, 1e-6) / 1e-6
    nearly_reverse = jensen_shannon(student, teacher, 1.0, 1.0 - 1e-6) / 1e-6
    assert nearly_forward.tolist() == pytest.approx(forward_kl(student, teacher, 1.0).tolist(), rel=1e-3)
    assert nearly_reverse.tolist() == pytest.approx(reverse_kl(student, teacher, 1.0).tolist(), rel=1e-3)


@pytest.fixture(scope="module")
def models():
    """States at 37 positions of a wide teacher and a narrow student, with heads of padded vocabularies."""
    generator = torch.Generator().manual_seed(3)
    student_head, teacher_head = nn.Linear(8, 64), nn.Linear(16, 128)
    with torch.no_grad():
        for parameter in (*student_head.parameters(), *teacher_head.parameters()):
            parameter.normal_(generator=generator)
    return (
        torch.randn(37, 8, generator=generator),
        torch.randn(37, 16, generator=generator),
        student_head,
        teacher_head,
    )


def summed(models, kind="ForwardKL", places=slice(None), **options):
    """The term and its gradients for the student's states and head."""
    student, teacher, student_head, teacher_head = models
    student_head.zero_grad()
    states = student[places].clone().requires_grad_()
    term = divergence_sum(
        states,
        teacher[places],
        student_head=student_head,
        teacher_head=teacher_head,
        divergence=divergence(kind, 2.0),
        vocabulary_sizes=(50, 50),
        **options,
    )
    term.total.backward()
    return term, states.grad, student_head.weight.grad.clone()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_made_in_chunks_give_the_same_sum_and_gradients_as_at_once(models, kind):
    whole, states_gradient, head_gradient = summed(models, kind)
    chunked, *gradients = summed(models, kind, chunk_positions=5)
    assert (whole.count, chunked.count) == (37, 37)
    assert chunked.total.item() == pytest.approx(whole.total.item(), rel=1e-5)
    torch.testing.assert_close(gradients, [states_gradient, head_gradient])


def test_micro_batches_add_up_to_the_whole_batch(models):
    whole, states_gradient, head_gradient = summed(models)
    parts = [summed(models, places=places) for places in (slice(0, 4), slice(4, 37))]
    assert sum(term.count for term, _, _ in parts) == whole.count
    assert sum(term.total.item() for term, _, _ in parts) == pytest.approx(whole.total.item(), rel=1e-5)
    torch.testing.assert_close(torch.cat([states for _, states, _ in parts]), states_gradient)
    torch.testing.assert_close(sum(head for _, _, head in parts), head_gradient)


def test_padded_columns_of_both_vocabularies_do_not_matter(models):
    student, teacher, student_head, teacher_head = models
    padded = nn.Linear(16, 128)
    with torch.no_grad():
        padded.weight.copy_(teacher_head.weight)
        padded.bias.copy_(teacher_head.bias)
        padded.bias[50:] = 1000.0
    expected, *_ = summed(models)
    found, *_ = summed((student, teacher, student_head, padded))
    assert found.total.item() == expected.total.item()


def test_the_teacher_gets_no_gradient(models):
    student, teacher, student_head, teacher_head = models
    states = teacher.clone().requires_grad_()
    summed((student, states, student_head, teacher_head))
    assert states.grad is None
    assert teacher_head.weight.grad is None


def test_no_position_gives_zero_with_a_gradient(models):
    term, states_gradient, head_gradient = summed(models, places=slice(0, 0))
    assert (term.total.item(), term.count) == (0.0, 0)
    assert states_gradient.shape == (0, 8)
    assert not head_gradient.any()


def test_sums_are_in_fp32_for_models_in_half_the_precision(models):
    student, teacher, student_head, teacher_head = models
    half = (student.bfloat16(), teacher.bfloat16())
    heads = (
        lambda states: student_head(states.float()).bfloat16(),
        lambda states: teacher_head(states.float()).bfloat16(),
    )
    term = divergence_sum(
        *half,
        student_head=heads[0],
        teacher_head=heads[1],
        divergence=divergence("ForwardKL"),
        vocabulary_sizes=(50, 50),
    )
    assert term.total.dtype == torch.float32
