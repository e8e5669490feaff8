"""How long a status waits that tells of no end and no decision."""

import pytest

from trainyard_operator.reconcile import patience
from trainyard_operator.settings import Settings


@pytest.mark.parametrize(
    ("num_waiting", "seconds"),
    [(1, 2.0), (50, 2.0), (100, 4.0), (200, 8.0), (250, 10.0), (5_000, 10.0)],
)
def test_a_status_waits_longer_when_many_runs_wait_but_never_longer_than_progress(num_waiting, seconds):
    assert patience(Settings(), num_waiting) == seconds


def test_settings_that_want_more_patience_get_it():
    assert patience(Settings(status_seconds=30.0, progress_seconds=5.0), 1_000) == 30.0
