"""The model card (README.md) of an exported model, in the shape that the Hugging Face hub reads."""

from importlib.resources import files

import jinja2
import yaml

from trainyard_trainer.training_record import TrainingRecord

PIPELINE_TAGS = {"MaskedLM": "fill-mask", "CausalLM": "text-generation"}


def render_model_card(record: TrainingRecord, *, weights_bytes: int) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        record: how the model came about; its list of files is not used.
        weights_bytes: size of the weights.
    """
    objective = record.objective
    front_matter = {
        "library_name": "transformers",
        "pipeline_tag": PIPELINE_TAGS[objective],
        "tags": ["trainyard", "pretraining", "masked-lm" if objective == "MaskedLM" else "causal-lm"],
    }
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown; text from users goes through the `code` filter
    )
    environment.filters["code"] = code_span
    template = environment.from_string(
        files("trainyard_trainer").joinpath("templates/model_card.md.j2").read_text(encoding="utf-8")
    )
    return template.render(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False).strip(),
        record=record,
        architecture=record.spec.model.architecture,
        masking=record.spec.pretraining.masking if record.spec.pretraining else None,
        training=record.spec.training,
        data=record.spec.data,
        weights_megabytes=weights_bytes / 1e6,
        auto_class="AutoModelForMaskedLM" if objective == "MaskedLM" else "AutoModelForCausalLM",
    )


def code_span(text: object) -> str:
    """Text as a Markdown code span, in which nothing but a back-tick or a line end has a meaning."""
    plain = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain or ' '}`"
