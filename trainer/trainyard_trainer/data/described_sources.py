"""The sources in the manifest of a run, and what became of them."""

from collections.abc import Sequence

from trainyard_api.spec import Source
from trainyard_trainer.data.manifest import SourceManifest
from trainyard_trainer.data.sources import InputFile, combined_hash
from trainyard_trainer.data.steps import FinishedStep

LISTED_FILES = 1000


def describe_sources(
    sources: Sequence[Source],
    files: Sequence[Sequence[InputFile]],
    extracted: Sequence[FinishedStep],
    deduplicated: FinishedStep,
) -> tuple[SourceManifest, ...]:
    """What each source held.

    Args:
        sources: those of the spec.
        files: that matched, of each.
        extracted: the step that read it, of each.
        deduplicated: the step that counted duplicates.
    """
    duplicates = deduplicated.manifest.details["perSource"]
    described = []
    for number, source in enumerate(sources):
        counts = extracted[number].manifest.counts
        described.append(
            SourceManifest(
                name=source.name,
                uri=source.uri,
                num_files=len(files[number]),
                size_bytes=sum(file.size_bytes for file in files[number]),
                content_hash=combined_hash(list(files[number])),
                files=tuple(file.as_manifest() for file in files[number][:LISTED_FILES]),
                records=counts["records"],
                invalid_records=counts["invalid"],
                documents=counts["documents"],
                characters=counts["characters"],
                dropped_documents=counts["dropped"],
                duplicates=duplicates[number],
                weight=source.weight,
            )
        )
    return tuple(described)
