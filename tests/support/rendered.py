"""Rendered objects of runs, and the golden files of the quickstart's.

`python -m tests.support.rendered` writes tests/data/rendered/ anew; read the difference before you commit it.
"""

from pathlib import Path
from typing import Any

import yaml

from trainyard_api.names import Stage
from trainyard_api.spec import TrainingRun
from trainyard_api.spec_distillation import Distillation
from trainyard_api.validation import load_run_file, validate_document
from trainyard_operator.resources import (
    Object,
    Owner,
    WorkerDefaults,
    build_gang,
    build_plan_config_map,
    build_read_job,
    build_service,
    build_stage,
    plan_for_cluster,
)

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
GOLDEN = ROOT / "tests" / "data" / "rendered"
UID = "7b0c6a5e-2f0c-4f43-9a45-0f3ce1a3f7f1"
DEFAULTS = WorkerDefaults(
    image="trainyard/trainer:0.1.0",
    default_claim_name="trainyard",
    progress_url="https://trainyard-operator.trainyard.svc:8443",
    ca_config_map="trainyard-ca",
)


def owner_of(run: TrainingRun, uid: str = UID) -> Owner:
    """The run as the API server would know it."""
    return Owner(run.metadata.name, run.metadata.namespace, uid)


def run_with(metadata: dict[str, Any] | None = None, **spec: Any) -> TrainingRun:
    """The quickstart with other fields of its spec."""
    document = yaml.safe_load(
        (ROOT / "manifests" / "samples" / "quickstart.yaml").read_text(encoding="utf-8")
    )
    document["metadata"].update(metadata or {})
    document["spec"].update(spec)
    return validate_document(document)


def run_with_template(template: dict[str, Any]) -> TrainingRun:
    """The quickstart with a podTemplate that no rule of the API has looked at."""
    run = run_with()
    workers = run.spec.workers.model_copy(update={"pod_template": template})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"workers": workers})})


def gang_of(run: TrainingRun, stage: Stage = Stage.TRAIN, attempt: int = 0) -> list[Object]:
    """The pods of a stage."""
    owner = owner_of(run)
    plan = plan_for_cluster(run, owner, attempt, DEFAULTS)
    return build_gang(run, owner, plan, stage, DEFAULTS, {})


def sharded(run: TrainingRun, num_shards: int = 3) -> TrainingRun:
    """The run with its sources read in shards."""
    preparation = run.spec.data.preparation.model_copy(update={"shards": num_shards})
    data = run.spec.data.model_copy(update={"preparation": preparation})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"data": data})})


def cached(run: TrainingRun) -> TrainingRun:
    """The run with a teacher whose predictions are written before training."""
    document = {"teacher": {"fromRun": {"name": "large"}}, "losses": {"logits": {}}, "teacherCache": {}}
    changes = {"distillation": Distillation.model_validate(document), "tokenizer": None}
    return run.model_copy(update={"spec": run.spec.model_copy(update=changes)})


def job_of(run: TrainingRun, attempt: int = 0) -> Object:
    """The Job that reads the sources of a run in shards."""
    owner = owner_of(run)
    plan = plan_for_cluster(sharded(run), owner, attempt, DEFAULTS)
    return build_read_job(run, owner, plan, DEFAULTS)


def trainer_of(pod: Object) -> Object:
    """The worker container of a pod or a pod template."""
    containers: dict[str, Object] = {each["name"]: each for each in pod["spec"]["containers"]}
    return containers["trainer"]


def objects_of(run: TrainingRun, attempt: int = 0) -> dict[str, list[Object]]:
    """Everything that an attempt of a run makes, by the name of its golden file."""
    owner = owner_of(run)
    plan = plan_for_cluster(run, owner, attempt, DEFAULTS)
    return {
        "service": [build_service(owner, attempt)],
        "plan": [build_plan_config_map(owner, plan)],
        "read": [job_of(run, attempt)],
        "prepare": build_stage(run, owner, plan, Stage.PREPARE, DEFAULTS),
        "train": build_gang(run, owner, plan, Stage.TRAIN, DEFAULTS, {}),
        "export": build_gang(run, owner, plan, Stage.EXPORT, DEFAULTS, {}),
    }


def pod_templates_of(run: TrainingRun) -> list[Object]:
    """Every pod and pod template of a run."""
    objects = objects_of(run)
    (job,) = objects["read"]
    return [*objects["prepare"], job["spec"]["template"], *objects["train"], *objects["export"]]


class _Dumper(yaml.SafeDumper):
    """Writes shared parts in full."""

    def ignore_aliases(self, data: Any) -> bool:
        """No aliases: the API has none."""
        del data
        return True


def golden_texts(objects: dict[str, list[Object]]) -> dict[str, str]:
    """Objects as the YAML of their golden files; the plan itself is left out, which grows with the schema."""
    (config_map,) = objects["plan"]
    shown = {**objects, "plan": [{key: value for key, value in config_map.items() if key != "data"}]}
    return {
        name: yaml.dump_all(each, Dumper=_Dumper, sort_keys=False, width=110) for name, each in shown.items()
    }


def main() -> None:
    """Write the golden files."""
    run = load_run_file(ROOT / "manifests" / "samples" / "quickstart.yaml")
    for name, text in golden_texts(objects_of(run)).items():
        (GOLDEN / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
