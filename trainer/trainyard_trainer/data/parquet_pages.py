"""Headers of Parquet pages, read while Arrow reads them: a page that would unfold too far is refused before.

What the footer says of sizes is a claim that Arrow does not need; it allocates what the headers of pages say.
The headers are structures of Thrift's compact protocol (parquet.thrift, PageHeader).
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any

from trainyard_api.errors import DataError

PAGE_BYTES = 64 << 20
"""A page up to this size is read whatever it was compressed to."""
MAXIMUM_PAGE_BYTES = 1 << 30
MAXIMUM_PAGE_RATIO = 100
"""How far a page above PAGE_BYTES may unfold; text is compressed to a tenth at best."""
MAXIMUM_BATCH_BYTES = 1 << 30
"""Most bytes of whole pages whose values stand in one batch."""
MAXIMUM_PAGE_VALUES = 1 << 27
MAXIMUM_NESTED_VALUES = 1 << 26
"""Most values of a list column in a row group: one row may hold all of them, and a few bytes repeat many."""

_HEADER_READS = (1 << 16, 16 << 20)
"""Bytes that are read for a header that does not end within what Arrow asked for; Arrow's own limit last."""
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_DELTA_BYTE_ARRAY = 7
_DICTIONARY_ENCODINGS = frozenset({2, 8})
_INTEGER, _STRUCT = 5, 12
_FIXED_BYTES = {1: 0, 2: 0, 3: 1, 7: 8}
"""Sizes of true and false (they stand in the head of their field), of a byte, and of a double."""
_MAXIMUM_DEPTH = 16
_REMEDY = "Write it again with smaller pages and row groups; remove it if it comes from others"


@dataclass(frozen=True, slots=True)
class Page:
    """What a header says.

    Attributes:
        kind: number of its type.
        unfolded_bytes: after decompression.
        stored_bytes: what follows the header.
        num_values: values of a page of data, nulls and repeated ones included; else 0.
        encoding: number of the encoding of a page of data; else -1.
        header_bytes: size of the header itself.
    """

    kind: int
    unfolded_bytes: int
    stored_bytes: int
    num_values: int
    encoding: int
    header_bytes: int


@dataclass(slots=True)
class Chunk:
    """A column of a row group while it is read.

    Attributes:
        name: of the column.
        position: where its next header begins in the file.
        end: where it ends.
        num_values: values that no page held so far.
        batch_rows: rows that are read at once.
        is_nested: whether a row may hold several values.
        keeps_dictionary: whether values stay numbers of entries of a dictionary.
        value_weight: how much a value of a list counts.
    """

    name: str
    position: int
    end: int
    num_values: int
    batch_rows: int
    is_nested: bool
    keeps_dictionary: bool
    value_weight: int
    _dictionary_bytes: int = 0
    _window: deque[tuple[int, int]] = field(default_factory=deque)
    _nested_values: int = 0

    def add(self, page: Page) -> str | None:
        """Take over a page; what is wrong with it, or None."""
        unfolds = f"a page of the column {self.name!r} unfolds from {page.stored_bytes} to "
        if min(page.unfolded_bytes, page.stored_bytes, page.num_values) < 0:
            return f"a page of the column {self.name!r} has a negative size"
        if page.unfolded_bytes > max(
            PAGE_BYTES, min(MAXIMUM_PAGE_BYTES, MAXIMUM_PAGE_RATIO * page.stored_bytes)
        ):
            return f"{unfolds}{page.unfolded_bytes} bytes"
        if page.num_values > MAXIMUM_PAGE_VALUES:
            return f"{unfolds}{page.num_values} values"
        self.position += page.header_bytes + page.stored_bytes
        if page.kind == _DICTIONARY:
            self._dictionary_bytes = page.unfolded_bytes
        if page.kind not in {_DATA, _DATA_V2}:
            return None
        self.num_values -= page.num_values
        return self._nested_problem(page) if self.is_nested else self._batch_problem(page)

    def _nested_problem(self, page: Page) -> str | None:
        self._nested_values += page.num_values * self.value_weight
        if self._nested_values > MAXIMUM_NESTED_VALUES:
            return f"the column {self.name!r} holds more than {MAXIMUM_NESTED_VALUES} values in a row group"
        return None

    def _batch_problem(self, page: Page) -> str | None:
        """Pages that lie whole in one batch are in memory together.

        A value repeats an entry of the dictionary, or the value before it, without any byte of its own.
        """
        num_bytes, most_values = page.unfolded_bytes, min(page.num_values, self.batch_rows)
        if page.encoding == _DELTA_BYTE_ARRAY:
            num_bytes *= most_values
        elif page.encoding in _DICTIONARY_ENCODINGS and not self.keeps_dictionary:
            num_bytes = max(num_bytes, self._dictionary_bytes * most_values)
        self._window.append((page.num_values, num_bytes))
        while sum(values for values, _ in self._window) > self.batch_rows:
            self._window.popleft()
        in_batch = max(sum(size for _, size in self._window), num_bytes)
        if in_batch > MAXIMUM_BATCH_BYTES:
            return f"{self.batch_rows} rows of the column {self.name!r} may unfold to {in_batch} bytes"
        return None


class UnreadError(Exception):
    """Arrow asked for bytes while it may not have any."""


