"""Rules of learning from a teacher, as far as they can be told without the teacher's files."""

from collections.abc import Callable
from itertools import pairwise

from trainyard_api.rules.rule import Rule, predicate_rule, union_rule
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_distillation import (
    Distillation,
    DistillationLosses,
    LogitsLoss,
    OnPolicy,
    TeacherCache,
)

MAXIMUM_CACHE_BYTES = 100
"""Most that a token may take in a cache of a teacher's predictions."""
CACHE_BYTES_BESIDE_ENTRIES = 4
"""Bytes a token for the probability of the rest and the entropy, whatever the entries."""

_ROOT = "spec.distillation"
_SHARE = LogitsLoss.model_fields["teacher_share"].default
_TAIL_SAMPLES = TeacherCache.model_fields["tail_samples"].default
_TEACHER_TERMS = ("logits", "hiddenStates", "attentions", "relations", "sortedLogits")


def _rule(  # noqa: PLR0913 - a rule has that many parts
    path: str, holds: Callable[[Distillation], bool], problem: str, remedy: str, *, cel: str, reads: str = ""
) -> Rule:
    """A rule inside spec.distillation; `reads` is the part that it reads, all of it when empty."""
    return predicate_rule(
        path=f"{_ROOT}.{path}",
        fields=(f"{_ROOT}.{reads}" if reads else _ROOT,),
        holds=lambda spec: spec.distillation is None or holds(spec.distillation),
        problem=problem,
        remedy=remedy,
        node=_ROOT,
        cel=cel,
    )


def _listens_to_the_teacher(losses: DistillationLosses) -> bool:
    """Whether a term beside the data's own labels is set."""
    terms = (losses.logits, losses.hidden_states, losses.attentions, losses.relations, losses.sorted_logits)
    return any(term is not None for term in terms)


def _reads_inside_the_teacher(losses: DistillationLosses) -> bool:
    """Whether a term needs more of the teacher than its predictions."""
    return any(term is not None for term in (losses.hidden_states, losses.attentions, losses.relations))


def _cache_suffices(distillation: Distillation) -> bool:
    """Whether the terms can be computed from the kept predictions of a cache."""
    losses = distillation.losses
    return distillation.teacher_cache is None or not (
        _reads_inside_the_teacher(losses)
        or losses.sorted_logits is not None
        or (losses.logits is not None and losses.logits.divergence != "ForwardKL")
    )


def _cache_is_small(cache: TeacherCache | None) -> bool:
    """Whether the entries fit where a token's number takes two bytes, the least there is."""
    if cache is None:
        return True
    samples = cache.tail_samples if cache.tail == "Sampled" else 0
    return 4 * cache.top_entries + 2 * samples + CACHE_BYTES_BESIDE_ENTRIES <= MAXIMUM_CACHE_BYTES


def _aligns_by_what_needs_no_tokens(distillation: Distillation) -> bool:
    """Whether all terms make sense where the two models cut the text differently."""
    losses = distillation.losses
    return distillation.tokenizer_mismatch == "Refuse" or (
        losses.sorted_logits is not None and losses.logits is None and not _reads_inside_the_teacher(losses)
    )


def _layers_are_inside(spec: TrainingRunSpec) -> bool:
    """Whether the layers to compare exist, where the spec itself tells how many the student has."""
    student = spec.model.from_teacher
    if spec.distillation is None or student is None or student.layers is None:
        return True
    return all(pair.student <= len(student.layers) for pair in spec.distillation.layer_map)


def _writes_itself_as_a_decoder(spec: TrainingRunSpec) -> bool:
    """Whether a student that writes text has learned to."""
    if spec.distillation is None or spec.distillation.on_policy is None:
        return True
    if spec.pretraining is not None:
        return spec.pretraining.objective == "CausalLM"
    tuning = spec.fine_tuning
    return tuning is None or tuning.task == "InstructionTuning" or tuning.objective == "CausalLM"


def _sorts_probabilities(spec: TrainingRunSpec) -> bool:
    """Whether predictions that are sorted are probabilities of something."""
    if spec.distillation is None or spec.distillation.losses.sorted_logits is None:
        return True
    return spec.fine_tuning is None or spec.fine_tuning.problem != "Regression"


def _leaves_room_to_write(spec: TrainingRunSpec) -> bool:
    """Whether a row is longer than the prompt that the student goes on from."""
    writes = None if spec.distillation is None else spec.distillation.on_policy
    return writes is None or writes.prompt_tokens < spec.data.sequence_length


