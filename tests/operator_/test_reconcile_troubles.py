"""Runs that cannot start, or not yet: what they say, and that they recover when the cause is gone."""

import json

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play, run_document
from trainyard_operator.cluster import CLAIMS, CONFIG_MAPS, EVENTS, JOBS, PODS, RUNS
from trainyard_operator.errors import ForbiddenError, InvalidError


def downstream(name, upstream):
    document = run_document(name)
    document["spec"]["model"] = {"fromRun": {"name": upstream}}
    del document["spec"]["tokenizer"]
    return document


def train_life(**life):
    def chosen(pod):
        return Life(**life) if place_of(pod)[0] == "train" else ordinary_life(pod)

    return chosen


def test_an_invalid_spec_is_refused_with_all_problems_and_no_pods_and_recovers():
    async def scenario(world):
        world.create(run_document(workers={"nodes": 3}, training={"globalBatchSize": 100}))
        await world.after(10)
        truth, reason, message = world.condition("Validated")
        assert (truth, reason) == ("False", "SpecInvalid")
        assert "spec.training.globalBatchSize" in message
        assert world.status().phase == "Failed"
        assert world.cluster.objects(PODS) == []
        assert world.cluster.objects(JOBS) == []
        world.edit(training={"globalBatchSize": 96})
        await world.after(80)
        assert world.status().phase == "Succeeded"

    play(scenario)


def test_a_spec_that_cannot_even_be_read_is_told_and_left_alone():
    async def scenario(world):
        document = run_document()
        document["spec"]["training"] = "fast"
        world.create(document)
        await world.after(100)
        assert world.condition("Validated")[0] == "False"
        assert "spec.training" in world.condition("Validated")[2]
        assert world.cluster.writes() == {"trainingruns": 1}

    play(scenario)


def test_a_template_that_breaks_what_trainyard_owns_is_refused():
    async def scenario(world):
        template = {"spec": {"restartPolicy": "Always"}}
        world.create(run_document(workers={"podTemplate": template}))
        await world.after(10)
        assert "podTemplate" in world.condition("Validated")[2]
        assert world.cluster.objects(PODS) == []

    play(scenario)


def test_a_spec_that_becomes_invalid_leaves_the_running_gang_at_work():
    async def scenario(world):
        world.create()
        await world.after(30)
        world.edit(scheduling={"queueName": 7})
        await world.after(10)
        assert world.condition("Validated")[0] == "False"
        assert world.status().phase == "Running"
        assert len(world.pods("train")) == 2

    play(scenario, life_of=train_life(run_seconds=None))


def test_a_missing_claim_is_told_and_the_run_starts_once_it_is_there():
    async def scenario(world):
        world.create(run_document(storage={"volumeClaim": {"claimName": "corpus"}}))
        await world.after(10)
        assert world.condition("Validated")[:2] == ("False", "ClaimMissing")
        assert "PersistentVolumeClaim corpus" in world.condition("Validated")[2]
        assert world.cluster.objects(CONFIG_MAPS) == []
        await world.after(100)
        assert world.cluster.writes() == {"trainingruns": 1}
        world.cluster.put_new(CLAIMS, NAMESPACE, {"metadata": {"name": "corpus", "namespace": NAMESPACE}})
        await world.after(100)
        assert world.status().phase == "Succeeded"

    play(scenario)


def test_a_run_waits_for_its_upstream_and_starts_from_its_model():
    async def scenario(world):
        world.create(run_document("teacher"))
        world.create(downstream("student", "teacher"))
        await world.after(30)
        assert world.condition("Admitted", "student") == (
            "False",
            "WaitingForRun",
            "Waits for TrainingRun teacher",
        )
        assert world.pods(name="student") == []
        await world.after(40)
        assert world.status("teacher").phase == "Succeeded"
        assert world.status("student").phase == "Running"
        plans = [
            stored["data"]["plan.json"]
            for stored in world.cluster.objects(CONFIG_MAPS)
            if "student" in stored["metadata"]["name"]
        ]
        assert "file:///data/runs/speeches/model" in plans[0]

    play(scenario)


def test_a_missing_upstream_is_refused_until_it_exists():
    async def scenario(world):
        world.create(downstream("student", "teacher"))
        await world.after(10)
        assert world.condition("Validated", "student")[:2] == ("False", "UpstreamMissing")
        assert "teacher" in world.condition("Validated", "student")[2]
        world.create(run_document("teacher"))
        await world.after(200)
        assert world.status("student").phase == "Succeeded"

    play(scenario)


