"""A TrainingRun on real text in real pods: killed, suspended, resumed, finished, and gone when deleted."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.cluster.director import Director, End, Place, place_of
from tests.cluster.images import BASE_IMAGE
from tests.cluster.operator_process import PROGRESS_SERVICE, Installation, OperatorProcess
from tests.cluster.real_pods import PYTHON, real_pod_spec, shared_folder_claim
from tests.cluster.rest import Object, Rest
from tests.cluster.scene import CLAIM, NAME, Scene, attempts_of, condition_of, opened_scene
from tests.support.local_runs import write_excerpt
from tests.support.runs import document
from trainyard_api.names import Label, PodEnvironment

pytestmark = [pytest.mark.kubelet, pytest.mark.timeout(2400)]

STAGE_SECONDS = 600.0
"""Enough for a stage with its start-up on a busy machine."""
NUM_RECORDS = 2_000
STEPS = 400
EVERY_STEPS = 40
CHAIN_STEPS = 60
"""Enough for a tiny model to learn how often words occur."""


def the_node_decides(place: Place) -> End | None:
    """The script of pods that are real."""


@pytest.fixture
def operator(
    kubelet_cluster: object, installation: Installation, tmp_path: Path
) -> Iterator[OperatorProcess]:
    settings = {
        "progress_url": f"https://{PROGRESS_SERVICE}.{installation.namespace}.svc:8443",
        "progress_seconds": 2,
    }
    log = tmp_path / "operator.log"
    with OperatorProcess(installation, "training-0", log, settings=settings) as running:
        yield running.wait_until_leading()
        assert running.stop() == 0
        assert "Traceback" not in running.log


@pytest.fixture
def storage(tmp_path: Path, sotu_paragraphs: Path) -> Path:
    """The folder of the claim, with a small part of the corpus; pods of another user write into it."""
    folder = tmp_path / "storage"
    folder.mkdir()
    folder.chmod(0o777)
    write_excerpt(sotu_paragraphs, folder / "paragraphs.jsonl", NUM_RECORDS)
    return folder


@pytest.fixture
def scene(operator: OperatorProcess, rest: Rest, director: Director, storage: Path) -> Iterator[Scene]:
    with opened_scene(rest, director, "real-training", claim=False) as opened:
        opened.play(the_node_decides)
        volume, claim = shared_folder_claim(CLAIM, opened.namespace, storage)
        rest.create("persistentvolumes", "", volume)
        rest.create("persistentvolumeclaims", opened.namespace, claim)
        yield opened


def spec_of_run(nodes: int = 2, **changes: Any) -> Object:
    """Real pods that train a tiny BERT on the excerpt; changes as in `document`."""
    template = real_pod_spec(
        "trainer", env=[{"name": "PATH", "value": f"{Path(PYTHON).parent}:/usr/bin:/bin"}]
    )
    del template["containers"][0]["image"]
    usual: Object = {
        "training__budget": {"steps": STEPS},
        "checkpoint": {"everySteps": EVERY_STEPS, "keep": 2},
        "workers": {"nodes": nodes, "image": BASE_IMAGE, "podTemplate": {"spec": template}},
    }
    spec: Object = document(Path("/data/paragraphs.jsonl"), NAME, **usual | changes)["spec"]
    return spec


def create_run(scene: Scene, name: str, spec: Object) -> Object:
    """Create a run."""
    run = {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": spec,
    }
    return scene.rest.create("trainingruns", scene.namespace, run)


def rank_in(pod: str) -> psutil.Process:
    """The training process of a pod, which this machine sees like any other."""
    for process in psutil.process_iter():
        try:
            is_rank = "rank" in process.cmdline()
            if is_rank and process.environ().get(PodEnvironment.POD_NAME) == pod:
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    raise AssertionError(f"no process of {pod} trains")


def wait_for_step(scene: Scene, attempt: int, step: int) -> Object:
    """Wait until the status tells of a step of an attempt, past a checkpoint.

    Progressing tells that this attempt has reported; until then the progress is that of the one before.
    """

    def holds(status: Object) -> bool:
        return (
            status.get("attempt") == attempt
            and condition_of(status, "Progressing").get("status") == "True"
            and status.get("progress", {}).get("stage") == "Train"
            and status["progress"].get("step", 0) >= step
            and status.get("checkpoint", {}).get("step", 0) >= EVERY_STEPS
        )

    return scene.wait_for(holds, f"step {step} of attempt {attempt}", STAGE_SECONDS)


def columns_of(scene: Scene, cluster: object) -> dict[str, str]:
    """What `kubectl get trun` prints of the run, by column."""
    head, row = cluster.kubectl.in_namespace(scene.namespace).run("get", "trun", NAME).splitlines()
    places = [(found.group(), found.start()) for found in re.finditer(r"\S+", head)]
    ends = [start for _, start in places[1:]] + [None]
    return {name: row[start:end].strip() for (name, start), end in zip(places, ends, strict=True)}


def losses_of(folder: Path) -> dict[int, float]:
    """The training loss by step; of steps that were done again, the last."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {record["step"]: record["loss"] for record in records if record.get("loss") is not None}


