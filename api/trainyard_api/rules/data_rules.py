"""Rules of sources, tokenizer and storage."""

import re
from collections.abc import Callable, Iterable

from trainyard_api.names import File
from trainyard_api.problems import Problem
from trainyard_api.rules.rule import Check, Rule, predicate_rule
from trainyard_api.spec import Source, TrainingRun, TrainingRunSpec
from trainyard_api.spec_model import PretrainedModel
from trainyard_api.uris import URI_CEL, URI_RULE, protocol_of, uri_problem

_COMPRESSION = re.compile(r"\.(gz|bz2|xz|zst)$", re.IGNORECASE)
_HUB_MODEL = r"^hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+@[0-9a-f]{40}$"
KEEPS_TOKENIZER = (
    "the model to start from has a vocabulary of its own; new tokens would get the rows of others",
    "Remove spec.tokenizer to use the model's own, or set model.architecture to start anew",
)
"""Problem and remedy of a tokenizer that would be trained for a stored model."""
_FORMATS_BY_ENDING = {
    ".jsonl": "JsonLines",
    ".ndjson": "JsonLines",
    ".csv": "CSV",
    ".parquet": "Parquet",
}


def _source_uri_problems(run: TrainingRun) -> Iterable[Problem]:
    """URIs of sources that are no URIs, or not absolute."""
    for index, source in enumerate(run.spec.data.sources):
        if problem := uri_problem(f"spec.data.sources[{index}].uri", source.uri):
            yield problem


def _tokenizer_uri_problems(run: TrainingRun) -> Iterable[Problem]:
    """The same of the tokenizer."""
    tokenizer = run.spec.tokenizer
    if tokenizer is not None and tokenizer.uri is not None:
        yield from filter(None, [uri_problem("spec.tokenizer.uri", tokenizer.uri)])


def _base_model(spec: TrainingRunSpec) -> PretrainedModel | None:
    """The stored model to start from."""
    return spec.model.pretrained


def _teacher(spec: TrainingRunSpec) -> PretrainedModel | None:
    """The stored model to imitate."""
    return spec.distillation.teacher.pretrained if spec.distillation is not None else None


def _stored_model_rules(
    node: str, model_of: Callable[[TrainingRunSpec], PretrainedModel | None]
) -> tuple[Rule, Rule]:
    """The URI of a stored model names a place that a run reads from, and on the hub a commit.

    Args:
        node: path of the model.
        model_of: the model in a spec, where there is one.
    """
    path = f"{node}.uri"

    def place_problems(run: TrainingRun) -> Iterable[Problem]:
        model = model_of(run.spec)
        return filter(None, [uri_problem(path, model.uri) if model is not None else None])

    def names_commit(spec: TrainingRunSpec) -> bool:
        model = model_of(spec)
        if model is None or protocol_of(model.uri) != "hf":
            return True
        return bool(re.fullmatch(_HUB_MODEL, model.uri))

    return _uri_rule(path, place_problems), predicate_rule(
        path=path,
        fields=(path,),
        holds=names_commit,
        problem="a model of the hub is named without its commit, and a branch moves while runs start again",
        remedy="Write hf://organisation/name@ and the 40 hexadecimal digits of the commit",
        node=node,
        cel=f"!self.uri.matches('^(?i)hf://') || self.uri.matches('{_HUB_MODEL}')",
    )


def _reserved_name_problems(run: TrainingRun) -> Iterable[Problem]:
    """Names of runs that mean something else below the storage root."""
    if run.metadata.name == File.PREPARED:
        yield Problem("metadata.name", *_RESERVED_NAME)


def _duplicate_name_problems(run: TrainingRun) -> Iterable[Problem]:
    """Sources that share a name."""
    first: dict[str, int] = {}
    for index, source in enumerate(run.spec.data.sources):
        if source.name in first:
            yield Problem(
                f"spec.data.sources[{index}].name",
                f"{source.name!r} is already the name of sources[{first[source.name]}]",
                "Give each source a name of its own",
            )
        first.setdefault(source.name, index)


def _repeated_source_problems(run: TrainingRun) -> Iterable[Problem]:
    """Sources that read the same text again."""
    first: dict[tuple[str, str, str], int] = {}
    for index, source in enumerate(run.spec.data.sources):
        key = (source.uri, source.text_field, source.document_boundary)
        if key in first:
            yield Problem(
                f"spec.data.sources[{index}].uri",
                f"sources[{first[key]}] reads the same text",
                "Remove one of them, and use weight to repeat text",
            )
        first.setdefault(key, index)


