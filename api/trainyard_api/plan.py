"""From a TrainingRun to every process, argument and path: `plan_run`, a pure function with two back ends.

The operator renders a RunPlan to Kubernetes objects, the local runner starts it as processes. The trainer
reads it back from `plan.json`; the environment carries only rank and rendezvous.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

from pydantic import Field

from trainyard_api.errors import ConfigurationError
from trainyard_api.model import ApiModel
from trainyard_api.names import DEFAULT_RENDEZVOUS_PORT, Environment, File, Stage
from trainyard_api.spec import Training, TrainingRun, TrainingRunSpec, Workers
from trainyard_api.spec_distillation import Teacher
from trainyard_api.spec_model import Model


class Rendezvous(ApiModel):
    """Where the processes of a gang meet."""

    address: str
    """Host name or address of node 0."""
    port: int = DEFAULT_RENDEZVOUS_PORT
    """TCP port on it."""


class BatchPlan(ApiModel):
    """The batch arithmetic: global = micro x accumulation x world."""

    global_batch_size: int
    """Rows per optimizer step."""
    micro_batch_size: int
    """Rows per forward pass of one process."""
    accumulation_steps: int
    """Forward passes per optimizer step of one process."""
    world_size: int
    """Processes."""


class RunPaths(ApiModel):
    """Where a run keeps what; all absolute."""

    run_folder: str
    """Everything of this run."""
    prepared: str
    """Prepared data, addressed by the hash of its inputs and shared by the runs of one storage."""
    checkpoints: str
    """Committed checkpoints, step-N each."""
    model: str
    """The exported model."""
    logs: str
    """Logs of this attempt."""
    base_model: str = ""
    """Folder of the run, or URI, of the model to start from; empty where the weights are random."""
    teacher: str = ""
    """Folder of the run, or URI, of the model to imitate; empty where there is none."""


class NodePlan(ApiModel):
    """One process to start: a pod on a cluster, an agent or worker process on a laptop."""

    index: int
    """Number of the node in its stage."""
    argv: tuple[str, ...]
    """Command line."""
    env: dict[str, str]
    """Environment beyond the inherited one."""


class StagePlan(ApiModel):
    """One stage of the run; its nodes start together."""

    stage: Stage
    """Which stage."""
    nodes: tuple[NodePlan, ...]
    """Its processes, by index."""


class RunPlan(ApiModel):
    """Everything that is decided before a process starts."""

    name: str
    """Name of the run."""
    namespace: str
    """Namespace of the run."""
    attempt: int
    """Number of this attempt, counted from 0."""
    spec: TrainingRunSpec
    """The desired state."""
    batch: BatchPlan
    """The batch arithmetic."""
    paths: RunPaths
    """Where the run keeps what."""
    stages: tuple[StagePlan, ...]
    """The stages, in their order."""
    mounts: dict[str, str] = {}
    """Path prefixes of source URIs and the folders that stand in for them, as volume mounts do in a pod."""
    threads_per_process: int = Field(default=0, ge=0)
    """CPU threads of each training process; 0 divides the cores the process may use."""
    preparation_processes: int = Field(default=0, ge=0)
    """Worker processes of a prepare node; 0 takes as many as there are cores it may use."""
    shard_processes: int = Field(default=0, ge=0)
    """Worker processes of each process that reads a shard; 0 takes as many as there are cores it may use."""

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage that the engine runs.

        ZeRO divides state among processes. One process has nothing to divide, and in FP32 stage 0 computes
        the same numbers without copying gradients and weights through flat buffers (5 % of a small model's
        step on a CPU). A `zero_optimization` of the user's own is left alone, and so are 16-bit formats,
        whose master weights ZeRO keeps.
        """
        divides_nothing = self.batch.world_size == 1 and self.spec.training.precision == "FP32"
        if divides_nothing and "zero_optimization" not in self.spec.deepspeed.config:
            return 0
        return self.spec.deepspeed.zero_stage

    @property
    def divides_weights(self) -> bool:
        """Whether the processes share the weights, as under ZeRO-3; a teacher's are shared then too."""
        return self.zero_stage == 3 and self.batch.world_size > 1

    def stage(self, stage: Stage) -> StagePlan:
        """The plan of one stage."""
        return next(plan for plan in self.stages if plan.stage is stage)


def plan_batch(training: Training, workers: Workers) -> BatchPlan:
    """Divide the global batch among processes and forward passes.

    Raises:
        ConfigurationError: the global batch is not a multiple of micro batch times world size.
    """
    world_size = workers.nodes * workers.processes_per_node
    rows_per_pass = training.micro_batch_size * world_size
    accumulation_steps, rest = divmod(training.global_batch_size, rows_per_pass)
    if rest or not accumulation_steps:
        fitting = max(rows_per_pass, round(training.global_batch_size / rows_per_pass) * rows_per_pass)
        raise ConfigurationError(
            "spec.training.globalBatchSize",
            f"{training.global_batch_size} is not a multiple of microBatchSize {training.micro_batch_size} "
            f"x {world_size} processes = {rows_per_pass}",
            f"Set it to {fitting}, or change microBatchSize or workers",
        )
    return BatchPlan(
        global_batch_size=training.global_batch_size,
        micro_batch_size=training.micro_batch_size,
        accumulation_steps=accumulation_steps,
        world_size=world_size,
    )


