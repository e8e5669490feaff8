"""What a cluster would say about a run, asked of the operator where it is installed too.

The trainer does not know the operator; that one brings its check as an entry point.
"""

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from trainyard_api.problems import Findings, InvalidRunError
from trainyard_api.spec import TrainingRun

GROUP = "trainyard.checks"
"""Entry points that take a TrainingRun and return Findings."""


def check_template(run: TrainingRun, file: Path) -> Iterator[str]:
    """Warnings about podTemplate, which only a cluster reads.

    Args:
        run: valid by the schema.
        file: where it was read from.

    Raises:
        InvalidRunError: the operator would refuse it.
    """
    if not run.spec.workers.pod_template:
        return
    for check in entry_points(group=GROUP):
        try:
            ask = check.load()
        except ModuleNotFoundError as error:
            yield (
                "spec.workers.podTemplate: its fields are not checked, because "
                f"{error.name} is not installed. Install trainyard[operator] to have them checked here; "
                "the operator does it in any case"
            )
            continue
        findings: Findings = ask(run)
        if findings.problems:
            raise InvalidRunError(findings.problems, str(file))
        yield from (f"{warning.path}: {warning.problem}. {warning.remedy}" for warning in findings.warnings)
