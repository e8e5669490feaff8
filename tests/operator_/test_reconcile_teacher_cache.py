"""Where a teacher's predictions are kept, a gang writes them before the one that trains."""

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import play, run_document
from trainyard_api.names import Label
from trainyard_operator.cluster import EVENTS, SERVICES

STAGES = ("prepare", "cache", "train", "export")


def cached_document(**spec):
    """A student of a stored teacher with a cache."""
    teacher = {"pretrained": {"uri": "file:///data/large"}}
    document = run_document(
        distillation={"teacher": teacher, "losses": {"logits": {}}, "teacherCache": {}}, **spec
    )
    del document["spec"]["tokenizer"]
    return document


def lives(**special):
    """Lives by stage and attempt, such as cache_0; every other pod is ordinary."""

    def life(pod):
        stage, attempt, _ = place_of(pod)
        return special.get(f"{stage}_{attempt}", ordinary_life(pod))

    return life


async def to_the_end(world):
    world.create(cached_document())
    await world.after(250)


def attempts_of(world, stage):
    return sorted({place_of(pod)[1] for pod in world.pods(stage)})


def test_a_gang_asks_the_teacher_before_the_gang_that_trains_and_both_find_their_rank_0():
    world = play(to_the_end)
    status = world.status()
    assert status.phase == "Succeeded"
    assert [len(world.pods(stage)) for stage in STAGES] == [1, 2, 2, 1]
    (service,) = world.cluster.objects(SERVICES)
    for stage in ("cache", "train"):
        pods = world.pods(stage)
        for pod in pods:
            labels = pod["metadata"]["labels"]
            assert labels.items() >= service["spec"]["selector"].items()
            (container,) = pod["spec"]["containers"]
            addresses = {each["name"]: each.get("value") for each in container["env"]}
            assert addresses["PET_MASTER_ADDR"].split(".")[0] == pods[0]["spec"]["hostname"] == f"{stage}-0-0"
    started = [event["message"] for event in world.cluster.objects(EVENTS) if "started" in event["message"]]
    assert started == [f"{stage.title()} of attempt 0 started" for stage in STAGES]


def test_a_run_without_a_cache_selects_its_training_alone():
    async def scenario(world):
        world.create()
        await world.after(5)

    (service,) = play(scenario).cluster.objects(SERVICES)
    assert service["spec"]["selector"][Label.STAGE] == "train"


@pytest.mark.parametrize(
    ("failing", "cached_by", "trained_by"), [("cache_0", [0, 1], [1]), ("train_0", [0], [0, 1])]
)
def test_what_failed_is_done_again_and_what_is_there_is_not(failing, cached_by, trained_by):
    world = play(to_the_end, life_of=lives(**{failing: Life(run_seconds=5, exit_code=137)}))
    assert world.status().phase == "Succeeded"
    assert attempts_of(world, "prepare") == [0]
    assert attempts_of(world, "cache") == cached_by
    assert attempts_of(world, "train") == trained_by
    assert [attempt.stage for attempt in world.status().attempts] == [failing.split("_")[0].title(), "Export"]


def test_a_run_that_is_resized_meanwhile_trains_with_the_new_number_of_nodes():
    async def scenario(world):
        world.create(cached_document())
        await world.after(35)
        assert world.status().attempts[-1].stage == "Cache"
        world.edit(workers={"nodes": 4})
        await world.after(200)

    world = play(scenario)
    assert world.status().phase == "Succeeded"
    assert {place_of(pod)[1] for pod in world.pods("train")} == {1}
    assert len(world.pods("train")) == 4


def test_how_far_the_teacher_is_gets_told():
    async def scenario(world):
        key = world.create(cached_document())
        await world.after(35)
        world.report(key, 0, 0, detail="teacher's predictions: 40 of 80 rows", stage="Cache")
        await world.after(11)
        told = world.status().progress
        assert (told.stage, told.detail) == ("Cache", "teacher's predictions: 40 of 80 rows")

    play(scenario)
