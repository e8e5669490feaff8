"""The stage Cache, of one rank: the teacher reads the training rows once, and its predictions are kept.

Each shard is written by one rank, and one that is there already stays. Which rows a shard has, how they are
put together and what is drawn from the rest depend on nothing else, so that a stage that was stopped, or has
another number of processes, gives the same bytes.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from trainyard_api.errors import ConfigurationError, PreemptedError
from trainyard_api.names import ExitCode, Stage
from trainyard_api.plan import RunPlan
from trainyard_trainer.batches import BatchSource
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.data.order import UNSIGNED_64, mix_64
from trainyard_trainer.data.progress import REPORT_SECONDS, PrepareReport
from trainyard_trainer.distillation.cache_entries import kept_predictions
from trainyard_trainer.distillation.cache_files import is_whole, write_shard
from trainyard_trainer.distillation.cache_place import CachePlace, cache_place
from trainyard_trainer.distributed import Ranks, join_gang, leave_gang
from trainyard_trainer.engine import COMPUTE_DTYPES, check_precision
from trainyard_trainer.methods.objective import build_objective
from trainyard_trainer.models.divided import divide_layers
from trainyard_trainer.models.language_model import LanguageModel
from trainyard_trainer.models.teacher import check_teacher_room, load_teacher
from trainyard_trainer.models.view import View
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.single_stages import PrepareReporter
from trainyard_trainer.workload import language_model, row_source

STEP = "teacher's predictions"
"""What progress calls the work of this stage."""


def write_cache(plan: RunPlan, *, stop: StopRequest, clock: Callable[[], float] = time.monotonic) -> ExitCode:
    """Write the shards of one rank, and wait for those of the others.

    Args:
        plan: the run; rank and rendezvous come from the environment (see `distributed.join_gang`).
        stop: whether this process was told to stop.
        clock: seconds that only grow.

    Returns:
        SUCCEEDED when all shards are there, PREEMPTED when the finished ones are.

    Raises:
        TrainyardError: what is wrong, where, and whether a retry helps.
    """
    ranks = join_gang(plan)
    try:
        check_precision(plan.spec, ranks.device)
        writer = open_writer(plan, ranks, stop, clock)
        with suppress(PreemptedError):
            writer.write()
            return ExitCode.SUCCEEDED
        return ExitCode.PREEMPTED
    finally:
        leave_gang()


@dataclass
class CacheWriter:
    """What a rank works with.

    Attributes:
        plan: the run.
        place: the cache.
        shards: numbers of the shards that this rank writes, which are missing.
        source: puts rows together.
        teacher: on the device; None where nobody needs it of this rank.
        ranks: this process among the others.
        stop: whether this process was told to stop.
        report: told how far all ranks are; None but on rank 0.
        clock: seconds that only grow.
    """

    plan: RunPlan
    place: CachePlace
    shards: tuple[int, ...]
    source: BatchSource
    teacher: LanguageModel | None
    ranks: Ranks
    stop: StopRequest
    report: PrepareReport | None
    clock: Callable[[], float]
    _num_rows: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)
    _told_at: float = field(default=float("-inf"), init=False)

    def write(self) -> None:
        """Write the shards of this rank, then wait for the others.

        Raises:
            PreemptedError: a rank was told to stop.
        """
        own = sum(len(self.place.shards[number]) for number in self.shards)
        self._num_rows = round(self.ranks.sums([float(own)])[0])
        for number in self.shards:
            rows = self.place.shards[number]
            write_shard(
                self.place.shard_folder(number),
                self.place.key,
                self.place.layout,
                rows.start,
                self._records(rows),
                writer=self.plan.name,
            )
        while self._meet(num_rows=0, is_at_work=False):
            if self.plan.divides_weights:
                # Whoever is at work needs the part of the layers that this rank has.
                self._view(range(1))

    def _records(self, rows: range) -> Iterator[NDArray[np.void]]:
        """What is kept of each row of a shard."""
        size = self.plan.batch.micro_batch_size
        for first in range(rows.start, rows.stop, size):
            batch = rows[first - rows.start : first - rows.start + size]
            self._meet(num_rows=len(batch), is_at_work=True)
            yield from self._records_of(batch)

    @torch.no_grad()
    def _records_of(self, rows: range) -> Iterator[NDArray[np.void]]:
        """What is kept of rows that the teacher reads together."""
        view = self._view(rows)
        places = view.tokens if self.place.of_tokens else view.labelled
        row_of_place = places // (len(view.is_token) // len(rows))
        generator = torch.Generator(self.ranks.device)
        for index, row in enumerate(rows):
            states = view.states.index_select(0, places[row_of_place == index])
            generator.manual_seed(draw_seed(self.plan.spec.training.seed, row))
            yield kept_predictions(view.head(states), self.place.layout, generator)

    @torch.no_grad()
    def _view(self, rows: range) -> View:
        """Some rows through the teacher; where it is divided, all ranks have to call this equally often."""
        arguments = self.source.successive_rows(rows).model_arguments(self.ranks.device)
        return cast("LanguageModel", self.teacher).view(*arguments)

    def _meet(self, *, num_rows: int, is_at_work: bool) -> bool:
        """Tell the others what this rank is about to do; a collective, so that no wait is longer than that.

        Returns:
            Whether any rank is still at work.

        Raises:
            PreemptedError: a rank was told to stop.
        """
        rows, at_work, stops = self.ranks.sums([num_rows, float(is_at_work), float(self.stop.requested)])
        if stops and at_work:
            raise PreemptedError(
                str(self.place.folder), "told to stop before it was whole", "Start the run again to go on"
            )
        now = self.clock()
        is_due = now - self._told_at >= REPORT_SECONDS or not at_work
        if self.report is not None and is_due:
            self._told_at = now
            self.report(STEP, self._done, self._num_rows, "rows")
        self._done += round(rows)
        return at_work > 0


def draw_seed(seed: int, row: int) -> int:
    """Decides what is drawn from the rest of a row's predictions."""
    return mix_64((mix_64(seed & UNSIGNED_64) + row) & UNSIGNED_64) >> 1


