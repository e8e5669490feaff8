"""A run's model with its loss, beside its teacher where it has one."""

from torch import nn
from transformers import PreTrainedModel

from trainyard_api.plan import RunPlan
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.engine import COMPUTE_DTYPES
from trainyard_trainer.methods.loss_terms import DATA_TERM, LossTerm
from trainyard_trainer.models.cached_model import CachedModel
from trainyard_trainer.models.distilled_model import DistilledModel
from trainyard_trainer.models.divided import divide_layers
from trainyard_trainer.models.language_model import LanguageModel
from trainyard_trainer.models.layers import parameter_depths
from trainyard_trainer.models.student_layers import chosen_layers, compared_layers, evenly_spread
from trainyard_trainer.network import Network
from trainyard_trainer.workload import Workload


def with_teacher(
    plan: RunPlan,
    workload: Workload,
    network: Network,
    teacher: PreTrainedModel | None,
    ranks: Ranks,
) -> tuple[nn.Module, tuple[LossTerm, ...]]:
    """The module that an engine trains, and the terms whose sums its forward gives.

    Args:
        plan: the run.
        workload: its data and its loss.
        network: the model to train.
        teacher: the model to imitate, in fp32 on the CPU; it is changed to the run's precision. With
            a cache nobody listens to it.
        ranks: this process among the others; under ZeRO-3 they share the teacher's layers.

    Raises:
        ConfigurationError: the layers to compare do not exist.
    """
    student = workload.model(network.model)
    distillation = plan.spec.distillation
    if distillation is not None and workload.cache is not None and isinstance(student, LanguageModel):
        cached = CachedModel(student, distillation.losses, workload.cache)
        return cached, cached.terms
    if teacher is None or distillation is None:
        return student, (DATA_TERM,)
    shown = workload.model(teacher)
    if plan.spec.aligns_tokens and isinstance(shown, LanguageModel):
        # Its positions restart at each document, since only so they are sure to be as many as it has.
        shown.isolate_documents = True
    shown.to(dtype=COMPUTE_DTYPES[plan.spec.training.precision])
    if plan.divides_weights:
        divide_layers(teacher, ranks)
    shown.to(device=ranks.device)
    num_layers = parameter_depths(teacher).num_layers
    wanted = plan.spec.model.from_teacher
    origins = (
        evenly_spread(parameter_depths(network.model).num_layers, num_layers)
        if wanted is None
        else chosen_layers(wanted, num_layers)
    )
    pairs = compared_layers(distillation.layer_map, origins, num_layers)
    manifest = workload.data.manifest
    tokenizers = manifest.tokenizer, manifest.teacher_tokenizer or manifest.tokenizer
    sizes = tokenizers[0].vocabulary_size, tokenizers[1].vocabulary_size
    distilled = DistilledModel(student, shown, plan.spec, pairs, sizes)
    if network.projections:
        distilled.load_projections(network.projections)
    return distilled, distilled.terms
