"""TrainingRun v1alpha1, the desired state: the only hand-written schema of Trainyard.

What a run trains for stands in `spec_objectives.py`, from which model in `spec_model.py`, imitating which in
`spec_distillation.py`, the types of fields in `spec_types.py`. The CRD, `docs/api.md` and the chart are
generated from these files. Every docstring below a field becomes its
description there and in `kubectl explain`, so each states its unit. Rules across fields stand in `rules.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from trainyard_api.model import ApiModel
from trainyard_api.spec_distillation import Distillation
from trainyard_api.spec_model import Model
from trainyard_api.spec_objectives import (
    FineTuning,
    Pretraining,
)
from trainyard_api.spec_types import (
    DnsLabel,
    Fraction,
    FreeForm,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Uri,
)


class TokenizerTraining(ApiModel):
    """Train a tokenizer on the run's own text."""

    algorithm: Literal["WordPiece", "BPE", "Unigram"]
    """WordPiece (BERT), byte-level BPE (GPT-2, Llama 3, ModernBERT) or Unigram (SentencePiece-like)."""
    vocabulary_size: Annotated[int, Field(ge=256, le=1_000_000)]
    """Entries of the vocabulary, special tokens included; the model's is padded to a multiple of 64."""
    lowercase: bool = False
    """Whether text is lower-cased and stripped of accents before it is split."""
    minimum_frequency: PositiveInt = 2
    """How often a pair or word must occur to become an entry."""


class Tokenizer(ApiModel):
    """The tokenizer; exactly one member is set."""

    train: TokenizerTraining | None = None
    """Train one on the run's text."""
    uri: Uri | None = None
    """An existing one: URI of a tokenizer.json or of its folder, by file, http(s), s3, gs, az or hf."""


class Source(ApiModel):
    """One source of text."""

    name: DnsLabel
    """Name of the source in manifests, metrics and reports."""
    uri: Uri
    """file, http(s), s3, gs, az or hf URI, or a glob, such as file:///data/*.jsonl.gz or s3://bucket/text/*.parquet."""
    format: Literal["Text", "JsonLines", "CSV", "Parquet"]
    """Text, one JSON object per line, CSV with header, or Parquet; .gz, .bz2, .xz, .zst tell compression."""
    text_field: Annotated[str, Field(min_length=1, max_length=253)] = "text"
    """Field or column that holds the text (all formats but Text)."""
    second_text_field: Annotated[str, Field(max_length=253)] = ""
    """SequenceClassification of pairs: field that holds the second text."""
    label_field: Annotated[str, Field(min_length=1, max_length=253)] = "label"
    """SequenceClassification: field of the label, list of labels (MultiLabel; in CSV: JSON) or number."""
    words_field: Annotated[str, Field(min_length=1, max_length=253)] = "words"
    """TokenClassification: field that holds the list of words (in CSV: JSON)."""
    tags_field: Annotated[str, Field(min_length=1, max_length=253)] = "tags"
    """TokenClassification: field that holds the list of labels, one per word (in CSV: JSON)."""
    messages_field: Annotated[str, Field(min_length=1, max_length=253)] = "messages"
    """InstructionTuning: field of the list of messages, each with role and content (in CSV: JSON)."""
    split: Literal["ByHash", "Train", "Validation"] = "ByHash"
    """Fine-tuning: whether documents are divided by data.validationFraction, or all belong to one part."""
    document_boundary: Literal["Record", "BlankLine", "Line"] = "Record"
    """What is one document: a whole record (Text: a file), or its parts between blank lines, or each line."""
    weight: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """How often each training document of the source occurs in an epoch; 0.5 takes half, chosen by hash."""


class NearDeduplication(ApiModel):
    """Removal of documents that nearly equal another (MinHash)."""

    threshold: Probability = 0.8
    """Jaccard similarity of 5-word shingles from which documents count as equal, 0 to 1."""


class Deduplication(ApiModel):
    """Removal of repeated documents."""

    exact: bool = True
    """Whether documents with equal normalised text are kept only once."""
    near: NearDeduplication | None = None
    """Removal of near duplicates."""