def _keeps_the_teachers_tokenizer(spec: TrainingRunSpec) -> bool:
    """Whether no tokenizer is trained that the teacher cannot have."""
    trains = spec.tokenizer is not None and spec.tokenizer.train is not None
    return spec.distillation is None or spec.distillation.tokenizer_mismatch == "Align" or not trains


def _has_tokens_of_its_own(spec: TrainingRunSpec) -> bool:
    """Whether a student that is aligned with its teacher can have another tokenizer."""
    stored = spec.model.pretrained is not None or spec.model.from_run is not None
    named = spec.model.architecture is not None and spec.tokenizer is not None
    return not spec.aligns_tokens or stored or named


def _aligns_a_decoder(spec: TrainingRunSpec) -> bool:
    """Whether a student that is aligned with its teacher predicts the next token of plain text."""
    learned = spec.language_modeling
    return not spec.aligns_tokens or (learned is not None and learned.objective == "CausalLM")


def _ascends(values: list[int] | None) -> bool:
    """Whether each value is above the one before it."""
    return values is None or all(low < high for low, high in pairwise(values))


def _on_policy_scores(on_policy: OnPolicy | None, distillation: Distillation) -> bool:
    """Whether what the student writes can be judged: by a teacher in memory, by its predictions."""
    return on_policy is None or (
        distillation.teacher_cache is None and distillation.losses.logits is not None
    )


_INSIDE_CEL = "(has(self.losses.hiddenStates) || has(self.losses.attentions) || has(self.losses.relations))"
_TERMS_CEL = " || ".join(f"has(self.losses.{term})" for term in _TEACHER_TERMS)

_LOSS_RULES: tuple[Rule, ...] = (
    _rule(
        "losses",
        lambda distillation: _listens_to_the_teacher(distillation.losses),
        "no term listens to the teacher",
        f"Set one of {', '.join(_TEACHER_TERMS)}, or remove spec.distillation",
        reads="losses",
        cel=_TERMS_CEL,
    ),
    _rule(
        "losses.logits.teacherShare",
        lambda distillation: (
            distillation.losses.logits is None
            or distillation.losses.logits.divergence == "JensenShannon"
            or distillation.losses.logits.teacher_share == _SHARE
        ),
        "teacherShare is set, but only JensenShannon mixes the two models",
        "Remove it, or set divergence to JensenShannon",
        reads="losses.logits",
        cel=(
            "!has(self.losses.logits) || self.losses.logits.divergence == 'JensenShannon' || "
            f"self.losses.logits.teacherShare == {_SHARE}"
        ),
    ),
    _rule(
        "layerMap",
        lambda distillation: (
            not distillation.layer_map
            or distillation.losses.hidden_states is not None
            or distillation.losses.attentions is not None
        ),
        "layerMap is set, but no term compares layers",
        "Remove it, or set losses.hiddenStates or losses.attentions",
        cel="self.layerMap.size() == 0 || has(self.losses.hiddenStates) || has(self.losses.attentions)",
    ),
    _rule(
        "layerMap",
        lambda distillation: _ascends([pair.student for pair in distillation.layer_map]),
        "the student's layers do not ascend, or one is named twice",
        "Name each layer of the student once, from the bottom up",
        reads="layerMap",
        cel=(
            "self.layerMap.map(x, x.student).isSorted() && "
            "self.layerMap.all(x, self.layerMap.exists_one(y, x.student == y.student))"
        ),
    ),
    _rule(
        "layerMap",
        lambda distillation: all(
            (pair.student == 0) == (pair.teacher == 0) for pair in distillation.layer_map
        ),
        "the embeddings (layer 0) are compared with a layer",
        "Compare the embeddings with the teacher's, 0 with 0",
        reads="layerMap",
        cel="self.layerMap.all(x, (x.student == 0) == (x.teacher == 0))",
    ),
    _rule(
        "layerMap",
        lambda distillation: (
            distillation.losses.attentions is None
            or not distillation.layer_map
            or any(pair.student > 0 for pair in distillation.layer_map)
        ),
        "losses.attentions compares layers, and layerMap names only the embeddings, which have no attention",
        "Name layers from 1 on, or remove losses.attentions",
        cel=(
            "!has(self.losses.attentions) || self.layerMap.size() == 0 || "
            "self.layerMap.exists(x, x.student > 0)"
        ),
    ),
    _rule(
        "tokenizerMismatch",
        _aligns_by_what_needs_no_tokens,
        "Align is set, but a term compares token by token, or sortedLogits is missing",
        "Set only losses.sortedLogits and losses.labels, or set tokenizerMismatch to Refuse",
        cel=(
            "self.tokenizerMismatch == 'Refuse' || "
            f"(has(self.losses.sortedLogits) && !has(self.losses.logits) && !{_INSIDE_CEL})"
        ),
    ),
)

