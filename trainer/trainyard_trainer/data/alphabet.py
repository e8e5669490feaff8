"""The characters of a text by how often they occur, which fixes a vocabulary's alphabet before training."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

NUM_CODE_POINTS = 0x110000
COUNTED_CHARACTERS = 1 << 20


def count_characters(texts: Iterable[str]) -> NDArray[np.int64]:
    """How often each code point occurs, int64 [0x110000]."""
    counts = np.zeros(NUM_CODE_POINTS, dtype=np.int64)
    waiting: list[str] = []
    num_waiting = 0
    for text in texts:
        waiting.append(text)
        num_waiting += len(text)
        if num_waiting >= COUNTED_CHARACTERS:
            counts += _counted("".join(waiting))
            waiting, num_waiting = [], 0
    return counts + _counted("".join(waiting))


def most_frequent(counts: NDArray[np.int64], maximum: int) -> str:
    """The most frequent characters, in the order of their code points; of equally frequent ones the first."""
    present = np.flatnonzero(counts)
    chosen = present[np.argsort(-counts[present], kind="stable")[:maximum]]
    return "".join(map(chr, np.sort(chosen).tolist()))


def _counted(text: str) -> NDArray[np.int64]:
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return np.bincount(code_points, minlength=NUM_CODE_POINTS).astype(np.int64)