def test_a_missing_teacher_is_told_at_the_field_that_names_it():
    document = run_document("student")
    del document["spec"]["tokenizer"]
    document["spec"] |= {
        "model": {"fromTeacher": {"everyNthLayer": 2}},
        "distillation": {"teacher": {"fromRun": {"name": "teacher"}}, "losses": {"logits": {}}},
    }

    async def scenario(world):
        world.create(document)
        await world.after(10)
        truth, reason, message = world.condition("Validated", "student")
        assert (truth, reason) == ("False", "UpstreamMissing")
        assert message.startswith("spec.distillation.teacher.fromRun.name: There is no TrainingRun teacher")

    play(scenario)


def test_a_failed_upstream_is_told():
    async def scenario(world):
        world.create(run_document("teacher"))
        world.create(downstream("student", "teacher"))
        await world.after(60)
        assert world.status("teacher").phase == "Failed"
        assert world.condition("Admitted", "student")[:2] == ("False", "UpstreamFailed")
        assert world.pods(name="student") == []

    play(scenario, life_of=train_life(run_seconds=3, exit_code=65))


@pytest.mark.parametrize("chain", [("a", "a"), ("a", "b"), ("a", "b", "c")])
def test_runs_that_wait_for_each_other_are_told_the_cycle(chain):
    async def scenario(world):
        names = list(dict.fromkeys(chain))
        for name, upstream in zip(names, [*names[1:], names[0]], strict=True):
            world.create(downstream(name, upstream))
        await world.after(30)
        for name in names:
            truth, reason, message = world.condition("Validated", name)
            assert (truth, reason) == ("False", "UpstreamCycle")
            assert message.count("->") == len(names)
        assert world.cluster.objects(PODS) == []

    play(scenario)


def test_pods_without_a_node_are_told_with_the_schedulers_words():
    async def scenario(world):
        world.create()
        await world.after(30)
        truth, reason, message = world.condition("PodsScheduled")
        assert (truth, reason) == ("False", "Unschedulable")
        assert message.endswith("0/4 nodes are available: 4 Insufficient nvidia.com/gpu.")
        assert world.condition("Running")[0] == "False"
        assert world.status().phase == "Pending"

    play(
        scenario, life_of=train_life(unschedulable="0/4 nodes are available: 4 Insufficient nvidia.com/gpu.")
    )


@pytest.mark.parametrize(
    "reason",
    [
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "ImageInspectError",
        "InvalidImageName",
        "RegistryUnavailable",
        "SignatureValidationFailed",
        "RunContainerError",
        "CreateContainerConfigError",
        "CreateContainerError",
    ],
)
def test_containers_that_do_not_start_are_told_with_the_kubelets_words(reason):
    async def scenario(world):
        world.create()
        await world.after(30)
        assert world.condition("Running")[:2] == ("False", reason)
        assert world.condition("Running")[2].endswith(f"{reason}: what the kubelet said")
        assert world.status().phase == "Pending"
        warnings = [event["reason"] for event in world.cluster.objects(EVENTS) if event["type"] == "Warning"]
        assert warnings == [reason]

    play(scenario, life_of=train_life(waiting=(reason, "what the kubelet said")))


def test_a_gang_of_which_one_pod_is_missing_is_not_running():
    def life(pod):
        stage, _, index = place_of(pod)
        return Life(unschedulable="no room") if (stage, index) == ("train", 1) else ordinary_life(pod)

    async def scenario(world):
        world.create()
        await world.after(30)
        assert world.condition("Running") == ("False", "PodsPending", "Train: 1 of 2 pods run")

    play(scenario, life_of=life)


