"""A cache of a teacher's predictions from end to end, in this process: written, found again, trained from."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.base_models import store_model
from tests.support.preparation import make_plan, run, write_lines
from trainyard_api.errors import DataError, PreemptedError
from trainyard_api.plan import RunPlan
from trainyard_trainer.cache_stage import open_writer
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.distillation.cache_check import check_shards_together
from trainyard_trainer.distillation.cache_place import MOST_SHARDS, CachePlace, cache_place, shards_of
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.imitation import with_teacher
from trainyard_trainer.methods.loss_terms import term_factors
from trainyard_trainer.models.distilled_model import Watched
from trainyard_trainer.models.teacher import load_teacher
from trainyard_trainer.network import build_network
from trainyard_trainer.progress import read_progress
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.workload import Workload, open_workload

CPU = torch.device("cpu")
ALONE = Ranks(rank=0, local_rank=0, world_size=1, device=CPU)
SIZES = {"num_hidden_layers": 1, "hidden_size": 64, "hidden_dropout_prob": 0.0}


def student_plan(folder: Path, teacher: Path, objective: str = "MaskedLM", **changes: Any) -> RunPlan:
    """The prepared plan of a student; the runs of a folder share what is prepared."""
    write_lines(folder / "texts.jsonl")
    cache = {"topEntries": 12, "tailSamples": 12}
    distillation = {
        "teacher": {"pretrained": {"uri": teacher.as_uri()}},
        "losses": {"logits": {}, "labels": {}},
        "teacherCache": cache,
    }
    plan = make_plan(
        folder,
        pretraining={"objective": objective},
        tokenizer=None,
        **{
            "model": {"architecture": {"preset": "bert-tiny", "overrides": SIZES}},
            "distillation": distillation,
            "training__globalBatchSize": 8,
            "training__microBatchSize": 2,
            "training__precision": "FP32",
            **changes,
        },
    )
    run(plan)
    return plan


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model that is as sure of what it says as a trained one: its logits are ten times as large."""
    model = store_model(tmp_path_factory.mktemp("teacher") / "model")
    weights = load_file(model / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] *= 10.0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.fixture(scope="module")
def plan(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    return student_plan(tmp_path_factory.mktemp("student"), teacher)


def place_of(plan: RunPlan) -> CachePlace:
    place = cache_place(plan, open_prepared(Path(plan.paths.run_folder)))
    assert place is not None
    return place


@pytest.fixture(scope="module")
def written(plan: RunPlan) -> CachePlace:
    """The cache of the plan, made by its stage."""
    writer = open_writer(plan, ALONE, StopRequest())
    writer.write()
    return writer.place


def bytes_of(place: CachePlace) -> dict[str, bytes]:
    files = sorted(path for path in place.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(place.folder)): path.read_bytes() for path in files}


def test_every_token_of_every_row_is_kept_in_at_most_a_hundred_bytes(
    plan: RunPlan, written: CachePlace
) -> None:
    data = open_prepared(Path(plan.paths.run_folder))
    cache = written.open()
    assert cache.num_rows == len(data.train)
    kept = sum(len(cache.row(number)) for number in range(cache.num_rows))
    assert kept == data.train.num_tokens
    total = sum(len(content) for name, content in bytes_of(written).items() if name.endswith("records"))
    assert total / data.train.num_tokens <= 100


def test_the_stage_tells_how_far_it_is(plan: RunPlan, written: CachePlace) -> None:
    told = read_progress(Path(plan.paths.run_folder))
    assert told is not None
    num_rows = written.open().num_rows
    assert (told.progress.stage, told.progress.percent) == ("Cache", 100.0)
    assert told.progress.detail.startswith(f"teacher's predictions: {num_rows:,} rows of {num_rows:,} rows")


