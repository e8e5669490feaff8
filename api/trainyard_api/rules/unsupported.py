"""Fields of the API whose behaviour is not built yet: refused, never ignored.

The CRD describes the whole API. Where one look at a field tells, it also has the rule, so that the API server
refuses the field; what depends on more is told by the validation alone.
"""

from collections.abc import Callable

from trainyard_api.rules.rule import Rule, predicate_rule
from trainyard_api.spec import TrainingRunSpec


def _unsupported(
    path: str,
    remedy: str,
    is_absent: Callable[[TrainingRunSpec], bool],
    *,
    node: str = "",
    cel: str | None = None,
) -> Rule:
    """A field that must stay unset, or keep its default."""
    return predicate_rule(
        path=path,
        fields=(path,),
        holds=is_absent,
        problem="not supported yet",
        remedy=remedy,
        node=node,
        cel=cel,
    )


def _unset(path: str, remedy: str, is_absent: Callable[[TrainingRunSpec], bool]) -> Rule:
    """A field without a default that no run may set."""
    node, _, name = path.rpartition(".")
    return _unsupported(path, remedy, is_absent, node=node, cel=f"!has(self.{name})")


def _unchanged(path: str, remedy: str, is_absent: Callable[[TrainingRunSpec], bool], cel: str) -> Rule:
    """A field that may only have the values for which its own CEL holds."""
    return _unsupported(path, remedy, is_absent, node=path, cel=cel)


def _of_text_students(name: str) -> str:
    """CEL of spec: the part of distillation is absent, or the student is one of plain text."""
    return (
        f"!has(self.distillation) || !has(self.distillation.{name}) || !has(self.fineTuning)"
        " || self.fineTuning.task == 'ContinuedPretraining'"
    )


UNSUPPORTED_RULES: tuple[Rule, ...] = (
    _unsupported(
        "spec.distillation.teacherCache",
        "Remove it: only predictions of tokens are kept in this version",
        lambda spec: not spec.caches_teacher or spec.language_modeling is not None,
        node="spec",
        cel=_of_text_students("teacherCache"),
    ),
    _unsupported(
        "spec.distillation.onPolicy",
        "Remove it: only students of plain text write in this version",
        lambda spec: (
            spec.distillation is None
            or spec.distillation.on_policy is None
            or spec.fine_tuning is None
            or spec.fine_tuning.task == "ContinuedPretraining"
        ),
        node="spec",
        cel=_of_text_students("onPolicy"),
    ),
    _unset(
        "spec.data.preparation.deduplicate.near",
        "Remove it; deduplicate.exact works",
        lambda spec: spec.data.preparation.deduplicate.near is None,
    ),
    _unchanged(
        "spec.data.preparation.filters",
        "Remove it, and filter the text beforehand",
        lambda spec: not spec.data.preparation.filters,
        "self.size() == 0",
    ),
    _unchanged(
        "spec.data.preparation.pii",
        "Write Keep, and remove personal data beforehand",
        lambda spec: spec.data.preparation.pii == "Keep",
        "self == 'Keep'",
    ),
    _unset("spec.bias.audit", "Remove it", lambda spec: spec.bias.audit is None),
    _unset("spec.bias.mitigation", "Remove it", lambda spec: spec.bias.mitigation is None),
    _unchanged("spec.bias.gates", "Remove it", lambda spec: not spec.bias.gates, "self.size() == 0"),
    _unchanged(
        "spec.storage.uri",
        "Use a file:// URI with an absolute path, or storage.volumeClaim",
        lambda spec: spec.storage.uri is None or spec.storage.uri.lower().startswith("file:///"),
        "self.lowerAscii().startsWith('file:///')",
    ),
)
