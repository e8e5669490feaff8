"""Where restored optimizer state lies."""

from types import SimpleNamespace

import pytest
import torch

from trainyard_trainer.engine_state import Piece, set_optimizer_tensor


@pytest.mark.parametrize(("key", "values"), [("step", torch.tensor(3.0)), ("row_var", torch.ones(2, 1))])
def test_state_that_is_not_element_wise_comes_back_on_the_device_of_the_parameter(key, values):
    flat = torch.empty(4, device="meta")
    engine = SimpleNamespace(optimizer=SimpleNamespace(state={flat: {}}))
    set_optimizer_tensor(engine, Piece("w", 0, 4, flat, 0), key, values, elementwise=False)
    assert engine.optimizer.state[flat][key].device == flat.device


def test_restored_state_is_a_copy_that_later_steps_may_change():
    flat, values = torch.zeros(4), torch.tensor(3.0)
    engine = SimpleNamespace(optimizer=SimpleNamespace(state={flat: {}}))
    set_optimizer_tensor(engine, Piece("w", 0, 4, flat, 0), "step", values, elementwise=False)
    engine.optimizer.state[flat]["step"] += 1
    assert values == 3.0