def test_shards_do_not_depend_on_who_writes_them_and_when(
    teacher: Path, written: CachePlace, tmp_path: Path
) -> None:
    """On another storage two processes take turns, the first of which is stopped in its second shard."""
    whole = open_writer(student_plan(tmp_path, teacher), ALONE, StopRequest())
    stop, own = StopRequest(), whole.shards[::2]

    def stop_in_the_second_shard(step: str, done: int, total: int | None, unit: str) -> None:
        stop.requested = done > len(whole.place.shards[0])

    seconds = iter(range(10_000))
    first = replace(
        whole, shards=own, stop=stop, report=stop_in_the_second_shard, clock=lambda: float(next(seconds))
    )
    with pytest.raises(PreemptedError):
        first.write()
    finished = [number for number in own if whole.place.shard_folder(number).exists()]
    assert finished == [0]
    replace(whole, shards=whole.shards[1::2]).write()
    replace(whole, shards=own[1:]).write()
    assert bytes_of(whole.place) == bytes_of(written)


def test_a_second_start_asks_no_teacher(plan: RunPlan, written: CachePlace) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")}
    writer = open_writer(plan, ALONE, StopRequest())
    assert (writer.shards, writer.teacher) == ((), None)
    writer.write()
    assert {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")} == before


def test_runs_that_differ_in_their_student_share_a_cache_and_others_do_not(plan: RunPlan) -> None:
    def key_with(**changes: Any) -> str:
        spec = plan.spec.model_copy(update=changes)
        return place_of(plan.model_copy(update={"spec": spec})).key

    training = plan.spec.training
    assert key_with() == place_of(plan).key
    assert key_with(deepspeed=plan.spec.deepspeed.model_copy(update={"zero_stage": 3})) == key_with()
    assert key_with(training=training.model_copy(update={"global_batch_size": 2})) == key_with()
    assert key_with(training=training.model_copy(update={"seed": 8})) != key_with()
    assert key_with(training=training.model_copy(update={"precision": "BF16"})) != key_with()


@pytest.mark.parametrize(
    ("num_rows", "row_bytes", "num_shards"),
    [(1, 50_000, 1), (15, 50_000, 15), (100, 50_000, 16), (50_000, 50_000, 37), (10**7, 50_000, MOST_SHARDS)],
)
def test_shards_have_nearly_equal_sizes_that_follow_from_the_rows_alone(
    num_rows: int, row_bytes: int, num_shards: int
) -> None:
    shards = shards_of(num_rows, row_bytes)
    assert len(shards) == num_shards
    assert [shard.start for shard in shards] == [0, *(shard.stop for shard in shards[:-1])]
    assert shards[-1].stop == num_rows
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def asked_teacher(plan: RunPlan, workload: Workload) -> Watched:
    loaded = load_teacher(plan, workload.data)
    assert loaded is not None
    return workload.model(loaded)


def kept_and_said(workload: Workload, teacher: Watched, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the cached tokens, by the cache and by the teacher, which reads the batch."""
    assert workload.cache is not None
    assert batch.kept is not None
    with torch.no_grad():
        view = teacher.view(*batch.model_arguments(CPU)[:5])
        places = view.tokens if workload.cache.of_tokens else view.labelled
        layout = workload.cache.layout
        logits = view.head(view.states[places])[:, : layout.vocabulary_size] / layout.temperature
    return batch.kept.top_log_probabilities, logits.log_softmax(-1).gather(1, batch.kept.top_ids)


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 4), (2, 2)])
def test_every_step_of_every_epoch_finds_what_the_teacher_says_of_its_rows(
    plan: RunPlan, written: CachePlace, world_size: int, micro_batch: int
) -> None:
    """Whatever is told of a row in the third epoch fits the masks that it has there."""
    changes = {"world_size": world_size, "micro_batch_size": micro_batch, "accumulation_steps": 2}
    workload = open_workload(plan.model_copy(update={"batch": plan.batch.model_copy(update=changes)}))
    asked = asked_teacher(plan, workload)
    for step in (0, 2 * workload.num_rows // 8 + 3):
        for rank in range(world_size):
            for batch in workload.supply(rank).step_batches(step):
                kept, said = kept_and_said(workload, asked, batch)
                torch.testing.assert_close(kept, said, atol=5e-3, rtol=0.0)


@pytest.mark.parametrize(("objective", "positions"), [("MaskedLM", "Labelled"), ("CausalLM", "All")])
def test_labelled_places_and_decoders_are_cached_too(objective: str, positions: str, tmp_path: Path) -> None:
    preset = "bert-tiny" if objective == "MaskedLM" else "llama-tiny"
    losses = {"logits": {"positions": positions}}
    teacher = {"pretrained": {"uri": store_model(tmp_path / "teacher" / "model", preset).as_uri()}}
    plan = student_plan(
        tmp_path,
        tmp_path,
        objective,
        model={"architecture": {"preset": preset}},
        distillation={"teacher": teacher, "losses": losses, "teacherCache": {}},
    )
    writer = open_writer(plan, ALONE, StopRequest())
    writer.write()
    workload = open_workload(plan)
    (batch, *_) = workload.supply(0).step_batches(1)
    kept, said = kept_and_said(workload, asked_teacher(plan, workload), batch)
    assert len(kept) == (batch.num_labels if positions == "Labelled" else batch.num_tokens)
    torch.testing.assert_close(kept, said, atol=5e-3, rtol=0.0)


def trained(plan: RunPlan, num_steps: int) -> list[float]:
    """Loss on held-out text before and after some steps of a student, without an engine."""
    workload = open_workload(plan)
    teacher = load_teacher(plan, workload.data) if workload.cache is None else None
    network = build_network(plan, workload.data, None)
    model, terms = with_teacher(plan, workload, network, teacher, ALONE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    source = workload.supply(0)

    def held_out() -> float:
        model.eval()
        batches = list(source.evaluation_batches(None))
        with torch.no_grad():
            total = float(sum(model(*batch.model_arguments(CPU)) for batch in batches))
        model.train()
        return total / sum(batch.num_labels for batch in batches)

    losses = [held_out()]
    for step in range(num_steps):
        batches = source.step_batches(step)
        counts = {
            name: sum(getattr(batch, name) for batch in batches)
            for name in ("loss_weight", "num_labels", "num_tokens", "num_compared")
        }
        factors = torch.tensor(term_factors(terms, SimpleNamespace(**counts)))
        for batch in batches:
            (model(*batch.model_arguments(CPU)) * factors).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [*losses, held_out()]


def test_training_from_the_cache_ends_where_the_live_teacher_leads(
    plan: RunPlan, written: CachePlace
) -> None:
    """Steps of one epoch, in which the live run has the same masks."""
    num_steps = open_workload(plan).num_rows // 8
    assert plan.spec.distillation is not None
    live_distillation = plan.spec.distillation.model_copy(update={"teacher_cache": None})
    live = plan.model_copy(update={"spec": plan.spec.model_copy(update={"distillation": live_distillation})})
    first, of_live = trained(live, num_steps)
    same, of_cache = trained(plan, num_steps)
    assert first == same
    assert first - of_live > 0.2
    assert abs(of_cache - of_live) < 0.01


@pytest.mark.parametrize(
    ("name", "harm", "problem"),
    [
        (
            "records",
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
            "records was changed",
        ),
        ("starts", lambda path: path.write_bytes(b""), "starts has 0 bytes"),
        ("cache.json", lambda path: path.unlink(), "it cannot be read"),
    ],
)
def test_a_harmed_shard_is_found_before_training_and_made_anew_by_the_stage(
    teacher: Path, tmp_path: Path, name: str, harm: Any, problem: str
) -> None:
    plan = student_plan(tmp_path, teacher)
    open_writer(plan, ALONE, StopRequest()).write()
    place = place_of(plan)
    check_shards_together(place, ALONE)
    before = bytes_of(place)
    harm(place.shard_folder(1) / name)
    with pytest.raises(DataError, match=f"shard-00001: {problem}") as raised:
        check_shards_together(place, ALONE)
    assert str(place.folder) in str(raised.value)
    shutil.rmtree(place.shard_folder(1))
    writer = open_writer(plan, ALONE, StopRequest())
    assert writer.shards == (1,)
    writer.write()
    assert bytes_of(place) == before


def test_a_cache_of_something_else_is_refused_before_training(written: CachePlace) -> None:
    with pytest.raises(DataError, match="shard-00000: the cache was made from another teacher"):
        check_shards_together(replace(written, key="f" * 64), ALONE)
