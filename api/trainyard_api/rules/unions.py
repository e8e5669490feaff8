"""Objects of which exactly one member, or at most one, is set."""

from trainyard_api.rules.rule import Rule, predicate_rule, union_rule

UNION_RULES: tuple[Rule, ...] = (
    union_rule("spec", ("pretraining", "fineTuning", "distillation"), lambda spec: spec),
    union_rule("spec.model", ("architecture", "pretrained", "fromRun"), lambda spec: spec.model),
    union_rule("spec.tokenizer", ("train", "uri"), lambda spec: spec.tokenizer),
    union_rule(
        "spec.training.budget",
        ("steps", "epochs", "tokens", "wallClockSeconds"),
        lambda spec: spec.training.budget,
    ),
    predicate_rule(
        path="spec.storage",
        fields=("spec.storage.volumeClaim", "spec.storage.uri"),
        holds=lambda spec: spec.storage.volume_claim is None or spec.storage.uri is None,
        problem="volumeClaim and uri are both set",
        remedy="Keep one of them",
        node="spec.storage",
        cel="!(has(self.volumeClaim) && has(self.uri))",
    ),
    predicate_rule(
        path="spec.distillation.teacher",
        fields=("spec.distillation.teacher",),
        holds=lambda spec: (
            spec.distillation is None
            or (
                spec.distillation.teacher.architecture is None
                and (spec.distillation.teacher.pretrained is None)
                != (spec.distillation.teacher.from_run is None)
            )
        ),
        problem="a teacher is exactly one of pretrained or fromRun",
        remedy="Set one of them; a model with random weights has nothing to teach",
        node="spec.distillation.teacher",
        cel="!has(self.architecture) && has(self.pretrained) != has(self.fromRun)",
    ),
)
