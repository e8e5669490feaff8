"""What the cluster and the processes say is told in status and events without what must not be told."""

import json

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play, run_document, sharded_document
from trainyard_operator.cluster import EVENTS, JOBS, PODS, RUNS, error_of
from trainyard_operator.errors import ForbiddenError

PLAIN = "hunter2-hunter2"
TEXT = f"cannot open https://me:{PLAIN}@example.org/data"


def told_of(world):
    """Everything that a person sees of the runs."""
    return json.dumps([world.cluster.objects(RUNS), world.cluster.objects(EVENTS)])


def train_life(**life):
    def chosen(pod):
        return Life(**life) if place_of(pod)[0] == "train" else ordinary_life(pod)

    return chosen


def exit_record(**texts):
    record = {"rank": 0, "exitCode": 1, "reason": "X", "message": "m", "time": "2027-01-15T08:00:00Z"}
    return json.dumps({**record, **texts})


@pytest.mark.parametrize(
    "life",
    [
        {"unschedulable": TEXT},
        {"waiting": ("ErrImagePull", TEXT)},
        {"run_seconds": 3, "exit_code": 1, "message": TEXT},
        {"run_seconds": 3, "exit_code": 65, "message": TEXT},
        {"run_seconds": 3, "exit_code": 1, "message": exit_record(message=f"password={PLAIN}")},
        {"run_seconds": 3, "exit_code": 1, "message": exit_record(logTail=f"token: {PLAIN}")},
    ],
    ids=[
        "the scheduler",
        "the kubelet on a container",
        "a log tail",
        "a log tail of a run that fails for good",
        "the message of a record",
        "the log tail of a record",
    ],
)
def test_secrets_in_what_pods_tell_are_not_told(life):
    async def scenario(world):
        world.create(run_document(restartPolicy={"maxRestarts": 1}))
        await world.after(60)
        assert "[redacted]" in told_of(world)
        assert PLAIN not in told_of(world)

    play(scenario, life_of=train_life(**life))


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Failed", "reason": "Evicted", "message": TEXT},
        {
            "phase": "Failed",
            "conditions": [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "EvictionByEvictionAPI",
                    "message": TEXT,
                }
            ],
        },
    ],
    ids=["the kubelet on a pod", "a disruption"],
)
def test_secrets_in_why_a_pod_was_taken_away_are_not_told(status):
    async def scenario(world):
        world.create()
        await world.after(30)
        pod = world.pods("train")[0]["metadata"]["name"]
        world.cluster.change(PODS, NAMESPACE, pod, lambda seen: seen["status"].update(status))
        await world.after(30)
        assert "[redacted]" in told_of(world)
        assert PLAIN not in told_of(world)

    play(scenario, life_of=train_life(run_seconds=None))


def test_secrets_in_why_a_job_failed_are_not_told():
    async def scenario(world):
        world.nodes.refuse = "the controller makes no pods"
        world.create(sharded_document())
        await world.after(2)
        (job,) = world.cluster.objects(JOBS)
        condition = {"type": "Failed", "status": "True", "message": TEXT}
        failed = {"conditions": [condition]}
        name = job["metadata"]["name"]
        world.cluster.change(JOBS, NAMESPACE, name, lambda seen: seen.update(status=failed))
        await world.after(10)
        assert "[redacted]" in told_of(world)
        assert PLAIN not in told_of(world)

    play(scenario)


def test_secrets_in_why_pods_are_refused_are_not_told():
    async def scenario(world):
        def fault(call, committed):
            if not committed and (call.verb, call.resource) == ("create", "pods"):
                raise ForbiddenError(f'admission webhook "policy.test" denied the request: {TEXT}')

        world.cluster.fault = fault
        world.create()
        await world.after(30)
        assert "[redacted]" in world.condition("Admitted")[2]
        assert PLAIN not in told_of(world)

    play(scenario)


def test_secrets_in_the_detail_of_a_report_are_not_told():
    async def scenario(world):
        key = world.create()
        await world.after(30)
        world.report(key, attempt=0, step=1, detail=TEXT)
        await world.after(30)
        assert world.status().progress.detail == "cannot open https://[redacted]@example.org/data"

    play(scenario, life_of=train_life(run_seconds=None))


def test_secrets_in_what_the_api_server_answers_are_not_logged():
    error = error_of(403, json.dumps({"message": f"denied: {TEXT}"}).encode())
    assert str(error) == "denied: cannot open https://[redacted]@example.org/data"
