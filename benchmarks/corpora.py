"""Real text for the benchmarks, fetched once into the cache of the machine by the repository's own tool."""

import gzip
import itertools
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def sotu_folder() -> Path:
    """Folder with addresses.jsonl.gz and paragraphs.jsonl.gz, the State of the Union addresses."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.fetch_corpora"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(done.stdout.strip().splitlines()[-1])


def part_of(source: Path, num_records: int, folder: Path) -> Path:
    """A copy of the first records of a JSON Lines file, of the same name in another folder."""
    copy = folder / source.name
    with gzip.open(source, "rb") as lines, gzip.open(copy, "wb") as out:
        out.writelines(itertools.islice(lines, num_records))
    return copy
