"""What keeps runs from starting or going on, each told with its own reason, and gone with its cause."""

from tests.cluster.director import End, Place, everything_succeeds, training_goes_on
from tests.cluster.fake_nodes import fake_node
from tests.cluster.scenarios.lives import PREPARE
from tests.cluster.scenarios.registry import RESTRICTED, scenario
from tests.cluster.scene import USUAL_SECONDS, Scene, add_claim, attempts_of, condition_of, gang
from tests.cluster.steering import WAITING_REASON

NODE_LOSS_SECONDS = 180.0
"""The garbage collector of pods waits 40 s before it believes that a node is gone, and looks every 20 s."""


@scenario(claim=False)
def a_missing_claim_is_told_and_the_run_starts_once_it_is_there(scene: Scene) -> None:
    run = scene.create()
    scene.wait_for_condition("Validated", "False", "ClaimMissing", "PersistentVolumeClaim trainyard")
    assert scene.children("pods") == scene.children("jobs") == []
    add_claim(scene)
    scene.wait_for_phase("Succeeded")
    scene.check_places(run, PREPARE, *gang(0), ("export", 0, 0))


@scenario()
def every_problem_of_a_spec_is_told_and_nothing_is_made_until_it_is_mended(scene: Scene) -> None:
    owned = {"train_batch_size": 8, "gradient_clipping": 2.0}
    scene.create(deepspeed={"config": owned})
    status = scene.wait_for_condition("Validated", "False", "SpecInvalid", "train_batch_size")
    assert "gradient_clipping" in condition_of(status, "Validated")["message"]
    assert [scene.children(plural) for plural in ("pods", "jobs", "services", "configmaps")] == [[]] * 4
    assert scene.wait_for_events("SpecInvalid") == ["SpecInvalid"]
    scene.delete()
    run = scene.create()
    scene.wait_for_phase("Succeeded")
    scene.check_places(run, PREPARE, *gang(0), ("export", 0, 0))


@scenario()
def pods_that_fit_no_node_are_told_until_the_queue_deadline(scene: Scene) -> None:
    accelerator = {"resourceName": "amd.com/gpu", "count": 1}
    scene.create(workers={"accelerator": accelerator})
    status = scene.wait_for_condition("PodsScheduled", "False", "Unschedulable", "amd.com/gpu")
    assert status["phase"] != "Running"
    # Set only now: on a busy machine it might be over before the scheduler has looked.
    scene.edit(queueDeadlineSeconds=2)
    status = scene.wait_for_phase("Failed")
    assert condition_of(status, "Failed")["reason"] == "QueueDeadlineExceeded"
    assert "queueDeadlineSeconds, 2" in condition_of(status, "Failed")["message"]


@scenario()
def an_image_that_cannot_be_pulled_is_told_until_the_start_up_deadline(scene: Scene) -> None:
    annotations = {WAITING_REASON: "ImagePullBackOff"}
    scene.create(workers={"podTemplate": {"metadata": {"annotations": annotations}}})
    scene.wait_for_condition("Running", "False", "ImagePullBackOff", "a test asked for it")
    scene.edit(startupDeadlineSeconds=2)
    status = scene.wait_for_phase("Failed")
    assert condition_of(status, "Failed")["reason"] == "StartupDeadlineExceeded"


def allow_pods(scene: Scene, number: int) -> None:
    """Make a quota, and wait until it is in force."""
    quota = {"metadata": {"name": "pods"}, "spec": {"hard": {"pods": str(number)}}}
    scene.rest.create("resourcequotas", scene.namespace, quota)
    scene.rest.wait(
        "resourcequotas",
        scene.namespace,
        lambda quotas: [each for each in quotas if each.get("status", {}).get("hard")],
        USUAL_SECONDS,
        "the quota is in force",
    )


@scenario()
def an_exceeded_quota_is_told_and_the_gang_completes_once_there_is_room(scene: Scene) -> None:
    allow_pods(scene, 1)
    scene.play(training_goes_on)
    run = scene.create()
    status = scene.wait_for_condition("Admitted", "False", "QuotaExceeded", "exceeded quota")
    assert condition_of(status, "Running")["status"] == "False"
    scene.rest.merge("resourcequotas", scene.namespace, "pods", {"spec": {"hard": {"pods": "5"}}})
    scene.wait_for_gang(0)
    scene.wait_for_condition("Admitted", "True", "Admitted")
    scene.play(everything_succeeds)
    scene.wait_for_phase("Succeeded")
    scene.check_places(run, PREPARE, *gang(0), ("export", 0, 0))