def test_a_run_survives_a_killed_process_and_a_suspension_and_leaves_nothing_but_its_model(
    kubelet_cluster, scene: Scene, storage: Path
) -> None:
    run = create_run(scene, NAME, spec_of_run())
    before = wait_for_step(scene, 0, EVERY_STEPS)
    columns = columns_of(scene, kubelet_cluster)
    assert columns["PHASE"] == "Running"
    written = kubelet_cluster.kubectl.in_namespace(scene.namespace).run(
        "logs", f"--selector={Label.RUN}={NAME}", "--prefix", "--tail=5"
    )
    pods = scene.wait_for_gang(0)
    names = [pods[Place("train", 0, index)]["metadata"]["name"] for index in range(2)]
    assert all(f"[pod/{name}/trainer]" in written for name in names)
    assert EVERY_STEPS <= int(columns["STEP"]) < STEPS
    assert float(columns["LOSS"]) > 0.0
    assert float(columns["TOKENS/S"]) > 0.0

    victim = pods[Place("train", 0, 1)]["metadata"]["name"]
    rank_in(victim).send_signal(signal.SIGKILL)
    after = wait_for_step(scene, 1, before["progress"]["step"])
    failed = after["attempts"][0]
    assert failed["outcome"] == "Failed"
    assert (failed["failure"]["pod"], failed["failure"]["exitCode"]) == (victim, 137)
    assert failed["failure"]["node"] == "node-0"
    assert failed["failure"]["logTail"]
    assert after["attempts"][1]["startCheckpointStep"] >= EVERY_STEPS

    scene.edit(suspend=True)
    suspended = scene.wait_for_phase("Suspended", STAGE_SECONDS)
    assert attempts_of(suspended) == ["Failed", "Preempted"]
    scene.wait_for_pods(
        lambda pods: all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in pods.values()),
        "nothing runs any more",
    )
    saved = suspended["checkpoint"]["step"]
    assert saved >= after["progress"]["step"]
    scene.edit(suspend=False)

    status = scene.wait_for_phase("Succeeded", STAGE_SECONDS)
    assert (attempts_of(status), status["restarts"]) == (["Failed", "Preempted", "Succeeded"], 1)
    assert status["attempts"][2]["startCheckpointStep"] == saved
    assert columns_of(scene, kubelet_cluster)["RESTARTS"] == "1"
    told = scene.wait_for_events("Restarting", "RunSuspended", "Resumed", "RunSucceeded")
    assert told[-1] == "RunSucceeded"
    assert told.count("Restarting") == 1

    folder = storage / "runs" / NAME
    losses = losses_of(folder)
    assert sorted(losses) == list(range(1, STEPS + 1))
    means = [sum(losses[step] for step in range(start, start + 50)) / 50 for start in (1, 151, STEPS - 49)]
    assert means[0] > means[1] > means[2]
    model = folder / "model"
    AutoTokenizer.from_pretrained(model)
    parameters = sum(each.numel() for each in AutoModelForMaskedLM.from_pretrained(model).parameters())
    assert parameters == status["model"]["parameters"]

    scene.delete()
    scene.wait_until_nothing_is_left(run["metadata"]["uid"])
    assert model.is_dir()
    assert not [each for each in psutil.process_iter(["cmdline"]) if _is_of(each, victim)]