class Preparation(ApiModel):
    """What happens to text before it becomes tokens."""

    normalize: bool = True
    """Whether text gets Unicode NFC, plain line ends and spaces, and loses control characters."""
    deduplicate: Deduplication = Deduplication()
    """Removal of repeated documents."""
    minimum_characters: PositiveInt = 1
    """Documents with fewer characters after normalisation are dropped and counted."""
    filters: list[FreeForm] = []
    """Quality filters, applied in their order."""
    pii: Literal["Keep", "Mask", "Drop"] = "Keep"
    """What happens to personal data: kept, replaced by a placeholder, or the document dropped."""
    maximum_invalid_fraction: Fraction = 0.01
    """Fraction of records that may be unreadable (broken JSON, no text field, not UTF-8), 0 to 1."""
    shards: Annotated[int, Field(ge=1, le=256)] = 1
    """Pods that share the reading of the sources, an Indexed Job; above 1 the claim must be ReadWriteMany."""


class Packing(ApiModel):
    """How documents fill the rows of a batch."""

    enabled: bool = True
    """Whether several short documents share a row; otherwise each row holds one and the rest is padding."""
    isolate_documents: bool = True
    """Whether attention and positions restart at each document of a row."""


class Data(ApiModel):
    """The text and how it becomes training samples."""

    sources: Annotated[list[Source], Field(min_length=1, max_length=100)]
    """Where the text comes from."""
    preparation: Preparation = Preparation()
    """What happens to the text before it becomes tokens."""
    validation_fraction: Annotated[float, Field(gt=0.0, le=0.5)] = 0.02
    """Fraction of the documents held out for evaluation, chosen by document hash."""
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = 512
    """Tokens per row; longer documents are cut into pieces of it."""
    packing: Packing = Packing()
    """How documents fill the rows of a batch."""


class Budget(ApiModel):
    """When training ends; exactly one member is set."""

    steps: PositiveInt | None = None
    """Optimizer steps."""
    epochs: PositiveFloat | None = None
    """Passes over the training data."""
    tokens: PositiveInt | None = None
    """Tokens processed, padding not counted."""
    wall_clock_seconds: PositiveInt | None = None
    """Seconds of training over all attempts; preparation and waiting not counted."""


class ParameterGroup(ApiModel):
    """Settings of the parameters whose names fit a pattern."""

    parameters: Annotated[str, Field(min_length=1, max_length=253)]
    """Pattern of Transformers parameter names, such as *.bias or *embeddings*: * stands for anything."""
    weight_decay: NonNegativeFloat | None = None
    """Weight decay of them; the optimizer's, and 0 for norms, biases and other vectors, when not set."""
    learning_rate_factor: NonNegativeFloat = 1.0
    """Factor of the learning rate; 0 keeps them as they are."""


class Optimizer(ApiModel):
    """The optimizer and its constants."""

    name: Literal["AdamW", "SGD", "Adafactor", "Lion"] = "AdamW"
    """AdamW, SGD with momentum, Adafactor (PyTorch's) or Lion (pytorch-optimizer's)."""
    learning_rate: PositiveFloat
    """Peak learning rate, per optimizer step."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay (SGD: added to the gradient); norms, biases and other vectors are exempt."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of the first moment (AdamW, Lion)."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.98
    """Decay of the second moment (AdamW, Lion)."""
    epsilon: PositiveFloat = 1e-6
    """Term added to the denominator (AdamW)."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum (SGD)."""
    nesterov: bool = False
    """Whether SGD looks ahead (Nesterov)."""
    parameter_groups: Annotated[list[ParameterGroup], Field(max_length=100)] = []
    """Rules for groups of parameters; of the rules that fit a name, the first counts."""


class Schedule(ApiModel):
    """The learning rate over time, as a factor of the peak."""

    name: Literal["Constant", "Linear", "Cosine", "WarmupStableDecay"] = "Linear"
    """Shape after the warm-up."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer steps of linear rise from 0 to the peak."""
    decay_steps: PositiveInt | None = None
    """Optimizer steps of the final fall of WarmupStableDecay; a tenth of all steps when not set."""
    decay_shape: Literal["Linear", "OneMinusSqrt"] = "OneMinusSqrt"
    """Shape of the final fall of WarmupStableDecay."""
    minimum_ratio: Fraction = 0.0
    """Factor of the peak at the end of Linear, Cosine and WarmupStableDecay, 0 to 1."""


