"""The scheduler, the kubelets and the Job controller of a FakeCluster, steered by the test."""

import asyncio
import copy
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from tests.support.fake_cluster import FakeCluster
from trainyard_api.names import Label
from trainyard_api.timestamps import format_timestamp
from trainyard_operator.cluster import JOBS, PODS, Object, Resource

MODEL = {"uri": "file:///data/runs/speeches/model", "parameters": 4_400_000}


@dataclass(frozen=True)
class Life:
    """What happens to a pod."""

    start_seconds: float = 1.0
    """From creation to the start of its container; half of it until it has a node."""
    run_seconds: float | None = 20.0
    """From then to its end; None: it runs until it is told to stop."""
    exit_code: int = 0
    message: str = ""
    reason: str = ""
    """The kubelet's word for the end, such as OOMKilled."""
    unschedulable: str = ""
    """What the scheduler says instead of giving it a node."""
    waiting: tuple[str, str] | None = None
    """Reason and message for which its container never starts."""
    gated: bool = False
    """Whether a scheduling gate holds it."""
    stop_exit_code: int = 80
    """Exit code when it is told to stop."""
    stop_seconds: float = 2.0
    """How long stopping takes."""


LifeOf = Callable[[Object], Life]
"""The life of a new pod."""


def place_of(pod: Object) -> tuple[str, int, int]:
    """Stage, attempt and index of a pod."""
    labels = pod["metadata"]["labels"]
    index = labels.get(Label.NODE_INDEX) or labels.get("batch.kubernetes.io/job-completion-index", "0")
    return labels[Label.STAGE], int(labels[Label.ATTEMPT]), int(index)


def ordinary_life(pod: Object) -> Life:
    """Everything works: two pods of training for 20 seconds, and an export that tells of its model."""
    stage, *_ = place_of(pod)
    return Life(message=json.dumps(MODEL) if stage == "export" else "")


