"""What training makes of an evaluation; a small object stands for the engine."""

import math
from types import SimpleNamespace

import pytest

from trainyard_api.errors import DivergedError
from trainyard_trainer.checkpoint import TrainState
from trainyard_trainer.train import evaluate


def trainer_with(*losses: float) -> SimpleNamespace:
    """A trainer of one process whose evaluation has a batch of 4 predictions for each summed loss."""
    training = SimpleNamespace(evaluation=SimpleNamespace(maximum_sequences=None))
    return SimpleNamespace(
        plan=SimpleNamespace(spec=SimpleNamespace(training=training, fine_tuning=None)),
        engine=SimpleNamespace(eval=lambda: None, train=lambda: None, forward=lambda batch: batch.loss),
        source=SimpleNamespace(
            evaluation_batches=lambda _maximum: [SimpleNamespace(loss=loss, num_labels=4) for loss in losses]
        ),
        ranks=SimpleNamespace(sums=list),
        stop=SimpleNamespace(requested=False),
        recorder=SimpleNamespace(evaluated=lambda *_: None),
        state=TrainState(step=7),
        evaluator=None,
    )


def test_an_evaluation_gives_the_mean_over_all_predictions():
    trainer = trainer_with(8.0, 16.0)
    assert evaluate(trainer, total_steps=7)
    assert (trainer.state.evaluation_loss, trainer.state.evaluation_step) == (3.0, 7)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_weights_whose_held_out_loss_is_not_finite_are_no_result(loss):
    trainer = trainer_with(8.0, loss)
    with pytest.raises(DivergedError, match=r"evaluation loss after step 7 is (nan|inf)\. Lower optimizer"):
        evaluate(trainer, total_steps=7)
    assert trainer.state.evaluation_loss is None
