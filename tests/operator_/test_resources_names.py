import itertools
import random
import re
import string

import pytest

from tests.support.rendered import DEFAULTS, UID, gang_of, job_of, objects_of, run_with
from trainyard_api.names import Environment, Stage
from trainyard_operator.resources import Owner, build_gang, plan_for_cluster
from trainyard_operator.resources.object_names import (
    config_map_name,
    gang_name,
    hostname,
    job_name,
    pod_name,
    service_name,
)

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LONG = "a" * 61
RUN_NAMES = ["a", "0", "9lives", "quickstart", "a-b", LONG + "-b", LONG + "xy", "x-" * 30 + "yz", "7" * 63]


def owner(name="speeches", uid=UID, namespace="team"):
    return Owner(name, namespace, uid)


def all_names(run_owner, attempt, index):
    return [
        *(pod_name(run_owner, stage, attempt, index, 0) for stage in Stage),
        job_name(run_owner, Stage.PREPARE, attempt) + f"-{index:05}",
        gang_name(run_owner, Stage.TRAIN, attempt),
        config_map_name(run_owner, attempt),
    ]


@pytest.mark.parametrize("name", RUN_NAMES)
@pytest.mark.parametrize(("attempt", "index"), [(0, 0), (9999, 4095)])
def test_every_name_is_a_dns_label(name, attempt, index):
    for each in all_names(owner(name), attempt, index):
        assert DNS_LABEL.fullmatch(each), each
    assert SERVICE_NAME.fullmatch(service_name(owner(name)))
    assert all(DNS_LABEL.fullmatch(hostname(stage, attempt, index)) for stage in Stage)


def test_a_name_shows_run_stage_attempt_and_index():
    assert re.fullmatch(r"speeches-t2-31-[a-z2-7]{6}", pod_name(owner(), Stage.TRAIN, 2, 31, 0))
    assert re.fullmatch(r"speeches-p2-[a-z2-7]{6}", job_name(owner(), Stage.PREPARE, 2))
    assert hostname(Stage.EXPORT, 2, 0) == "export-2-0"


def test_names_stay_the_same_in_later_versions_of_the_operator():
    # A new operator that named the pods of a running gang otherwise would start the gang a second time.
    assert pod_name(owner(), Stage.TRAIN, 1, 2, 3) == "speeches-t1-2-43kjs4"
    assert job_name(owner(), Stage.PREPARE, 1) == "speeches-p1-o6spna"
    assert config_map_name(owner(), 1) == "speeches-plan1-j6q36k"
    assert service_name(owner()) == "speeches-iednzw"


def test_pods_differ_by_run_uid_namespace_stage_attempt_index_and_incarnation():
    owners = [owner(), owner("speech"), owner(uid=UID[::-1]), owner(namespace="other")]
    places = list(itertools.product(owners, Stage, range(3), range(12), range(3)))
    assert len({pod_name(*place) for place in places}) == len(places)


def test_long_runs_that_differ_only_where_they_are_cut_get_different_names():
    for first, second in [(LONG + "-b", LONG + "-c"), (LONG, LONG + "a")]:
        for one, other in zip(all_names(owner(first), 0, 0), all_names(owner(second), 0, 0), strict=True):
            assert one != other
        assert service_name(owner(first)) != service_name(owner(second))


def test_random_runs_never_share_a_pod_name():
    chance = random.Random(5)
    letters = string.ascii_lowercase + string.digits
    names = set()
    for _ in range(20_000):
        name = "".join(chance.choices(letters, k=chance.randint(1, 63)))
        names.add(pod_name(owner(name, f"{chance.getrandbits(128):032x}"), Stage.TRAIN, 0, 0, 0))
    assert len(names) == 20_000
    assert all(DNS_LABEL.fullmatch(name) for name in names)


@pytest.mark.parametrize("name", RUN_NAMES)
def test_the_address_of_rank_0_is_the_host_name_and_service_of_its_pod(name):
    run = run_with(metadata={"name": name, "namespace": "team"})
    objects = objects_of(run, attempt=3)
    first = objects["train"][0]
    (service,) = objects["service"]
    address = f"{first['spec']['hostname']}.{first['spec']['subdomain']}.{first['metadata']['namespace']}.svc"
    assert first["spec"]["subdomain"] == service["metadata"]["name"]
    for pod in objects["train"]:
        variables = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
        assert variables[Environment.MASTER_ADDRESS] == address
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= objects["export"][0]["metadata"]["labels"].items()


def test_the_service_of_a_later_attempt_is_the_same_and_selects_only_its_pods():
    run = run_with()
    first, second = (objects_of(run, attempt) for attempt in (0, 1))
    assert first["service"][0]["metadata"] == second["service"][0]["metadata"]
    selector = second["service"][0]["spec"]["selector"]
    assert selector.items() <= second["train"][0]["metadata"]["labels"].items()
    assert not selector.items() <= first["train"][0]["metadata"]["labels"].items()


def test_the_domain_of_the_cluster_completes_the_address_only_when_it_is_set():
    run = run_with()
    run_owner = Owner("quickstart", "default", UID)
    defaults = type(DEFAULTS)(
        image="i",
        default_claim_name="c",
        progress_url="u",
        ca_config_map="m",
        cluster_domain="cluster.example",
    )
    address = plan_for_cluster(run, run_owner, 0, defaults).stage(Stage.TRAIN).nodes[0].env["PET_MASTER_ADDR"]
    assert address == f"train-0-0.{service_name(run_owner)}.default.svc.cluster.example"


def test_an_incarnation_changes_name_and_label_and_nothing_else():
    run = run_with()
    run_owner = Owner("quickstart", "default", UID)
    plan = plan_for_cluster(run, run_owner, 0, DEFAULTS)
    before = gang_of(run)
    after = build_gang(run, run_owner, plan, Stage.TRAIN, DEFAULTS, {1: 4})
    assert after[0] == before[0]
    assert after[1]["spec"] == before[1]["spec"]
    assert after[1]["metadata"]["name"] != before[1]["metadata"]["name"]
    assert after[1]["metadata"]["labels"]["trainyard.dev/incarnation"] == "4"


def test_every_object_is_owned_by_the_run_and_blocks_nothing():
    run = run_with()
    for objects in objects_of(run).values():
        for each in objects:
            (reference,) = each["metadata"]["ownerReferences"]
            assert (reference["kind"], reference["name"], reference["uid"]) == (
                "TrainingRun",
                "quickstart",
                UID,
            )
            assert (reference["controller"], reference["blockOwnerDeletion"]) == (True, False)
            assert "finalizers" not in each["metadata"]
    assert "ownerReferences" not in job_of(run)["spec"]["template"]["metadata"]