@dataclass
class FakeNodes:
    """Lets pods live.

    Attributes:
        cluster: where they are.
        life_of: their lives.
        refuse: reason for which pods of Jobs cannot be made; the Job controller keeps it to itself.
    """

    cluster: FakeCluster
    life_of: LifeOf = ordinary_life
    refuse: str = ""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.cluster.watchers.append(self._see)

    def stop(self) -> None:
        """Nothing happens any more."""
        for task in self.tasks:
            task.cancel()

    def end_pod(self, pod: Object, exit_code: int, message: str = "", reason: str = "") -> None:
        """The container of a pod ends now."""
        now = format_timestamp(self.cluster.clock())
        terminated = {
            "exitCode": exit_code,
            "reason": reason or ("Completed" if exit_code == 0 else "Error"),
            "message": message,
            "finishedAt": now,
        }
        phase = "Succeeded" if exit_code == 0 else "Failed"
        self._status(pod, {"phase": phase, "containerStatuses": [_container({"terminated": terminated})]})

    def _see(self, resource: Resource, kind: str, stored: Object) -> None:
        if resource == PODS and kind == "ADDED":
            self._spawn(self._live(stored))
        elif resource == PODS and kind == "MODIFIED" and "deletionTimestamp" in stored["metadata"]:
            self._spawn(self._die(stored))
        elif resource == JOBS and kind == "ADDED":
            self._spawn(self._run_job(stored))

    async def _live(self, pod: Object) -> None:
        life = self.life_of(pod)
        if life.gated:
            self._change(pod, lambda seen: seen["spec"].update(schedulingGates=[{"name": "queue"}]))
            return
        await asyncio.sleep(life.start_seconds / 2)
        if life.unschedulable:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            self._status(pod, {"conditions": [{**condition, "message": life.unschedulable}]})
            return
        self._change(pod, lambda seen: seen["spec"].update(nodeName=f"node-{place_of(pod)[2]}"))
        self._status(pod, {"conditions": [{"type": "PodScheduled", "status": "True"}]})
        if life.waiting is not None:
            reason, message = life.waiting
            waiting = {"waiting": {"reason": reason, "message": message}}
            self._status(pod, {"containerStatuses": [_container(waiting)]})
            return
        await asyncio.sleep(life.start_seconds / 2)
        self._status(pod, {"phase": "Running", "containerStatuses": [_container({"running": {}})]})
        if life.run_seconds is not None:
            await asyncio.sleep(life.run_seconds)
            if self._is_running(pod):
                self.end_pod(pod, life.exit_code, life.message, life.reason)

    async def _die(self, pod: Object) -> None:
        """SIGTERM, the end of the container, and the end of the pod."""
        life = self.life_of(pod)
        await asyncio.sleep(life.stop_seconds)
        if self._is_running(pod):
            self.end_pod(pod, life.stop_exit_code)
        await asyncio.sleep(0.1)
        if self._current(pod) is not None:
            self.cluster.erase(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])

    async def _run_job(self, job: Object) -> None:
        """The Job controller: every index with its retries, and the permanent exit codes."""
        while self.refuse:  # noqa: ASYNC110 - a test changes it, in virtual time
            await asyncio.sleep(1.0)
        indices = range(job["spec"]["completions"])
        done = await asyncio.gather(*(self._run_index(job, index) for index in indices))
        if all(done):
            self._finish_job(job, "Complete", "CompletionsReached")
        else:
            self._finish_job(job, "Failed", "FailedIndexes")

    async def _run_index(self, job: Object, index: int) -> bool:
        """The pods of one index until one succeeds; whether one did."""
        rules = job["spec"]["podFailurePolicy"]["rules"]
        permanent = set(rules[0]["onExitCodes"]["values"])
        for retry in range(job["spec"]["backoffLimitPerIndex"] + 1):
            pod = self._pod_of(job, index, retry)
            ended = None if pod is None else await self._end_of(pod)
            if pod is None or ended is None:
                return False
            code = ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
            if code == 0:
                self._count_success(job)
                return True
            if code in permanent:
                self._finish_job(job, "Failed", "PodFailurePolicy")
                self._delete_others(job, pod)
                return False
        return False

    def _pod_of(self, job: Object, index: int, retry: int) -> Object | None:
        metadata = job["metadata"]
        if not self._exists(JOBS, job):
            return None
        template = copy.deepcopy(job["spec"]["template"])
        template["metadata"]["name"] = f"{metadata['name']}-{index}-{retry}"
        template["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = str(index)
        owner = {"kind": "Job", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        template["metadata"]["ownerReferences"] = [owner]
        return self.cluster.put_new(PODS, metadata["namespace"], template)

    async def _end_of(self, pod: Object) -> Object | None:
        """The pod once it has ended; None when it went away."""
        while True:
            await asyncio.sleep(0.2)
            seen = self._current(pod)
            if seen is None:
                return None
            if seen["status"]["phase"] in ("Succeeded", "Failed"):
                return seen

    def _finish_job(self, job: Object, kind: str, reason: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": f"the Job's {reason}"}
        self._change_job(job, lambda status: status.setdefault("conditions", [condition]))

    def _count_success(self, job: Object) -> None:
        self._change_job(job, lambda status: status.update(succeeded=status.get("succeeded", 0) + 1))

    def _change_job(self, job: Object, edit: Callable[[Object], object]) -> None:
        """Change the status of a Job that is there."""
        if self._exists(JOBS, job):
            place = job["metadata"]["namespace"], job["metadata"]["name"]
            self.cluster.change(JOBS, *place, lambda seen: edit(seen.setdefault("status", {})))

    def _delete_others(self, job: Object, failed: Object) -> None:
        """The Job controller deletes what still runs when a Job has failed."""
        for pod in self.cluster.objects(PODS):
            owners = [owner["uid"] for owner in pod["metadata"].get("ownerReferences", ())]
            is_other = pod["metadata"]["uid"] != failed["metadata"]["uid"]
            if is_other and job["metadata"]["uid"] in owners and self._is_running(pod):
                self.cluster.remove(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _exists(self, resource: Resource, stored: Object) -> bool:
        return any(
            seen["metadata"]["uid"] == stored["metadata"]["uid"] for seen in self.cluster.objects(resource)
        )

    def _current(self, pod: Object) -> Object | None:
        uid = pod["metadata"]["uid"]
        return next((seen for seen in self.cluster.objects(PODS) if seen["metadata"]["uid"] == uid), None)

    def _is_running(self, pod: Object) -> bool:
        seen = self._current(pod)
        return seen is not None and seen["status"]["phase"] in ("Pending", "Running")

    def _status(self, pod: Object, status: Object) -> None:
        if self._is_running(pod):
            self._change(pod, lambda seen: seen["status"].update(status))

    def _change(self, pod: Object, edit: Callable[[Object], object]) -> None:
        if self._current(pod) is not None:
            self.cluster.change(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], edit)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _container(state: Object) -> Object:
    return {"name": "trainer", "state": state}