def plan_paths(
    name: str,
    storage_root: str,
    attempt: int,
    model: Model | None = None,
    teacher: Teacher | None = None,
) -> RunPaths:
    """Where a run of this name keeps what under a storage root, and the places of the models it reads."""
    root = PurePosixPath(storage_root)
    folder = root / name
    return RunPaths(
        run_folder=str(folder),
        prepared=str(root / File.PREPARED),
        checkpoints=str(folder / File.CHECKPOINTS),
        model=str(folder / File.MODEL),
        logs=str(folder / File.LOGS / f"attempt-{attempt}"),
        base_model=_stored_model(root, model) if model is not None else "",
        teacher=_stored_model(root, teacher) if teacher is not None else "",
    )


def _stored_model(root: PurePosixPath, model: Model | Teacher) -> str:
    """The place of a stored model; runs of one storage lie side by side."""
    if model.from_run is not None:
        return str(root / model.from_run.name / File.MODEL)
    return model.pretrained.uri if model.pretrained is not None else ""


def plan_run(  # noqa: PLR0913 - the facts that the back ends know and the spec does not
    run: TrainingRun,
    *,
    storage_root: str,
    rendezvous: Rendezvous,
    attempt: int = 0,
    python: str = "python",
    mounts: Mapping[str, str] | None = None,
    threads_per_process: int = 0,
    preparation_processes: int = 0,
    shard_processes: int = 0,
    plan_file: str = "",
    cache_rendezvous: Rendezvous | None = None,
) -> RunPlan:
    """Decide every process of a run.

    Args:
        run: the validated resource.
        storage_root: absolute path of the storage, as the processes see it.
        rendezvous: where the gang meets.
        attempt: number of this start of the gang, counted from 0.
        python: interpreter of the processes.
        mounts: path prefixes of source URIs and the folders that stand in for them.
        threads_per_process: CPU threads of each training process; 0 divides the cores the process may use.
        preparation_processes: worker processes of a prepare node; 0 takes as many as there are cores.
        shard_processes: worker processes of each process that reads a shard; 0 takes as many.
        plan_file: where the processes find the plan; `plan.json` of the run folder when empty.
        cache_rendezvous: where the gang meets that writes the teacher's predictions; as in training if None.

    Raises:
        ConfigurationError: the world size does not divide the batch.
    """
    distillation = run.spec.distillation
    teacher = distillation.teacher if distillation is not None else None
    paths = plan_paths(run.metadata.name, storage_root, attempt, run.spec.model, teacher)
    plan_file = plan_file or str(PurePosixPath(paths.run_folder) / File.PLAN)
    command = (python, "-m", "trainyard_trainer")
    return RunPlan(
        name=run.metadata.name,
        namespace=run.metadata.namespace,
        attempt=attempt,
        spec=run.spec,
        batch=plan_batch(run.spec.training, run.spec.workers),
        paths=paths,
        stages=(
            *_reading(run.spec.data.preparation.shards, command, plan_file),
            StagePlan(stage=Stage.PREPARE, nodes=(_single(command, "prepare", plan_file),)),
            *_caching(run.spec, (*command, "node", "--plan", plan_file), cache_rendezvous or rendezvous),
            StagePlan(
                stage=Stage.TRAIN,
                nodes=_gang(run.spec.workers, (*command, "node", "--plan", plan_file), rendezvous),
            ),
            StagePlan(stage=Stage.EXPORT, nodes=(_single(command, "export", plan_file),)),
        ),
        mounts=dict(mounts or {}),
        threads_per_process=threads_per_process,
        preparation_processes=preparation_processes,
        shard_processes=shard_processes,
    )


def _reading(num_shards: int, command: tuple[str, ...], plan_file: str) -> tuple[StagePlan, ...]:
    """The processes that read a shard of the sources each; one shard is read by Prepare itself."""
    if num_shards == 1:
        return ()
    nodes = tuple(
        NodePlan(
            index=shard,
            argv=(*command, "read", "--plan", plan_file),
            env={Environment.SHARD_INDEX: str(shard)},
        )
        for shard in range(num_shards)
    )
    return (StagePlan(stage=Stage.READ, nodes=nodes),)


def _single(command: tuple[str, ...], verb: str, plan_file: str) -> NodePlan:
    return NodePlan(index=0, argv=(*command, verb, "--plan", plan_file), env={})


def _caching(spec: TrainingRunSpec, argv: tuple[str, ...], rendezvous: Rendezvous) -> tuple[StagePlan, ...]:
    """The gang that writes the teacher's predictions, as large as the training one; none without a cache."""
    if not spec.caches_teacher:
        return ()
    return (
        StagePlan(
            stage=Stage.CACHE, nodes=_gang(spec.workers, (*argv, "--stage", Stage.CACHE.value), rendezvous)
        ),
    )


def _gang(workers: Workers, argv: tuple[str, ...], rendezvous: Rendezvous) -> tuple[NodePlan, ...]:
    """One torchrun agent per node; static rendezvous, no restarts of its own: the back end restarts gangs."""
    return tuple(
        NodePlan(
            index=node,
            argv=argv,
            env={
                Environment.NODES: str(workers.nodes),
                Environment.NODE_RANK: str(node),
                Environment.PROCESSES_PER_NODE: str(workers.processes_per_node),
                Environment.MASTER_ADDRESS: rendezvous.address,
                Environment.MASTER_PORT: str(rendezvous.port),
                Environment.MAX_RESTARTS: "0",
            },
        )
        for node in range(workers.nodes)
    )
