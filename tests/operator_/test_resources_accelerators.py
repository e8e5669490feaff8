"""Devices, shared memory, threads: what the numbers of a run become in its pods."""

import pytest

from tests.support.rendered import DEFAULTS, cached, gang_of, job_of, owner_of, run_with, trainer_of
from trainyard_api.names import Stage
from trainyard_api.quantities import parse_quantity
from trainyard_operator.resources.cluster_plan import plan_for_cluster, threads_per_process

PLACES = {"google.com/tpu": {"type": "tpu-v5-lite-podslice", "topology": "2x4"}}
NAMES = [
    "nvidia.com/gpu",
    "nvidia.com/gpu.shared",
    "nvidia.com/mig-1g.10gb",
    "amd.com/gpu",
    "google.com/tpu",
    "habana.ai/gaudi",
    "aws.amazon.com/neuron",
]
MIB = 2**20
GIB = 2**30


def accelerated(name, count=4, nodes=2, **workers):
    return run_with(
        workers={
            "nodes": nodes,
            "processesPerNode": count,
            "image": "registry.example/trainer-of-this-device:1",
            "accelerator": {"resourceName": name, "count": count, **PLACES.get(name, {})},
            **workers,
        },
        training={
            "budget": {"steps": 1},
            "globalBatchSize": nodes * count,
            "microBatchSize": 1,
            "optimizer": {"learningRate": 1e-3},
        },
    )


def environment(pod):
    return {each["name"]: each.get("value") for each in trainer_of(pod)["env"]}


@pytest.mark.parametrize("name", NAMES)
def test_devices_are_asked_for_where_training_runs_with_equal_limits_and_requests(name):
    run = accelerated(name, resources={"limits": {"cpu": "8"}, "requests": {"cpu": "4"}})
    for pod in gang_of(run):
        assert trainer_of(pod)["resources"] == {
            "limits": {"cpu": "8", name: "4"},
            "requests": {"cpu": "4", name: "4"},
        }


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_with_devices_tolerates_the_taint_of_their_nodes(name):
    (pod, *_) = gang_of(accelerated(name))
    assert {"key": name, "operator": "Exists", "effect": "NoSchedule"} in pod["spec"]["tolerations"]


@pytest.mark.parametrize("name", NAMES)
def test_preparation_and_export_hold_no_devices(name):
    run = accelerated(name)
    for pod in [job_of(run)["spec"]["template"], *gang_of(run, Stage.EXPORT)]:
        assert trainer_of(pod)["resources"] == {}
        assert not any(each["key"] == name for each in pod["spec"]["tolerations"])
        assert "nodeSelector" not in pod["spec"]


@pytest.mark.parametrize("name", ["nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb"])
def test_a_part_of_a_gpu_tolerates_the_taint_of_the_whole(name):
    (pod, *_) = gang_of(accelerated(name))
    tolerated = [each["key"] for each in pod["spec"]["tolerations"] if each["effect"] == "NoSchedule"]
    assert tolerated == [name, "nvidia.com/gpu"]


def test_a_tpu_trains_on_nodes_of_its_type_and_topology_and_podtemplate_may_add_to_them():
    template = {"spec": {"nodeSelector": {"cloud.google.com/gke-spot": "true"}}}
    (pod, *_) = gang_of(accelerated("google.com/tpu", podTemplate=template))
    assert pod["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x4",
        "cloud.google.com/gke-spot": "true",
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name != "google.com/tpu"])
def test_other_devices_choose_no_nodes(name):
    assert "nodeSelector" not in gang_of(accelerated(name))[0]["spec"]


def test_only_a_container_without_devices_is_kept_from_seeing_those_of_others():
    run = accelerated("nvidia.com/gpu")
    assert "NVIDIA_VISIBLE_DEVICES" not in environment(gang_of(run)[0])
    assert environment(gang_of(run, Stage.EXPORT)[0])["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert environment(gang_of(run_with())[0])["NVIDIA_VISIBLE_DEVICES"] == "void"


def shared_memory(pod):
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "shm")
    assert volume["emptyDir"]["medium"] == "Memory"
    return parse_quantity(volume["emptyDir"]["sizeLimit"])


@pytest.mark.parametrize(
    ("run", "stage", "size"),
    [
        (run_with(), Stage.TRAIN, 256 * MIB),
        (run_with(workers={"nodes": 1, "processesPerNode": 2}), Stage.TRAIN, 512 * MIB),
        (accelerated("nvidia.com/gpu", count=1), Stage.TRAIN, GIB),
        (accelerated("nvidia.com/gpu", count=8), Stage.TRAIN, 8 * GIB),
        (cached(accelerated("nvidia.com/gpu", count=8)), Stage.CACHE, 8 * GIB),
        (accelerated("nvidia.com/gpu", count=8), Stage.EXPORT, 256 * MIB),
    ],
)
def test_shared_memory_grows_with_the_processes_that_share_it(run, stage, size):
    assert shared_memory(gang_of(run, stage)[0]) == size


