"""The figures of a run in a few lines, from its status and its data manifest."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from trainyard_api.names import File
from trainyard_api.status import TrainingRunStatus
from trainyard_trainer.report_comparison import comparison_line


def loss_line(loss: float, run_folder: Path) -> str:
    """A loss beside what is known of the text without training."""
    line = f"evaluation loss {loss:.4f} nats (perplexity {math.exp(min(loss, 700.0)):.1f})"
    file = run_folder / File.DATA
    if not file.exists():
        return line
    data = json.loads(file.read_text(encoding="utf-8"))
    return (
        f"{line}; token frequencies alone give {data['frequencyLoss']:.4f} at best, "
        f"and the corpus's unigram entropy is {data['unigramEntropy']:.4f}"
    )


def metrics_line(metrics: Mapping[str, float]) -> str:
    """The metrics of the last evaluation of a task."""
    return "last evaluation: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def summary_lines(status: TrainingRunStatus, run_folder: Path, report: Path | None) -> list[str]:
    """What a person wants to know at the end."""
    lines = [f"{status.phase}: {run_folder}"]
    lines += [
        f"{c.type}: {c.message}" for c in status.conditions if c.type == "Failed" and c.status == "True"
    ]
    if status.progress is not None and status.progress.step:
        lines.append(f"steps {status.progress.step:,}, tokens {status.progress.tokens:,}")
    loss = status.progress.evaluation_loss if status.progress else None
    metrics = status.progress.metrics if status.progress else None
    if metrics is not None:
        lines.append(metrics_line(metrics))
    elif loss is not None:
        lines.append(loss_line(loss, run_folder))
    if status.checkpoint is not None:
        lines.append(f"checkpoint of step {status.checkpoint.step:,}: {status.checkpoint.uri}")
    if status.model is not None:
        lines.append(f"model ({status.model.parameters:,} parameters): {status.model.uri}")
        if status.model.metrics:
            lines.append(f"its {metrics_line(status.model.metrics).removeprefix('last ')}")
        if status.model.comparison is not None:
            lines.append(comparison_line(status.model.comparison))
    if report is not None:
        lines.append(f"report: {report}")
    return lines