@scenario()
def a_quota_that_keeps_the_first_pod_away_is_told_too(scene: Scene) -> None:
    allow_pods(scene, 0)
    run = scene.create()
    scene.wait_for_condition("Admitted", "False", "QuotaExceeded", "exceeded quota")
    scene.rest.delete("resourcequotas", scene.namespace, "pods")
    scene.wait_for_phase("Succeeded", seconds=120.0)
    scene.check_places(run, PREPARE, *gang(0), ("export", 0, 0))


@scenario(labels=RESTRICTED)
def a_refusal_by_pod_security_is_told_in_its_words(scene: Scene) -> None:
    template = {"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/usr"}}]}}
    scene.create(workers={"podTemplate": template})
    scene.wait_for_condition("Admitted", "False", "AdmissionRefused", "violates PodSecurity")
    assert scene.children("pods") == []
    scene.wait_for_events("AdmissionRefused")


@scenario(labels=RESTRICTED)
def a_run_without_a_template_is_admitted_under_restricted(scene: Scene) -> None:
    run = scene.create()
    scene.wait_for_phase("Succeeded")
    scene.check_places(run, PREPARE, *gang(0), ("export", 0, 0))


@scenario()
def a_run_ends_with_its_active_deadline(scene: Scene) -> None:
    scene.play(training_goes_on)
    scene.create(activeDeadlineSeconds=4)
    status = scene.wait_for_phase("Failed")
    assert condition_of(status, "Failed")["reason"] == "DeadlineExceeded"
    assert attempts_of(status) == ["Failed"]
    assert scene.wait_for_events("DeadlineExceeded").count("DeadlineExceeded") == 1
    scene.wait_for_pods(lambda pods: all(place.stage != "train" for place in pods), "its pods are stopped")


@scenario()
def a_lost_node_costs_one_attempt_and_the_next_runs_elsewhere(scene: Scene) -> None:
    pool = {"test.trainyard.dev/pool": scene.namespace}
    names = [f"{scene.namespace}-{number}" for number in (1, 2)]
    # Prepared elsewhere: only training asks for these nodes, since a finished pod has left its node.
    for name in names:
        node = fake_node(name)
        node["metadata"]["labels"].update(pool)
        node["spec"] = {"taints": [{"key": "test.trainyard.dev/pool", "effect": "NoSchedule"}]}
        scene.rest.create("nodes", "", node)
    scene.play(training_goes_on)
    tolerations = [{"key": "test.trainyard.dev/pool", "operator": "Exists", "effect": "NoSchedule"}]
    template = {"spec": {"nodeSelector": pool, "tolerations": tolerations}}
    run = scene.create(workers={"podTemplate": template})
    pod = scene.wait_for_gang(0)[Place("train", 0, 1)]
    lost = pod["spec"]["nodeName"]
    scene.rest.delete("nodes", "", lost)
    scene.wait_for_gang(1, seconds=NODE_LOSS_SECONDS)
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    failure = status["attempts"][0]["failure"]
    assert (failure["reason"], failure["node"]) == ("NodeLost", lost)
    made = scene.director.pods_at(scene.namespace, run["metadata"]["uid"])
    assert all(len(uids) == 1 for uids in made.values())
    for name in set(names) - {lost}:
        scene.rest.delete("nodes", "", name)


@scenario()
def a_pod_that_is_evicted_says_so(scene: Scene) -> None:
    scene.play(training_goes_on)
    scene.create()
    pod = scene.wait_for_gang(0)[Place("train", 0, 0)]
    eviction = {"metadata": {"name": pod["metadata"]["name"]}, "kind": "Eviction", "apiVersion": "policy/v1"}
    path = f"/api/v1/namespaces/{scene.namespace}/pods/{pod['metadata']['name']}/eviction"
    scene.rest.send("POST", path, eviction)
    scene.wait_for_gang(1)
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    assert status["attempts"][0]["failure"]["reason"] == "Evicted"


@scenario()
def memory_that_ran_out_is_told_by_the_kubelets_word(scene: Scene) -> None:
    scene.fail("train", [0], 0, End(137, "", "OOMKilled"))
    scene.create(restartPolicy={"maxRestarts": 0})
    status = scene.wait_for_phase("Failed")
    assert status["attempts"][0]["failure"]["reason"] == "OOMKilled"