def two_sources(storage: Path) -> list[Object]:
    """The excerpt as two sources, since each source is at least one unit of what shards share."""
    lines = (storage / "paragraphs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    sources = []
    for name, part in (("first", lines[: len(lines) // 2]), ("second", lines[len(lines) // 2 :])):
        (storage / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
        sources.append({"name": name, "uri": f"file:///data/{name}.jsonl", "format": "JsonLines"})
    return sources


def check_shards(scene: Scene, storage: Path) -> None:
    """Check that two pods have read a source each, and that the preparation has used what they wrote."""
    pods = {place_of(pod): pod for pod in scene.children("pods")}
    assert [place for place in sorted(pods) if place.stage == "read"] == [
        Place("read", 0, index) for index in range(2)
    ]
    prepared = storage / "runs" / "prepared"
    units = {path.stat().st_ino for path in prepared.glob("units/extract-*/*.text")}
    assert len(units) == 2
    assert {path.stat().st_ino for path in prepared.glob("extract-*/*.text")} == units


def test_a_fine_tuning_waits_for_a_pretraining_in_real_pods_and_starts_from_its_model(
    scene: Scene, storage: Path
) -> None:
    """All layers of the body stay frozen, so that they have to be those of the other run at the end."""
    small = {"training__budget": {"steps": CHAIN_STEPS}, "training__schedule": {"name": "Constant"}}
    source = {"name": "parties", "uri": "file:///data/paragraphs.jsonl", "format": "JsonLines"}
    task = {"task": "SequenceClassification", "adaptation": {"frozenLayers": 2}}
    create_run(
        scene,
        "parties",
        spec_of_run(
            1,
            pretraining=None,
            fineTuning=task,
            model={"fromRun": {"name": NAME}},
            tokenizer=None,
            data__sources=[{**source, "labelField": "party"}],
            **small,
        ),
    )
    scene.wait_for_condition("Validated", "False", "UpstreamMissing", NAME, name="parties")
    sharded = {"data__sources": two_sources(storage), "data__preparation": {"shards": 2}}
    create_run(scene, NAME, spec_of_run(1, **small, **sharded))
    scene.wait_for_condition("Admitted", "False", "WaitingForRun", NAME, name="parties")
    first = scene.wait_for_phase("Succeeded", STAGE_SECONDS)
    second = scene.wait_for_phase("Succeeded", STAGE_SECONDS, name="parties")
    assert attempts_of(first) == attempts_of(second) == ["Succeeded"]
    check_shards(scene, storage)
    assert second["attempts"][0]["startedAt"] >= first["attempts"][0]["finishedAt"]
    assert second["progress"]["metrics"].keys() >= {"Accuracy", "MacroF1"}
    assert second["model"]["metrics"].keys() >= {"Accuracy", "MacroF1"}

    assert sorted(losses_of(storage / "runs" / "parties")) == list(range(1, CHAIN_STEPS + 1))
    folders = [storage / "runs" / name / "model" for name in (NAME, "parties")]
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in folders]
    assert vocabularies[0] == vocabularies[1]
    start = AutoModelForMaskedLM.from_pretrained(folders[0])
    tuned = AutoModelForSequenceClassification.from_pretrained(folders[1])
    assert {"Democratic", "Federalist"} <= set(tuned.config.id2label.values())
    assert sum(each.numel() for each in tuned.parameters()) == second["model"]["parameters"]
    for name, weight in start.bert.named_parameters():
        assert torch.equal(tuned.bert.get_parameter(name), weight), name


def _is_of(process: psutil.Process, pod: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(PodEnvironment.POD_NAME) == pod
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
