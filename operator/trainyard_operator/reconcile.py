"""One pass over one run: gather, decide, act, write the status once, tell. Read this file first.

`gather.py` collects what is known, `decide.py` is pure and decides, `act.py` creates and deletes, `status.py`
holds the status that follows. A pass may break off anywhere: the next one starts from what is there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trainyard_api.names import ConditionType
from trainyard_api.spec import TrainingRun
from trainyard_api.status import TrainingRunStatus
from trainyard_api.timestamps import format_timestamp
from trainyard_operator.act import REPEAT_SECONDS, Actor, Outcome
from trainyard_operator.cluster import EVENTS, RUNS, Cluster
from trainyard_operator.decide import decide
from trainyard_operator.errors import AlreadyExistsError, ClusterError, ConflictError, NotFoundError
from trainyard_operator.events import EventNote, event_of, notes_of, recent_notes_of
from trainyard_operator.facts import Decision, Facts
from trainyard_operator.gather import Gatherer
from trainyard_operator.keys import RunKey
from trainyard_operator.observe import ObservedRun, observe_run
from trainyard_operator.settings import Settings
from trainyard_operator.status import StatusDraft, Urgency, status_patch, urgency
from trainyard_operator.status_pace import StatusPace
from trainyard_operator.store import Store
from trainyard_operator.work_queue import WorkQueue

LOGGER = logging.getLogger(__name__)


RETELL_SECONDS = 30.0
"""How soon an event that could not be sent is sent again."""


@dataclass(frozen=True)
class Listeners:
    """Who else wants to know what passes find."""

    on_status: Sequence[Callable[[RunKey, TrainingRun, TrainingRunStatus], None]] = ()
    """Told where a run stands, in every pass."""
    on_gone: Sequence[Callable[[RunKey], None]] = ()
    """Told that a run is gone, to free what is kept of it."""


class Reconciler:
    """Brings runs to where their specs want them.

    Args:
        cluster: the API server.
        store: what was seen of it.
        queue: the runs to look at; passes put them back for later.
        gatherer: collects facts.
        actor: creates and deletes.
        listeners: who else wants to know.
        settings: waiting times.
        clock: Unix time in seconds.
    """

    def __init__(  # noqa: PLR0913 - the parts of a pass
        self,
        *,
        cluster: Cluster,
        store: Store,
        queue: WorkQueue[RunKey],
        gatherer: Gatherer,
        actor: Actor,
        listeners: Listeners,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._gatherer = gatherer
        self._actor = actor
        self._listeners = listeners
        self._settings = settings
        self._clock = clock
        self._pace = StatusPace(settings, clock)
        self._told: set[RunKey] = set()
        """Runs of which every event was sent that follows from what the API server holds of them."""

    async def reconcile(self, key: RunKey) -> None:
        """Do one pass.

        Raises:
            ClusterError: the API server did not do its part; try again later.
        """
        gathered_at = self._clock()
        facts = await self._gatherer.gather(key)
        if facts is None:
            self._forget_if_gone(key)
            return
        decision = decide(facts, self._settings, self._clock())
        outcome = await self._actor.act(key, facts.spec, decision)
        if key not in self._told:
            await self._tell(key, recent_notes_of(facts.run.written, self._clock()))
        await self._write(facts, conclude(decision.draft, outcome), gathered_at)
        self._tell_listeners(key, facts.spec)
        self._plan_next(key, decision, outcome)

    def progress_changed(self, key: RunKey) -> None:
        """The processes of a run told something: look at it when its status may be written next."""
        self._queue.add_after(key, self._pace.report(key))

    def _tell_listeners(self, key: RunKey, spec: TrainingRun | None) -> None:
        """Say where a run stands; with the very status that the store keeps, so that there is only one."""
        run = self._store.run(key)
        if spec is not None and run is not None:
            for tell in self._listeners.on_status:
                tell(key, spec, run.status)

    async def _write(self, facts: Facts, status: TrainingRunStatus, gathered_at: float) -> None:
        """Write the status, once and only if it is due; then tell what happened.

        When it remains open whether the status was written, or told of, the next pass tells it again.
        """
        key, old = facts.run.key, facts.run.written
        need = urgency(old, status)
        wait = self._pace.seconds_until_due(key, need)
        if need is Urgency.NONE:
            self._pace.settle(key, gathered_at, was_written=False)
            self._store.believe(key, old)
            return
        if wait > 0.0:
            self._queue.add_after(key, wait)
            self._store.believe(key, status)
            return
        self._told.discard(key)
        if await self._patch(facts.run, status):
            self._pace.settle(key, gathered_at, was_written=True)
            await self._tell(key, notes_of(old, status))
            self._store.drop_evidence(key, before_attempt=status.attempt)

    async def _patch(self, run: ObservedRun, status: TrainingRunStatus) -> bool:
        """Write a status over the very version that it was derived from; whether that was possible."""
        key = run.key
        patch = status_patch(run.written, status)
        patch["metadata"] = {"resourceVersion": run.resource_version, "uid": key.uid}
        try:
            answer = await self._cluster.patch_status(RUNS, key.namespace, key.name, patch)
        except NotFoundError:
            self._requeue(self._store.remove_run(key))
            return False
        except ConflictError:
            await self._read_again(key)
            return False
        self._requeue(self._store.put_run(observe_run(answer)) - {key})
        return True

    async def _read_again(self, key: RunKey) -> None:
        """What is in memory is old: read the run, and look at it again."""
        try:
            run = observe_run(await self._cluster.get(RUNS, key.namespace, key.name))
        except NotFoundError:
            self._requeue(self._store.remove_run(key))
            return
        if run.key != key:
            self._requeue(self._store.remove_run(key))
        self._requeue(self._store.put_run(run))
        self._queue.add(key)

    async def _tell(self, key: RunKey, notes: Iterable[EventNote]) -> None:
        """Send events for what the status tells; they are for people, and nothing depends on them."""
        timestamp = format_timestamp(self._clock())
        bodies = [event_of(key, note, timestamp, self._settings.identity) for note in notes]
        sent = (self._cluster.create(EVENTS, key.namespace, body) for body in bodies)
        results = await asyncio.gather(*sent, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        unsent = [error for error in errors if not isinstance(error, AlreadyExistsError)]
        for error in unsent:
            if not isinstance(error, ClusterError):
                raise error
            LOGGER.warning("%s: an event could not be sent: %s", key, error)
        if unsent:
            self._queue.add_after(key, RETELL_SECONDS)
        else:
            self._told.add(key)

    def _plan_next(self, key: RunKey, decision: Decision, outcome: Outcome) -> None:
        """Come back when something is due."""
        if outcome.refusal is not None:
            delay = self._queue.add_after_error(key)
            LOGGER.info("%s: %s; again in %.1f s", key, outcome.refusal.message, delay)
            return
        self._queue.succeeded(key)
        if outcome.begun:
            # Pods that were there, and ended, before this operator was: no event tells of that.
            self._queue.add(key)
        if decision.wake_after is not None:
            self._queue.add_after(key, decision.wake_after)
        if decision.stops:
            self._queue.add_after(key, REPEAT_SECONDS)

    def _forget_if_gone(self, key: RunKey) -> None:
        """Free what is kept of a run that is no longer there."""
        if self._store.run(key) is not None:
            return
        self._store.forget(key)
        self._gatherer.forget(key)
        self._actor.forget(key)
        for forget in self._listeners.on_gone:
            forget(key)
        self._queue.forget(key)
        self._pace.forget(key)
        self._told.discard(key)

    def _requeue(self, keys: set[RunKey]) -> None:
        for key in keys:
            self._queue.add(key)


def conclude(draft: StatusDraft, outcome: Outcome) -> TrainingRunStatus:
    """The status after what was decided is done, or was refused."""
    if outcome.refusal is not None:
        draft.condition(ConditionType.ADMITTED, "False", outcome.refusal.reason, outcome.refusal.message)
    elif outcome.begun:
        draft.change_attempt(pods_created_at=draft.timestamp)
    return draft.finish()
