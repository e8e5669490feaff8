"""The figures of a run in a few lines, from its status and its data manifest."""

import json
import math
from pathlib import Path

from trainyard_api.names import File
from trainyard_api.status import TrainingRunStatus


def unigram_entropy(run_folder: Path) -> float | None:
    """Entropy of the token frequencies of the training text, in nats per token; None before Prepare."""
    file = run_folder / File.DATA
    return float(json.loads(file.read_text())["unigramEntropy"]) if file.exists() else None


def summary_lines(status: TrainingRunStatus, run_folder: Path, report: Path | None) -> list[str]:
    """What a person wants to know at the end."""
    lines = [f"{status.phase}: {run_folder}"]
    lines += [
        f"{c.type}: {c.message}" for c in status.conditions if c.type == "Failed" and c.status == "True"
    ]
    if status.progress is not None and status.progress.step:
        lines.append(f"steps {status.progress.step:,}, tokens {status.progress.tokens:,}")
    loss = status.progress.evaluation_loss if status.progress else None
    entropy = unigram_entropy(run_folder)
    if loss is not None and entropy is not None:
        lines.append(
            f"evaluation loss {loss:.4f} nats (perplexity {math.exp(loss):.1f}); "
            f"unigram entropy of the corpus {entropy:.4f} nats"
        )
    if status.checkpoint is not None:
        lines.append(f"checkpoint of step {status.checkpoint.step:,}: {status.checkpoint.uri}")
    if status.model is not None:
        lines.append(f"model ({status.model.parameters:,} parameters): {status.model.uri}")
    if report is not None:
        lines.append(f"report: {report}")
    return lines
