"""Values of Arrow columns as Python objects: one by one where they are large, never one that is too long."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainyard_trainer.data.readers import MAXIMUM_RECORD_BYTES, InvalidRecord

SCALAR_BYTES = 8
"""What a number counts, and an element of a list beside what it holds."""


def values_of(column: Any, maximum_batch_bytes: int) -> Iterator[Any]:
    """The values of a column; what is no text or too long comes as an InvalidRecord.

    Args:
        column: an Arrow array.
        maximum_batch_bytes: the values of a column with more bytes become objects one by one.

    Raises:
        ArrowInvalid: the column contradicts itself.
    """
    sizes = row_bytes(column)
    if sizes.max(initial=0) <= MAXIMUM_RECORD_BYTES and sizes.sum() <= maximum_batch_bytes:
        try:
            yield from column.to_pylist()
        except (ValueError, OverflowError):
            yield from map(_value, column)
        return
    for scalar, size_bytes in zip(column, sizes.tolist(), strict=True):
        if size_bytes > MAXIMUM_RECORD_BYTES:
            yield InvalidRecord(0, f"longer than {MAXIMUM_RECORD_BYTES >> 20} MiB", "")
        else:
            yield _value(scalar)


def row_bytes(column: Any) -> NDArray[np.int64]:
    """Bytes of each value of an Arrow array, texts repeated by a dictionary counted each time, int64 [n]."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        indices = pc.fill_null(column.indices, -1).to_numpy()
        if not -1 <= indices.min(initial=-1) <= indices.max(initial=-1) < len(column.dictionary):
            raise pa.ArrowInvalid("it uses entries that its dictionary does not have")
        return np.asarray(np.append(row_bytes(column.dictionary), 0)[indices])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind):
        return np.asarray(pc.fill_null(pc.binary_length(column), 0), dtype=np.int64)
    if pa.types.is_struct(kind):
        return sum(map(row_bytes, column.flatten()), np.zeros(len(column), dtype=np.int64))
    if pa.types.is_fixed_size_list(kind):
        return _list_bytes(column, (column.offset + np.arange(len(column) + 1)) * kind.list_size)
    if pa.types.is_nested(kind):
        return _list_bytes(column, column.offsets.to_numpy())
    return np.full(len(column), SCALAR_BYTES, dtype=np.int64)


def _list_bytes(column: Any, offsets: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Bytes of lists, or of maps, that begin and end at some values."""
    ends = np.concatenate([[0], np.cumsum(row_bytes(column.values) + SCALAR_BYTES)])
    sizes: NDArray[np.int64] = np.diff(ends[offsets])
    return sizes


def _is_binary(kind: Any) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        excerpt = error.object[:200].decode(errors="replace")
        return InvalidRecord(0, f"not UTF-8 (byte {error.object[error.start]:#04x})", excerpt)
    except (ValueError, OverflowError) as error:  # such as a time beyond the year 9999
        return InvalidRecord(0, f"no value that can be read: {error}", "")