def test_pods_that_a_queue_holds_back_are_told():
    async def scenario(world):
        world.create()
        await world.after(30)
        assert world.condition("Admitted")[:2] == ("False", "WaitingForQuota")
        assert world.status().phase == "Pending"

    play(scenario, life_of=train_life(gated=True))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ForbiddenError('pods "x" is forbidden: exceeded quota: team, requested: pods=1'), "QuotaExceeded"),
        (ForbiddenError('pods "x" is forbidden: violates PodSecurity "restricted"'), "AdmissionRefused"),
        (InvalidError('admission webhook "policy.test" denied the request: no'), "AdmissionRefused"),
    ],
)
def test_refused_pods_are_told_and_tried_again_until_it_works(error, reason):
    async def scenario(world):
        refused = True

        def fault(call, committed):
            if refused and not committed and (call.verb, call.resource) == ("create", "pods"):
                raise error

        world.cluster.fault = fault
        world.create()
        await world.after(30)
        assert world.condition("Admitted") == ("False", reason, error.message)
        assert world.status().phase == "Pending"
        writes = world.cluster.writes()["trainingruns"]
        await world.after(300)
        assert world.condition("Admitted")[1] == reason
        assert world.cluster.writes()["trainingruns"] == writes
        refused = False
        await world.after(130)
        assert world.status().phase == "Succeeded"
        assert len(world.status().attempts) == 1

    play(scenario)


def test_a_refused_gang_asks_for_no_further_pods_at_once():
    async def scenario(world):
        def fault(call, committed):
            if not committed and (call.verb, call.resource) == ("create", "pods"):
                raise ForbiddenError("exceeded quota: team")

        world.cluster.fault = fault
        world.create(run_document(workers={"nodes": 8}))
        await world.after(21.5)
        asked = [call for call in world.cluster.calls if (call.verb, call.resource) == ("create", "pods")]
        assert len(asked) <= 8 * 5

    play(scenario)


def test_a_status_that_is_not_ours_is_left_alone():
    async def scenario(world):
        document = run_document()
        document["status"] = {"phase": "Dancing"}
        world.create(document)
        await world.after(60)
        assert world.cluster.writes() == {}
        assert world.cluster.stored(RUNS, NAMESPACE, "speeches")["status"] == {"phase": "Dancing"}

    play(scenario)


def test_a_downstream_run_restarts_from_the_same_model_when_its_upstream_is_gone():
    fails = [True]

    def life(pod):
        is_second = pod["metadata"]["labels"]["trainyard.dev/run"] == "student"
        if is_second and place_of(pod)[0] == "train":
            return Life(run_seconds=20, exit_code=1 if fails else 0)
        return ordinary_life(pod)

    async def scenario(world):
        world.create(run_document("teacher"))
        world.create(downstream("student", "teacher"))
        while world.status("student").phase != "Running":
            await world.after(5)
        world.delete("teacher")
        await world.after(15)
        fails.clear()
        await world.after(200)
        status = world.status("student")
        assert [attempt.outcome for attempt in status.attempts] == ["Failed", "Succeeded"]
        plans = [
            json.loads(stored["data"]["plan.json"])["paths"]["baseModel"]
            for stored in world.cluster.objects(CONFIG_MAPS)
            if "student" in stored["metadata"]["name"]
        ]
        assert plans == ["file:///data/runs/speeches/model"] * 2

    play(scenario, life_of=life)


def test_a_model_on_another_claim_is_refused_before_any_pod():
    async def scenario(world):
        world.create(run_document("teacher"))
        document = downstream("student", "teacher")
        document["spec"]["storage"] = {"volumeClaim": {"claimName": "corpus"}}
        world.create(document)
        await world.after(100)
        truth, reason, message = world.condition("Validated", "student")
        assert (truth, reason) == ("False", "SpecInvalid")
        assert "TrainingRun teacher keeps its model on claim trainyard" in message
        assert world.pods(name="student") == []

    play(scenario)


def test_a_part_of_a_gang_makes_room_when_a_quota_keeps_the_rest_out():
    async def scenario(world):
        refused = True

        def fault(call, committed):
            is_asked = not committed and (call.verb, call.resource) == ("create", "pods")
            if refused and is_asked and len(world.pods("train")) >= 2:
                raise ForbiddenError('pods "x" is forbidden: exceeded quota: team')

        world.cluster.fault = fault
        world.create(run_document(workers={"nodes": 4}))
        await world.after(60)
        assert len(world.pods("train")) == 2
        assert world.condition("Admitted")[:2] == ("False", "QuotaExceeded")
        await world.after(130)
        assert world.status().attempts[0].outcome == "Preempted"
        assert world.status().attempts[0].failure.reason == "QuotaExceeded"
        assert "2 of 4 pods" in world.status().attempts[0].failure.message
        refused = False
        await world.after(400)
        status = world.status()
        assert status.phase == "Succeeded"
        assert (status.restarts, status.faults_since_checkpoint) == (0, 0)

    play(scenario)