_CACHE_RULES: tuple[Rule, ...] = (
    _rule(
        "teacherCache",
        _cache_suffices,
        "a cache holds the teacher's likeliest predictions alone, and a term needs more of the teacher",
        "Keep losses.logits with divergence ForwardKL and losses.labels, or remove teacherCache",
        cel=(
            f"!has(self.teacherCache) || !({_INSIDE_CEL} || has(self.losses.sortedLogits) || "
            "(has(self.losses.logits) && self.losses.logits.divergence != 'ForwardKL'))"
        ),
    ),
    _rule(
        "teacherCache",
        lambda distillation: _cache_is_small(distillation.teacher_cache),
        f"it takes more than {MAXIMUM_CACHE_BYTES} bytes a token",
        "Lower topEntries (4 bytes each, 6 in vocabularies above 65,536) or tailSamples (2, or 4)",
        reads="teacherCache",
        cel=(
            "!has(self.teacherCache) || self.teacherCache.topEntries * 4 + (self.teacherCache.tail == "
            f"'Sampled' ? self.teacherCache.tailSamples * 2 : 0) + {CACHE_BYTES_BESIDE_ENTRIES} "
            f"<= {MAXIMUM_CACHE_BYTES}"
        ),
    ),
    _rule(
        "teacherCache.topEntries",
        lambda distillation: (
            distillation.teacher_cache is None
            or distillation.teacher_cache.top_entries > 0
            or distillation.teacher_cache.tail == "Sampled"
        ),
        "a bucket without entries beside it tells nothing of the teacher",
        "Set topEntries to a number such as 16, or tail to Sampled",
        reads="teacherCache",
        cel=(
            "!has(self.teacherCache) || self.teacherCache.topEntries > 0 || "
            "self.teacherCache.tail == 'Sampled'"
        ),
    ),
    _rule(
        "teacherCache.tailSamples",
        lambda distillation: (
            distillation.teacher_cache is None
            or distillation.teacher_cache.tail == "Sampled"
            or distillation.teacher_cache.tail_samples == _TAIL_SAMPLES
        ),
        "tailSamples is set, but Bucket draws none",
        "Remove it, or set tail to Sampled",
        reads="teacherCache",
        cel=(
            "!has(self.teacherCache) || self.teacherCache.tail == 'Sampled' || "
            f"self.teacherCache.tailSamples == {_TAIL_SAMPLES}"
        ),
    ),
    _rule(
        "onPolicy",
        lambda distillation: _on_policy_scores(distillation.on_policy, distillation),
        "what the student writes is judged by the teacher's predictions, which no cache can hold beforehand",
        "Set losses.logits, and remove teacherCache",
        cel="!has(self.onPolicy) || (!has(self.teacherCache) && has(self.losses.logits))",
    ),
)

