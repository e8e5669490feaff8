"""The order in which rows are read: a pure function of seed, epoch and position, in constant memory.

A permutation of 0 .. n-1 is computed entry by entry with a Feistel network over the domain a x b >= n, with
a and b next to the square root of n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
Results outside 0 .. n-1 are encrypted again (cycle walking), which happens about once in sqrt(n) entries.
"""

import math
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

UNSIGNED_64 = 0xFFFF_FFFF_FFFF_FFFF
NUM_ROUNDS = 8

_STATE_INCREMENT = 0x9E3779B97F4A7C15


def mix_64(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit numbers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & UNSIGNED_64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & UNSIGNED_64
    return value ^ (value >> 31)


def mix_64_array(values: NDArray[np.uint64], carries: NDArray[np.bool_] | None = None) -> NDArray[np.uint64]:
    """`mix_64` of every entry of an array.

    Args:
        values: the lower 64 bits.
        carries: whether a 65th bit is set, as a sum of Python's numbers may have it.
    """
    shifted = values >> np.uint64(30)
    if carries is not None:
        shifted ^= carries.astype(np.uint64) << np.uint64(34)
    values = (values ^ shifted) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def round_keys(*parts: int) -> list[int]:
    """One key per round of the network, from the numbers that choose the permutation."""
    state = 0
    for part in parts:
        state = mix_64((state + _STATE_INCREMENT) ^ mix_64(part & UNSIGNED_64))
    return [mix_64((state + (index + 1) * _STATE_INCREMENT) & UNSIGNED_64) for index in range(NUM_ROUNDS)]


def round_keys_array(parts: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """`round_keys` of every entry of arrays of parts, uint64 [NUM_ROUNDS, n].

    Args:
        parts: uint64 [n] or [1] each.
    """
    increment = np.uint64(_STATE_INCREMENT)
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        total = state + increment
        state = mix_64_array(total ^ mix_64_array(part), carries=total < state)
    rounds = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64)[:, np.newaxis]
    return mix_64_array(state + rounds * increment)


@overload
def sample_index(seed: int, epoch: int, position: int, num_samples: int) -> int: ...
@overload
def sample_index(
    seed: int, epoch: int, position: NDArray[np.integer], num_samples: int
) -> NDArray[np.int64]: ...
def sample_index(
    seed: int, epoch: int, position: int | NDArray[np.integer], num_samples: int
) -> int | NDArray[np.int64]:
    """The row at a position of an epoch.

    Args:
        seed: seed of the run.
        epoch: number of the pass over the data, counted from 0.
        position: place in the pass, 0 .. num_samples - 1; one or an array of them.
        num_samples: rows of the data set.

    Returns:
        The row for each position; over all positions of an epoch, each row exactly once.

    Raises:
        IndexError: a position is outside the epoch.
    """
    keys = round_keys(seed, epoch, num_samples)
    if isinstance(position, np.ndarray):
        if position.size and (position.min() < 0 or position.max() >= num_samples):
            raise IndexError(f"positions must be in 0 .. {num_samples - 1}")
        same = np.broadcast_to(np.array(keys, dtype=np.uint64)[:, np.newaxis], (NUM_ROUNDS, len(position)))
        return _permute_array(position.astype(np.uint64), num_samples, same)
    if not 0 <= position < num_samples:
        raise IndexError(f"position {position} is not in 0 .. {num_samples - 1}")
    value = _encrypt(position, num_samples, keys)
    while value >= num_samples:
        value = _encrypt(value, num_samples, keys)
    return value


def sample_indices(
    seed: int, epochs: NDArray[np.int64], positions: NDArray[np.int64], num_samples: int
) -> NDArray[np.int64]:
    """`sample_index` at some positions of some epochs, int64 [n].

    Args:
        seed: seed of the run.
        epochs: int64 [n].
        positions: int64 [n], 0 .. num_samples - 1.
        num_samples: rows of the data set.
    """
    parts = (np.array([seed & UNSIGNED_64]), epochs, np.array([num_samples]))
    keys = round_keys_array([part.astype(np.uint64) for part in parts])
    return _permute_array(positions.astype(np.uint64), num_samples, keys)


def global_positions(
    step: int, global_batch_size: int, num_samples: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The epoch and the position in it of each row of an optimizer step; the stream runs on across epochs.

    Args:
        step: optimizer step, counted from 0.
        global_batch_size: rows per step.
        num_samples: rows per epoch.

    Returns:
        Epochs and positions, int64 [global_batch_size] each.
    """
    numbers = step * global_batch_size + np.arange(global_batch_size, dtype=np.int64)
    return numbers // num_samples, numbers % num_samples


def _sides(num_samples: int) -> tuple[int, int]:
    """Two nearly equal factors whose product is at least the number of samples."""
    first = math.isqrt(num_samples - 1) + 1
    return first, -(-num_samples // first)


def _encrypt(value: int, num_samples: int, keys: list[int]) -> int:
    first, second = _sides(num_samples)
    left, right = value % first, value // first
    for index, key in enumerate(keys):
        side = first if index % 2 == 0 else second
        left, right = right, (left + mix_64(right ^ key)) % side
    return left + first * right


def _permute_array(
    values: NDArray[np.uint64], num_samples: int, keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Entries of permutations; `keys` has the keys of each in a column."""
    values = _encrypt_array(values, num_samples, keys)
    outside = np.flatnonzero(values >= num_samples)
    while len(outside):
        values[outside] = _encrypt_array(values[outside], num_samples, keys[:, outside])
        outside = outside[values[outside] >= num_samples]
    return values.astype(np.int64)


def _encrypt_array(
    values: NDArray[np.uint64], num_samples: int, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    first, second = (np.uint64(side) for side in _sides(num_samples))
    left, right = values % first, values // first
    for index, key in enumerate(keys):
        side = first if index % 2 == 0 else second
        # mix_64 gives up to 2^64 - 1, so it is reduced before the sum, which would wrap
        left, right = right, (left + mix_64_array(right ^ key) % side) % side
    return left + first * right
