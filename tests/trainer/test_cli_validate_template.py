"""`trainyard validate` looks into podTemplate with the operator's own check, where that is installed."""

import subprocess
import sys

import pytest
import yaml

from tests.support.commands import command_caller
from tests.support.runs import document
from trainyard_api.names import ExitCode
from trainyard_api.spec import TrainingRun
from trainyard_operator.resources import WorkerDefaults, problems_of_templates

DEFAULTS = WorkerDefaults(
    image="example/trainer:1",
    default_claim_name="training",
    progress_url="https://operator.example",
    ca_config_map="ca",
)
TRAINER = {"name": "trainer"}


@pytest.fixture
def call(monkeypatch, capsys):
    return command_caller(monkeypatch, capsys)


@pytest.fixture
def run_with(tmp_path):
    """The document of a run with a podTemplate, and its file."""

    def write(template):
        written = document(tmp_path / "texts.jsonl", workers={"podTemplate": template})
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(written))
        return TrainingRun.model_validate(written), file

    return write


REFUSED = {
    "a mistyped field": ({"spec": {"nodeSelektor": {"a": "b"}}}, "Did you mean nodeSelector?"),
    "a field of a wrong kind": ({"spec": {"tolerations": "all"}}, "is not a list"),
    "a number as text": ({"spec": {"priority": "5"}}, "is not a whole number"),
    "no quantity": (
        {"spec": {"containers": [{**TRAINER, "resources": {"limits": {"memory": "lots"}}}]}},
        "is no quantity",
    ),
    "the command line": (
        {"spec": {"containers": [{**TRAINER, "command": ["sleep"]}]}},
        "the plan decides the command line",
    ),
    "a variable of the rendezvous": (
        {"spec": {"containers": [{**TRAINER, "env": [{"name": "MASTER_ADDR", "value": "x"}]}]}},
        "Trainyard sets this variable",
    ),
    "a label of Trainyard": ({"metadata": {"labels": {"trainyard.dev/run": "x"}}}, "finds its pods by it"),
    "several at once": ({"spec": {"hostname": "a", "subdomain": "b"}}, "2 problems"),
    "a container without a name": ({"spec": {"containers": [{"image": "x"}]}}, "name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_operator_would_refuse_is_refused_in_its_words(name, call, run_with):
    template, words = REFUSED[name]
    run, file = run_with(template)
    code, out, err = call("validate", file)
    assert (code, out) == (ExitCode.INVALID_CONFIGURATION, "")
    assert words in err
    problems = problems_of_templates(run, DEFAULTS)
    assert problems
    for problem in problems:
        assert str(problem) in err


WARNED = {
    "hostPath": (
        {"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/usr"}}]}},
        "volume type hostPath",
    ),
    "hostNetwork": ({"spec": {"hostNetwork": True}}, "hostNetwork"),
    "root": ({"spec": {"securityContext": {"runAsUser": 0}}}, "pod: runAsUser"),
    "privileged": (
        {"spec": {"containers": [{**TRAINER, "securityContext": {"privileged": True}}]}},
        "trainer: privileged",
    ),
    "a sidecar without a context": (
        {"spec": {"containers": [{"name": "side", "image": "x", "securityContext": None}]}},
        "side: allowPrivilegeEscalation",
    ),
    "a hook that asks a host": (
        {
            "spec": {
                "containers": [
                    {
                        **TRAINER,
                        "lifecycle": {
                            "stopSignal": "SIGTERM",
                            "preStop": {"httpGet": {"host": "x", "port": 1}},
                        },
                    }
                ]
            }
        },
        "trainer: host of a probe or hook",
    ),
    "a sysctl": ({"spec": {"securityContext": {"sysctls": [{"value": "1"}]}}}, "sysctl None"),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_pod_security_does_not_admit_is_a_warning(name, call, run_with):
    template, words = WARNED[name]
    _, file = run_with(template)
    code, out, err = call("validate", file)
    assert (code, out) == (0, f"{file}: TrainingRun test is valid\n")
    assert err.startswith("warning: spec.workers.podTemplate: Pod Security `restricted` does not admit")
    assert words in err
    assert err.count("\n") == 1


def test_a_template_that_fits_everywhere_is_valid_without_a_word(call, run_with):
    template = {"metadata": {"labels": {"team": "a"}}, "spec": {"nodeSelector": {"pool": "gpu"}}}
    _, file = run_with(template)
    assert call("validate", file) == (0, f"{file}: TrainingRun test is valid\n", "")


def test_without_the_kubernetes_package_validate_says_what_it_did_not_check(run_with):
    _, file = run_with({"spec": {"nodeSelektor": {"a": "b"}}})
    script = (
        "import sys; sys.modules['kubernetes'] = None; "
        f"sys.argv = ['trainyard', 'validate', {str(file)!r}]; "
        "from trainyard_trainer.__main__ import run_command; run_command()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{file}: TrainingRun test is valid\n")
    assert "its fields are not checked, because kubernetes.aio" in done.stderr
    assert "Install trainyard[operator]" in done.stderr
