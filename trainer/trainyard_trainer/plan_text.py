"""A plan in words: what `trainyard plan` prints."""

from collections.abc import Iterator
from dataclasses import asdict

from trainyard_api.plan import RunPlan
from trainyard_trainer.data.model_place import teacher_place
from trainyard_trainer.data.stored_size import StoredSize, stored_size
from trainyard_trainer.models.size import estimate, teacher_bytes

MIB = 2**20


def plan_lines(plan: RunPlan) -> Iterator[str]:
    """Stages and processes, the batch arithmetic, parameters and memory."""
    batch = plan.batch
    yield f"run {plan.name}, folder {plan.paths.run_folder}"
    yield (
        f"batch {batch.global_batch_size} rows = {batch.micro_batch_size} (micro) x "
        f"{batch.accumulation_steps} (accumulation) x {batch.world_size} (processes)"
    )
    tokens = batch.global_batch_size * plan.spec.data.sequence_length
    yield f"tokens per optimizer step at most {tokens:,}"
    yield from size_lines(plan)
    for stage in plan.stages:
        yield f"stage {stage.stage}: {len(stage.nodes)} node(s)"
        for node in stage.nodes:
            environment = [f"{name}={value}" for name, value in node.env.items()]
            yield f"  node {node.index}: {' '.join([*environment, *node.argv])}"


def size_lines(plan: RunPlan) -> Iterator[str]:
    """Parameters and the memory estimate of one process; a stored model tells them once it is read."""
    place, vocabulary_size = teacher_place(plan), None
    teacher = None if place is None or place.local is None else stored_size(place.local)
    if plan.paths.teacher:
        yield from teacher_lines(plan, teacher)
        # PyTorch takes seconds to import, and other plans need none of it.
        from trainyard_trainer.plan_imitation import imitation_lines, read_imitation  # noqa: PLC0415

        found = read_imitation(plan)
        if found is not None:
            yield from imitation_lines(found)
            vocabulary_size = found.vocabulary_size
    if plan.paths.base_model:
        yield f"starts from {plan.paths.base_model}, which decides parameters and memory"
        return
    if plan.spec.model.from_teacher is not None:
        yield "starts from layers of it, so that it decides parameters and memory"
        return
    size = estimate(plan, vocabulary_size=vocabulary_size, teacher=teacher)
    assumed = " (vocabulary assumed)" if size.vocabulary_is_assumed else ""
    yield f"parameters {size.parameters.total:,}, of them {size.parameters.embedding:,} embedding{assumed}"
    yield f"arithmetic {size.flops_per_token:,.0f} FLOP per token"
    yield f"memory per process about {size.memory.total / MIB:,.0f} MiB, ZeRO stage {plan.zero_stage}"
    for name, num_bytes in asdict(size.memory).items():
        yield f"  {name.replace('_', ' ')} {num_bytes / MIB:,.1f} MiB"


def teacher_lines(plan: RunPlan, teacher: StoredSize | None) -> Iterator[str]:
    """What the teacher costs in memory; None where its weights are not on this machine yet."""
    size = "" if teacher is None else f" ({teacher.parameters:,} parameters)"
    amount = "" if teacher is None else f", {teacher_bytes(plan, teacher) / MIB:,.0f} MiB"
    shared = "but for the layers, which they share" if plan.divides_weights else "whole"
    place = "the processes of stage Cache only" if plan.spec.caches_teacher else "each process"
    yield f"imitates {plan.paths.teacher}{size}, in the memory of {place}, {shared}{amount}"