_STUDENT_RULES: tuple[Rule, ...] = (
    predicate_rule(
        path="spec.model.fromTeacher",
        fields=("spec.model.fromTeacher", _ROOT),
        holds=lambda spec: spec.model.from_teacher is None or spec.distillation is not None,
        problem="there is no teacher to copy layers of",
        remedy="Set spec.distillation, or set another member of spec.model",
        node="spec",
        cel="!has(self.model.fromTeacher) || has(self.distillation)",
    ),
    predicate_rule(
        path="spec.model.fromTeacher",
        fields=("spec.model.fromTeacher",),
        holds=lambda spec: (
            spec.model.from_teacher is None
            or spec.model.from_teacher.every_nth_layer is None
            or spec.model.from_teacher.layers is None
        ),
        problem="everyNthLayer and layers are both set",
        remedy="Keep one of them",
        node="spec.model.fromTeacher",
        cel="!(has(self.everyNthLayer) && has(self.layers))",
    ),
    predicate_rule(
        path="spec.model.fromTeacher.layers",
        fields=("spec.model.fromTeacher.layers",),
        holds=lambda spec: spec.model.from_teacher is None or _ascends(spec.model.from_teacher.layers),
        problem="the layers do not ascend, or one is named twice",
        remedy="Name each layer of the teacher at most once, from the bottom up",
        node="spec.model.fromTeacher",
        cel=(
            "!has(self.layers) || "
            "(self.layers.isSorted() && self.layers.all(x, self.layers.exists_one(y, x == y)))"
        ),
    ),
    predicate_rule(
        path=f"{_ROOT}.layerMap",
        fields=(f"{_ROOT}.layerMap", "spec.model.fromTeacher"),
        holds=_layers_are_inside,
        problem="it names a layer that the student does not have",
        remedy="Name layers from 1 to the number of model.fromTeacher.layers, or 0 for the embeddings",
        node="spec",
        cel=(
            "!has(self.distillation) || !has(self.model.fromTeacher) || "
            "!has(self.model.fromTeacher.layers) || "
            "self.distillation.layerMap.all(x, x.student <= self.model.fromTeacher.layers.size())"
        ),
    ),
    predicate_rule(
        path=f"{_ROOT}.losses.sortedLogits",
        fields=(f"{_ROOT}.losses.sortedLogits", "spec.fineTuning.problem"),
        holds=_sorts_probabilities,
        problem="it compares probabilities, and a regression has none",
        remedy="Use losses.logits, which compares the numbers themselves",
        node="spec",
        cel=(
            "!has(self.distillation) || !has(self.distillation.losses.sortedLogits) || "
            "!has(self.fineTuning) || self.fineTuning.problem != 'Regression'"
        ),
    ),
    predicate_rule(
        path=f"{_ROOT}.onPolicy.promptTokens",
        fields=(f"{_ROOT}.onPolicy.promptTokens", "spec.data.sequenceLength"),
        holds=_leaves_room_to_write,
        problem="a prompt fills the whole row, and nothing can be written behind it",
        remedy="Set it below data.sequenceLength",
        node="spec",
        cel=(
            "!has(self.distillation) || !has(self.distillation.onPolicy) || "
            "self.distillation.onPolicy.promptTokens < self.data.sequenceLength"
        ),
    ),
    predicate_rule(
        path=f"{_ROOT}.onPolicy",
        fields=(f"{_ROOT}.onPolicy", "spec.pretraining", "spec.fineTuning"),
        holds=_writes_itself_as_a_decoder,
        problem="the student is to write text, but it does not learn to",
        remedy="Remove it, or train a decoder (CausalLM or InstructionTuning)",
        node="spec",
        cel=(
            "!has(self.distillation) || !has(self.distillation.onPolicy) || (has(self.pretraining) ? "
            "self.pretraining.objective == 'CausalLM' : (!has(self.fineTuning) || "
            "self.fineTuning.task == 'InstructionTuning' || (has(self.fineTuning.objective) && "
            "self.fineTuning.objective == 'CausalLM')))"
        ),
    ),
    predicate_rule(
        path=f"{_ROOT}.tokenizerMismatch",
        fields=(f"{_ROOT}.tokenizerMismatch", "spec.model", "spec.tokenizer"),
        holds=_has_tokens_of_its_own,
        problem="Align is set, but the student has the tokenizer of its teacher",
        remedy="Set it to Refuse, or set model.architecture and spec.tokenizer",
        node="spec",
        cel=(
            "!has(self.distillation) || self.distillation.tokenizerMismatch == 'Refuse' || "
            "has(self.model.pretrained) || has(self.model.fromRun) || "
            "(has(self.model.architecture) && has(self.tokenizer))"
        ),
    ),
    predicate_rule(
        path=f"{_ROOT}.tokenizerMismatch",
        fields=(f"{_ROOT}.tokenizerMismatch", "spec.pretraining", "spec.fineTuning"),
        holds=_aligns_a_decoder,
        problem="Align is set, but the student does not predict the next token of plain text",
        remedy="Set it to Refuse, or train with the objective CausalLM",
        node="spec",
        cel=(
            "!has(self.distillation) || self.distillation.tokenizerMismatch == 'Refuse' || "
            "(has(self.pretraining) ? self.pretraining.objective == 'CausalLM' : "
            "(!has(self.fineTuning) || (self.fineTuning.task == 'ContinuedPretraining' && "
            "has(self.fineTuning.objective) && self.fineTuning.objective == 'CausalLM')))"
        ),
    ),
    predicate_rule(
        path="spec.tokenizer.train",
        fields=("spec.tokenizer", f"{_ROOT}.tokenizerMismatch"),
        holds=_keeps_the_teachers_tokenizer,
        problem="the student has to read the tokens of its teacher, and a new tokenizer has others",
        remedy="Remove spec.tokenizer to use the teacher's, or set distillation.tokenizerMismatch to Align",
        node="spec",
        cel=(
            "!has(self.distillation) || self.distillation.tokenizerMismatch == 'Align' || "
            "!has(self.tokenizer) || !has(self.tokenizer.train)"
        ),
    ),
)

DISTILLATION_RULES: tuple[Rule, ...] = (
    union_rule(
        f"{_ROOT}.teacher",
        ("pretrained", "fromRun"),
        lambda spec: None if spec.distillation is None else spec.distillation.teacher,
    ),
    *_LOSS_RULES,
    *_CACHE_RULES,
    *_STUDENT_RULES,
)