class GuardedFile:
    """A seekable binary stream that looks at the pages that are read from it.

    Args:
        stream: the file.
        uri: its name, for errors.

    Attributes:
        is_sealed: whether nothing may be read from it.
    """

    closed = False
    is_sealed = False

    def __init__(self, stream: IO[bytes], uri: str) -> None:
        self._stream = stream
        self._uri = uri
        self._chunks: tuple[Chunk, ...] = ()

    def watch(self, chunks: Iterable[Chunk]) -> None:
        """Look at the pages of these columns from now on, and at no others."""
        self._chunks = tuple(chunks)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move in the file."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Place in the file."""
        return self._stream.tell()

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Nothing: who opened the stream closes it."""

    def read(self, size: int = -1) -> bytes:
        """Read bytes.

        Raises:
            DataError: a page that begins in them would take too much memory.
            UnreadError: nothing may be read now.
        """
        if self.is_sealed:
            raise UnreadError
        start = self._stream.tell()
        data = self._stream.read(size)
        for chunk in self._chunks:
            self._check(chunk, start, data)
        return data

    def _check(self, chunk: Chunk, start: int, data: bytes) -> None:
        while start <= chunk.position < min(start + len(data), chunk.end) and chunk.num_values > 0:
            page = parse_header(data, chunk.position - start) or self._straddling(chunk, start + len(data))
            problem = chunk.add(page)
            if problem is not None:
                raise DataError(self._uri, problem, _REMEDY)

    def _straddling(self, chunk: Chunk, end: int) -> Page:
        """The header at the end of what was read; the stream stays at that end."""
        for size in _HEADER_READS:
            self._stream.seek(chunk.position)
            page = parse_header(self._stream.read(size), 0)
            self._stream.seek(end)
            if page is not None:
                return page
        raise DataError(
            self._uri, f"it is damaged: a page of the column {chunk.name!r} has no header", "Replace the file"
        )


def chunk_of(metadata: Any, schema: Any, batch_rows: int, *, keeps_dictionary: bool) -> Chunk:
    """A column of a row group.

    Args:
        metadata: pyarrow's ColumnChunkMetaData.
        schema: pyarrow's ColumnSchema of it.
        batch_rows: rows that are read at once.
        keeps_dictionary: see `Chunk`.
    """
    start = metadata.data_page_offset
    if metadata.has_dictionary_page and 0 < metadata.dictionary_page_offset < start:
        start = metadata.dictionary_page_offset
    return Chunk(
        name=schema.path,
        position=start,
        end=start + metadata.total_compressed_size,
        num_values=metadata.num_values,
        batch_rows=batch_rows,
        is_nested=schema.max_repetition_level > 0,
        keeps_dictionary=keeps_dictionary,
        value_weight=max(1, schema.length // 8),
    )


def parse_header(data: bytes, position: int) -> Page | None:
    """The header that begins at a place; None where the data ends within it, or it is none."""
    try:
        values, end = _parse_struct(data, position, 0)
    except IndexError:
        return None
    data_header = values.get(8 if values.get(1) == _DATA_V2 else 5)
    inner: dict[int, Any] = data_header if isinstance(data_header, dict) else {}
    return Page(
        kind=values.get(1, -1),
        unfolded_bytes=values.get(2, -1),
        stored_bytes=values.get(3, -1),
        num_values=inner.get(1, 0),
        encoding=inner.get(4 if values.get(1) == _DATA_V2 else 2, -1),
        header_bytes=end - position,
    )


def _parse_struct(data: bytes, position: int, depth: int) -> tuple[dict[int, Any], int]:
    """The integers and structures of a structure by the number of their field, and where it ends.

    Raises:
        IndexError: the data ends within it, or it is deeper than any header.
    """
    if depth > _MAXIMUM_DEPTH:
        raise IndexError
    values: dict[int, Any] = {}
    number = 0
    while (head := data[position]) != 0:
        position += 1
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, position = _parse_integer(data, position)
        if kind == _INTEGER:
            values[number], position = _parse_integer(data, position)
        elif kind == _STRUCT:
            values[number], position = _parse_struct(data, position, depth + 1)
        else:
            position = _skip(data, position, kind, depth)
    return values, position + 1


def _skip(data: bytes, position: int, kind: int, depth: int) -> int:
    """Where a value of another kind ends; see `_parse_struct`."""
    if kind in _FIXED_BYTES:
        return position + _FIXED_BYTES[kind]
    if kind in {4, _INTEGER, 6}:
        return _parse_varint(data, position)[1]
    if kind == 8:
        size, position = _parse_varint(data, position)
        return position + size
    if kind == _STRUCT:
        return _parse_struct(data, position, depth + 1)[1]
    if kind not in {9, 10}:
        raise IndexError
    head = data[position]
    size, position = (head >> 4, position + 1) if head >> 4 < 15 else _parse_varint(data, position + 1)
    for _ in range(size):
        inner = head & 15
        position = position + 1 if inner in {1, 2} else _skip(data, position, inner, depth + 1)
        if position > len(data):
            raise IndexError
    return position


def _parse_integer(data: bytes, position: int) -> tuple[int, int]:
    """A signed integer of 32 bits, and where it ends."""
    value, position = _parse_varint(data, position)
    value &= 0xFFFFFFFF
    return (value >> 1) ^ -(value & 1), position


def _parse_varint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned integer, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        shift += 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise IndexError