def _format_problems(run: TrainingRun) -> Iterable[Problem]:
    """Formats that contradict the ending of the URI, and text fields where there are none."""
    for index, source in enumerate(run.spec.data.sources):
        path = f"spec.data.sources[{index}]"
        expected = _format_by_ending(source)
        if expected is not None and expected != source.format:
            yield Problem(
                f"{path}.format",
                f"{source.format} does not fit the ending of {source.uri}",
                f"Write {expected}",
            )
        if source.format == "Text" and source.text_field != "text":
            yield Problem(f"{path}.textField", "Text has no fields", "Remove it, or set format to JsonLines")


def _format_by_ending(source: Source) -> str | None:
    """The format that the ending of a URI tells, compression aside."""
    name = _COMPRESSION.sub("", source.uri).lower()
    return next((found for ending, found in _FORMATS_BY_ENDING.items() if name.endswith(ending)), None)


def _uri_rule(path: str, check: Check) -> Rule:
    """A URI names a place that a run may read from."""
    return Rule(
        fields=(path,),
        problem=URI_RULE,
        remedy="Write one with an absolute path, such as file:///data/text/*.jsonl.gz",
        check=check,
        node=path,
        cel=URI_CEL,
    )


def _format_cel() -> str:
    """The formats by ending, and that Text has no field, in CEL; each field is looked up once."""
    clauses = ["(format != 'Text' || self.textField == 'text')"]
    for text_format in dict.fromkeys(_FORMATS_BY_ENDING.values()):
        endings = "|".join(
            ending.removeprefix(".") for ending, name in _FORMATS_BY_ENDING.items() if name == text_format
        )
        pattern = rf"(?i)\\.({endings})(\\.(gz|bz2|xz|zst))?$"
        clauses.append(f"(!uri.matches('{pattern}') || format == '{text_format}')")
    return f"[self.uri].all(uri, [self.format].all(format, {' && '.join(clauses)}))"


_SOURCES = "spec.data.sources[]"
_RESERVED_NAME = (
    f"'{File.PREPARED}' is the folder of the prepared data of all runs",
    "Give the run another name",
)

DATA_RULES: tuple[Rule, ...] = (
    Rule(
        fields=("metadata.name",),
        problem=_RESERVED_NAME[0],
        remedy=_RESERVED_NAME[1],
        check=_reserved_name_problems,  # the CRD says the same at its root, where metadata is
    ),
    Rule(
        fields=(f"{_SOURCES}.name",),
        problem="two sources have the same name",
        remedy="Give each source a name of its own",
        check=_duplicate_name_problems,  # in the CRD the list is a map keyed by name, which says the same
    ),
    Rule(
        fields=(f"{_SOURCES}.uri", f"{_SOURCES}.textField", f"{_SOURCES}.documentBoundary"),
        problem="two sources read the same text: equal uri, textField and documentBoundary",
        remedy="Remove one of them, and use weight to repeat text",
        check=_repeated_source_problems,
        node="spec.data.sources",
        cel=(
            "self.size() == 1 || self.all(x, self.exists_one(y, x.uri == y.uri && "
            "x.textField == y.textField && x.documentBoundary == y.documentBoundary))"
        ),
    ),
    _uri_rule(f"{_SOURCES}.uri", _source_uri_problems),
    _uri_rule("spec.tokenizer.uri", _tokenizer_uri_problems),
    *_stored_model_rules("spec.model.pretrained", _base_model),
    *_stored_model_rules("spec.distillation.teacher.pretrained", _teacher),
    predicate_rule(
        path="spec.tokenizer.train",
        fields=("spec.model.pretrained", "spec.model.fromRun", "spec.tokenizer.train"),
        holds=lambda spec: (
            spec.model.architecture is not None
            or (spec.model.pretrained is None and spec.model.from_run is None)
            or spec.tokenizer is None
            or spec.tokenizer.train is None
        ),
        problem=KEEPS_TOKENIZER[0],
        remedy=KEEPS_TOKENIZER[1],
        node="spec",
        cel=(
            "has(self.model.architecture) || !(has(self.model.pretrained) || has(self.model.fromRun)) || "
            "!has(self.tokenizer) || !has(self.tokenizer.train)"
        ),
    ),
    Rule(
        fields=(f"{_SOURCES}.uri", f"{_SOURCES}.format", f"{_SOURCES}.textField"),
        problem="format contradicts the ending of uri, or textField is set for Text",
        remedy="Write the format of the files",
        check=_format_problems,
        node=_SOURCES,
        cel=_format_cel(),
        field=f"{_SOURCES}.format",
    ),
    predicate_rule(
        path="spec.data.packing.isolateDocuments",
        fields=("spec.data.packing",),
        holds=lambda spec: spec.data.packing.enabled or spec.data.packing.isolate_documents,
        problem="isolateDocuments is false, but without packing each row holds one document",
        remedy="Remove it, or set packing.enabled to true",
        node="spec.data.packing",
        cel="self.enabled || self.isolateDocuments",
    ),
)