class Evaluation(ApiModel):
    """Measurement of the loss on held-out documents."""

    every_steps: PositiveInt | None = None
    """Optimizer steps between evaluations; there is always one at the end."""
    maximum_sequences: PositiveInt | None = None
    """Rows to evaluate on: the validation set's first, of a task drawn from all of it; all when not set."""


class Training(ApiModel):
    """How the model is optimised."""

    budget: Budget
    """When training ends."""
    global_batch_size: PositiveInt
    """Rows per optimizer step over all processes."""
    micro_batch_size: PositiveInt
    """Rows per forward pass of one process."""
    optimizer: Optimizer
    """The optimizer and its constants."""
    schedule: Schedule = Schedule()
    """The learning rate over time."""
    precision: Literal["BF16", "FP32", "FP16"] = "BF16"
    """Number format of forward and backward passes; FP16 needs an accelerator."""
    gradient_clipping: NonNegativeFloat = 1.0
    """Largest L2 norm of the gradient; 0 turns clipping off."""
    seed: NonNegativeInt = 0
    """Decides initial weights, data order, masks and dropout."""
    evaluation: Evaluation = Evaluation()
    """Measurement of the loss on held-out documents."""


class DeepSpeed(ApiModel):
    """The DeepSpeed engine."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """What is divided among processes: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters."""
    config: FreeForm = {}
    """DeepSpeed configuration merged over Trainyard's; keys that Trainyard owns are refused."""


