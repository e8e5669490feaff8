"""The CRD as a real API server takes it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.kubectl import Kubectl
from tests.cluster.locations import REPOSITORY

pytestmark = pytest.mark.control_plane

SAMPLES = sorted((REPOSITORY / "manifests" / "samples").glob("*.yaml"))
INVALID = sorted((REPOSITORY / "tests" / "data" / "invalid").glob("*.yaml"))
OPENAPI = "/openapi/v3/apis/trainyard.dev/v1alpha1"

LEFT_TO_THE_READER = {
    "hostile-bad-date": "kubectl reads a bad date as text",
}
"""Mistakes of YAML that kubectl reads away, so that no server can see them, with what it makes of them."""

LEFT_TO_THE_OPERATOR = {
    "deepspeed-not-an-object": "CEL cannot look into a free-form object",
    "deepspeed-owned-keys": "CEL cannot look into a free-form object",
    "deepspeed-unknown-keys": "CEL cannot look into a free-form object",
    "unsupported-bias": "the CRD describes the whole API, a version of the operator tells what it can do",
    "unsupported-method": "the CRD describes the whole API",
    "unsupported-model": "the CRD describes the whole API",
    "unsupported-preparation": "the CRD describes the whole API",
    "unsupported-storage": "the CRD describes the whole API",
}
"""Mistakes that the API server admits, with the reason; the operator refuses them with Validated=False."""


@pytest.fixture
def server(crd: Path, kubectl: Kubectl) -> Kubectl:
    """kubectl in a namespace of a server that knows TrainingRuns."""
    return kubectl


def sample(**spec: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(SAMPLES[0].read_text())
    document["spec"].update(spec)
    return document


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_the_server_refuses_what_validate_refuses(server, path):
    done = server.attempt("apply", "--dry-run=server", "-f", str(path))
    print(path.stem, "RC", done.returncode, done.stderr)
