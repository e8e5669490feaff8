"""Settings from environment variables."""

import pytest

from trainyard_operator.errors import SettingsError
from trainyard_operator.settings import Settings


def test_without_variables_the_defaults_hold_and_the_whole_cluster_is_served():
    assert Settings.from_environment({"PATH": "/bin"}) == Settings()
    assert Settings().namespaces == ()


def test_variables_are_read_and_those_of_others_are_left_alone():
    settings = Settings.from_environment(
        {
            "TRAINYARD_NAMESPACES": "research, teaching,",
            "TRAINYARD_WORKERS": "8",
            "TRAINYARD_LEADER_ELECTION": "false",
            "TRAINYARD_CACHE": "/somewhere",
            "TRAINYARD_IDENTITY": "",
        }
    )
    assert settings.namespaces == ("research", "teaching")
    assert settings.workers == 8
    assert not settings.leader_election
    assert settings.identity == Settings().identity


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRAINYARD_WORKERS", "many"),
        ("TRAINYARD_WORKERS", "0"),
        ("TRAINYARD_LOG_LEVEL", "LOUD"),
        ("TRAINYARD_METRICS_PORT", "99999"),
        ("TRAINYARD_REQUESTS_PER_SECOND", "nan"),
        ("TRAINYARD_LEASE_DURATION_SECONDS", "-1"),
        ("TRAINYARD_LEASE_RENEW_DEADLINE_SECONDS", "15"),
        ("TRAINYARD_LEASE_RETRY_SECONDS", "5.1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable(variable, value):
    with pytest.raises(SettingsError, match=variable):
        Settings.from_environment({variable: value})


def test_the_help_lists_every_setting_with_its_meaning():
    text = Settings.help_text()
    for name, field in Settings.model_fields.items():
        assert f"TRAINYARD_{name.upper()} " in text
        assert field.description in text