class Accelerator(ApiModel):
    """The accelerator of each worker pod."""

    resource_name: Annotated[str, Field(min_length=1, max_length=253)] = "nvidia.com/gpu"
    """Name of the extended resource, which PyTorch of workers.image has to drive."""
    count: NonNegativeInt = 0
    """Devices per worker pod; 0 trains on the CPU."""
    type: Annotated[str, Field(max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")] = ""
    """google.com/tpu: label cloud.google.com/gke-tpu-accelerator of the nodes: tpu-v5-lite-podslice, ..."""
    topology: Annotated[str, Field(max_length=63, pattern=r"^([1-9][0-9]*(x[1-9][0-9]*){1,2})?$")] = ""
    """google.com/tpu: label cloud.google.com/gke-tpu-topology of the nodes, such as 2x4."""


class Workers(ApiModel):
    """The processes that train."""

    nodes: Annotated[int, Field(ge=1, le=4096)] = 1
    """Worker pods (on a laptop: torchrun agents)."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes in each worker pod, usually one per accelerator."""
    image: str = ""
    """Container image of the workers; the operator's default when empty. Not used on a laptop."""
    accelerator: Accelerator = Accelerator()
    """The accelerator of each worker pod. Not used on a laptop."""
    resources: FreeForm = {}
    """Kubernetes resource requirements of the worker container. Not used on a laptop."""
    pod_template: FreeForm = {}
    """Merged strategically over the worker pod. Not used on a laptop."""


class VolumeClaim(ApiModel):
    """A PersistentVolumeClaim of the run's namespace."""

    claim_name: DnsLabel
    """Name of the claim; it must be shared by all nodes (ReadWriteMany)."""


class Storage(ApiModel):
    """Where prepared data, checkpoints and models are kept; at most one member is set."""

    volume_claim: VolumeClaim | None = None
    """A volume mounted in every pod. A laptop uses the folder given by --output."""
    uri: Uri | None = None
    """A folder by URI; of URIs, file:/// with an absolute path works yet."""


class Checkpoint(ApiModel):
    """Saving of the training state."""

    every_steps: PositiveInt = 500
    """Optimizer steps between checkpoints; there is always one at the end and on a stop."""
    keep: PositiveInt = 3
    """How many of the newest checkpoints stay."""


class RestartPolicy(ApiModel):
    """What happens after a fault."""

    max_restarts: Annotated[int, Field(ge=0, le=10_000)] = 3
    """Restarts from the last checkpoint; the count starts again when a newer checkpoint is committed."""


class Scheduling(ApiModel):
    """Passed on to the cluster's schedulers. Not used on a laptop."""

    queue_name: Annotated[str, Field(max_length=253)] = ""
    """Kueue LocalQueue."""
    priority_class_name: Annotated[str, Field(max_length=253)] = ""
    """PriorityClass of the pods."""


class Bias(ApiModel):
    """Measurement and reduction of bias."""

    audit: FreeForm | None = None
    """What is measured in data and model."""
    mitigation: FreeForm | None = None
    """What is done to data and training."""
    gates: list[FreeForm] = []
    """Conditions on the measurements that the model must meet."""


class TrainingRunSpec(ApiModel):
    """The desired state of a TrainingRun; exactly one of pretraining and fineTuning is set."""

    pretraining: Pretraining | None = None
    """Train a language model on text without labels."""
    fine_tuning: FineTuning | None = None
    """Adapt a pre-trained model to a task."""
    distillation: Distillation | None = None
    """Learn that from a larger model as well as from the data."""
    model: Model
    """The model to train."""
    tokenizer: Tokenizer | None = None
    """The tokenizer; the model's own when not set."""
    data: Data
    """The text and how it becomes training samples."""
    training: Training
    """How the model is optimised."""
    deepspeed: DeepSpeed = DeepSpeed()
    """The DeepSpeed engine."""
    workers: Workers = Workers()
    """The processes that train."""
    storage: Storage = Storage()
    """Where prepared data, checkpoints and models are kept."""
    checkpoint: Checkpoint = Checkpoint()
    """Saving of the training state."""
    restart_policy: RestartPolicy = RestartPolicy()
    """What happens after a fault."""
    scheduling: Scheduling = Scheduling()
    """Passed on to the cluster's schedulers."""
    bias: Bias = Bias()
    """Measurement and reduction of bias."""
    suspend: bool = False
    """Whether the run is to stop after a checkpoint and wait."""
    active_deadline_seconds: PositiveInt | None = None
    """Seconds the run may be active, over all attempts and suspensions, before it fails."""
    queue_deadline_seconds: PositiveInt | None = None
    """Seconds that pods may wait for admission and nodes before the run fails. Not used on a laptop."""
    startup_deadline_seconds: PositiveInt | None = None
    """Seconds from having nodes to the first sign of work before the run fails. Not used on a laptop."""
    stall_timeout_seconds: PositiveInt | None = None
    """Seconds without a further optimizer step that count as a fault. Not used on a laptop."""
    ttl_seconds_after_finished: NonNegativeInt | None = None
    """Seconds after its end at which the resource is deleted. Not used on a laptop."""

    @property
    def language_modeling(self) -> Pretraining | None:
        """What a language model is trained for, anew or further; None where the run has another task."""
        if self.pretraining is not None:
            return self.pretraining
        tuning = self.fine_tuning
        if tuning is None or tuning.objective is None or tuning.task != "ContinuedPretraining":
            return None
        return Pretraining(objective=tuning.objective, masking=tuning.masking)

    @property
    def aligns_tokens(self) -> bool:
        """Whether the teacher reads the text by a tokenizer of its own."""
        return self.distillation is not None and self.distillation.tokenizer_mismatch == "Align"

    @property
    def caches_teacher(self) -> bool:
        """Whether the teacher's predictions are written before training, which then needs no teacher."""
        return self.distillation is not None and self.distillation.teacher_cache is not None


class Metadata(ApiModel):
    """The part of the Kubernetes metadata that Trainyard reads from a file."""

    name: DnsLabel
    """Name of the run."""
    namespace: DnsLabel = "default"
    """Namespace of the run."""
    labels: dict[str, str] = {}
    """Labels of the resource."""
    annotations: dict[str, str] = {}
    """Annotations of the resource."""


class TrainingRun(ApiModel):
    """A training run: data, model, training, hardware and safety in one resource."""

    api_version: Literal["trainyard.dev/v1alpha1"] = "trainyard.dev/v1alpha1"
    """trainyard.dev/v1alpha1."""
    kind: Literal["TrainingRun"] = "TrainingRun"
    """TrainingRun."""
    metadata: Metadata
    """Name and labels."""
    spec: TrainingRunSpec
    """The desired state."""


def to_document(run: TrainingRun) -> dict[str, Any]:
    """The run as the plain mapping a YAML file holds, with every default written out."""
    return run.model_dump(mode="json", by_alias=True, exclude_none=True)