def missing_shards(place: CachePlace, ranks: Ranks) -> list[int]:
    """Numbers of the shards that are not there; a collective: rank 0 looks and tells the others."""
    seen = [
        number
        for number, rows in enumerate(place.shards)
        if ranks.is_first and not is_whole(place.shard_folder(number), place.key, rows)
    ]
    return [int(number) for number in json.loads(ranks.texts(json.dumps(seen))[0])]


def open_writer(
    plan: RunPlan, ranks: Ranks, stop: StopRequest, clock: Callable[[], float] = time.monotonic
) -> CacheWriter:
    """Open the data, find out what is missing, and load the teacher where this rank has something to write.

    Raises:
        ConfigurationError: the run has no cache.
        DataError: data or teacher are damaged.
    """
    run_folder = Path(plan.paths.run_folder)
    data = open_prepared(run_folder)
    place = cache_place(plan, data)
    if place is None:
        raise ConfigurationError(
            "spec.distillation.teacherCache", "it is not set, so there is nothing to write", "Set it"
        )
    missing = missing_shards(place, ranks)
    own = tuple(missing[ranks.rank :: ranks.world_size])
    objective = build_objective(plan.spec, data.manifest)
    loaded = None
    if own or (missing and plan.divides_weights):
        check_teacher_room(plan, data, ranks.device, trains=False)
        loaded = load_teacher(plan, data)
    teacher = None
    if loaded is not None:
        teacher = language_model(plan.spec, objective, loaded)
        teacher.to(dtype=COMPUTE_DTYPES[plan.spec.training.precision])
        if plan.divides_weights:
            divide_layers(loaded, ranks)
        teacher.to(device=ranks.device)
    reporter = PrepareReporter(run_folder, plan.attempt, stage=Stage.CACHE) if ranks.is_first else None
    return CacheWriter(
        plan=plan,
        place=place,
        shards=own,
        source=row_source(plan, data, objective, ranks.rank),
        teacher=teacher,
        ranks=ranks,
        stop=stop,
        report=reporter,
        clock=clock,
    )
