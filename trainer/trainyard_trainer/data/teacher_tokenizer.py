"""The tokenizer of a run beside that of its teacher: both have to mean the same by a token."""

from trainyard_api.errors import DataError
from trainyard_trainer.data.base_config import TOKENIZER
from trainyard_trainer.data.base_model import BaseModel, ChosenTokenizer, Models, own_tokenizer
from trainyard_trainer.data.existing_tokenizer import parse_tokenizer
from trainyard_trainer.distillation.vocabulary import common_vocabulary


def check_teacher_tokenizer(chosen: ChosenTokenizer, models: Models) -> None:
    """Refuse a teacher that reads other tokens than the run's tokenizer gives.

    A teacher without a tokenizer of its own is taken to have the one that the spec names, unless a model to
    start from brings another.

    Args:
        chosen: the tokenizer of the run.
        models: its models.

    Raises:
        ConfigurationError: the tokens differ; names the first that does.
        DataError: there is no tokenizer to tell by.
    """
    teacher = models.teacher
    if teacher is None or models.is_aligned:
        return
    if models.base is None and own_tokenizer(teacher) is None:
        return
    own = teacher_tokenizer(teacher)
    if own.content == chosen.content:
        return
    common_vocabulary(
        parse_tokenizer(own.content, own.where),
        parse_tokenizer(chosen.content, chosen.where),
        teacher_rows=teacher.manifest.vocabulary_size,
        student_rows=(models.base or teacher).manifest.vocabulary_size,
    )


def teacher_tokenizer(teacher: BaseModel) -> ChosenTokenizer:
    """The tokenizer that is stored with a teacher.

    Raises:
        DataError: there is none.
    """
    own = own_tokenizer(teacher)
    if own is None:
        raise DataError(
            teacher.where, f"{teacher.folder} has no {TOKENIZER}", "Store the model with its tokenizer"
        )
    return own
