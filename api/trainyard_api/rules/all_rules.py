"""Every rule of the API; the trainer adds its own (presets, model positions) when it validates."""

from trainyard_api.rules.adaptation_rules import ADAPTATION_RULES
from trainyard_api.rules.data_rules import DATA_RULES
from trainyard_api.rules.distillation_rules import DISTILLATION_RULES
from trainyard_api.rules.labelled_data_rules import LABELLED_DATA_RULES
from trainyard_api.rules.rule import Rule
from trainyard_api.rules.task_evaluation_rules import TASK_EVALUATION_RULES
from trainyard_api.rules.training_rules import TRAINING_RULES
from trainyard_api.rules.unions import UNION_RULES
from trainyard_api.rules.unsupported import UNSUPPORTED_RULES
from trainyard_api.rules.worker_rules import WORKER_RULES

ALL_RULES: tuple[Rule, ...] = (
    *UNION_RULES,
    *TRAINING_RULES,
    *DATA_RULES,
    *LABELLED_DATA_RULES,
    *ADAPTATION_RULES,
    *TASK_EVALUATION_RULES,
    *DISTILLATION_RULES,
    *WORKER_RULES,
    *UNSUPPORTED_RULES,
)