def with_memory(resources, template=None):
    return run_with(
        workers={"nodes": 1, "processesPerNode": 2, "resources": resources, "podTemplate": template or {}}
    )


SHM_8_GIB = {"spec": {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "8Gi"}}]}}
SHM_ON_DISK = {"spec": {"volumes": [{"name": "shm", "emptyDir": {"medium": ""}}]}}
SHM_OF_HOST = {"spec": {"volumes": [{"name": "shm", "hostPath": {"path": "/run/shm"}}]}}
NO_LIMIT = {"spec": {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": None}}]}}
MORE_MEMORY = {"spec": {"containers": [{"name": "trainer", "resources": {"limits": {"memory": "32Gi"}}}]}}


@pytest.mark.parametrize(
    ("resources", "template", "counted"),
    [
        ({}, {}, {}),
        ({"limits": {"cpu": "2"}}, {}, {"limits": {"cpu": "2"}}),
        ({"limits": {"memory": "8Gi"}}, {}, {"limits": {"memory": "8704Mi"}}),
        ({"requests": {"memory": "8Gi"}}, {}, {"requests": {"memory": "8704Mi"}}),
        (
            {"limits": {"memory": "8Gi"}, "requests": {"memory": "4G", "cpu": 1}},
            {},
            {"limits": {"memory": "8704Mi"}, "requests": {"memory": "4430538Ki", "cpu": 1}},
        ),
        ({"limits": {"memory": 1000}}, {}, {"limits": {"memory": "536871912"}}),
        ({"limits": {"memory": "8Gi"}}, SHM_8_GIB, {"limits": {"memory": "16Gi"}}),
        ({"limits": {"memory": "8Gi"}}, SHM_ON_DISK, {"limits": {"memory": "8Gi"}}),
        ({"limits": {"memory": "8Gi"}}, SHM_OF_HOST, {"limits": {"memory": "8Gi"}}),
        ({"limits": {"memory": "8Gi"}}, NO_LIMIT, {"limits": {"memory": "8Gi"}}),
        ({"limits": {"memory": "8Gi"}}, MORE_MEMORY, {"limits": {"memory": "33280Mi"}}),
    ],
)
def test_shared_memory_is_added_to_the_memory_that_is_limited_or_requested(resources, template, counted):
    (pod,) = gang_of(with_memory(resources, template))
    assert trainer_of(pod)["resources"] == counted


def test_the_resources_of_the_run_itself_stay_as_they_are_written():
    run = with_memory({"limits": {"memory": "8Gi"}})
    gang_of(run)
    assert run.spec.workers.resources == {"limits": {"memory": "8Gi"}}


def trainer_cpu(**amounts):
    return {"spec": {"containers": [{"name": "trainer", "resources": amounts}, {"name": "side"}]}}


@pytest.mark.parametrize(
    ("resources", "template", "processes", "threads"),
    [
        ({}, {}, 1, 0),
        ({"limits": {"memory": "8Gi"}}, {}, 1, 0),
        ({"limits": {"cpu": "8"}}, {}, 1, 8),
        ({"limits": {"cpu": 8}}, {}, 2, 4),
        ({"limits": {"cpu": "7900m"}}, {}, 2, 3),
        ({"limits": {"cpu": "500m"}}, {}, 2, 1),
        ({"requests": {"cpu": "4"}}, {}, 2, 2),
        ({"limits": {"cpu": "8"}, "requests": {"cpu": "4"}}, {}, 2, 4),
        ({"limits": {"cpu": "8"}}, trainer_cpu(limits={"cpu": "16"}), 2, 8),
        ({}, trainer_cpu(requests={"cpu": 6}), 2, 3),
        (
            {"requests": {"cpu": "4"}},
            {"spec": {"containers": [{"name": "side", "resources": {"limits": {"cpu": 1}}}]}},
            1,
            4,
        ),
        ({}, {"spec": {"containers": "broken"}}, 1, 0),
    ],
)
def test_threads_are_the_share_of_a_process_in_the_cores_of_its_pod(resources, template, processes, threads):
    workers = run_with().spec.workers.model_copy(
        update={"resources": resources, "pod_template": template, "processes_per_node": processes}
    )
    assert threads_per_process(workers) == threads


@pytest.mark.parametrize(
    ("resources", "processes"),
    [
        ({}, 0),
        ({"limits": {"cpu": "8"}}, 8),
        ({"requests": {"cpu": "2500m"}}, 2),
        ({"limits": {"cpu": "100m"}}, 1),
    ],
)
def test_preparation_uses_the_cores_of_its_pod_however_many_pods_train(resources, processes):
    run = run_with(workers={"nodes": 2, "resources": resources})
    assert plan_for_cluster(run, owner_of(run), 0, DEFAULTS).preparation_processes == processes
