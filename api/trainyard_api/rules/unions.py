"""Objects of which exactly one member, or at most one, is set."""

from trainyard_api.rules.rule import Rule, predicate_rule, union_rule

UNION_RULES: tuple[Rule, ...] = (
    union_rule("spec", ("pretraining", "fineTuning"), lambda spec: spec),
    union_rule(
        "spec.model", ("architecture", "pretrained", "fromRun", "fromTeacher"), lambda spec: spec.model
    ),
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
)
