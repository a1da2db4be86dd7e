"""Does a Parquet file carry page checksums? Readers verify those that are there and are silent where there are none.

pyarrow does not tell, so the header of each column chunk's first page is looked at: in Thrift's compact protocol the
optional `crc` is the field right behind the two sizes
(https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift, struct PageHeader).
"""

from __future__ import annotations

from typing import IO

import pyarrow.parquet as pq

_NEXT_I32 = 0x15  # "the next field, an i32"; type, uncompressed size, compressed size and crc are the fields 1 to 4
_HEAD = 32  # the three fields before the crc take 18 bytes at most


def has_page_checksums(stream: IO[bytes], layout: pq.FileMetaData) -> bool:
    """Whether the first page of every column chunk has one.

    Args:
        stream: the file, open for reading; its position is changed.
        layout: the file's metadata.
    """
    for group in range(layout.num_row_groups):
        rows = layout.row_group(group)
        if not rows.num_rows:
            continue
        for number in range(layout.num_columns):
            column = rows.column(number)
            offsets = [column.data_page_offset]
            if column.has_dictionary_page:
                offsets.append(column.dictionary_page_offset)
            stream.seek(min(offsets))
            if not _has_crc(stream.read(_HEAD)):
                return False
    return True


def _has_crc(head: bytes) -> bool:
    at = 0
    for _ in range(3):
        if head[at : at + 1] != bytes([_NEXT_I32]):
            return False
        at += 1
        while head[at : at + 1] >= b"\x80":  # a varint goes on while the highest bit is set
            at += 1
        at += 1
    return head[at : at + 1] == bytes([_NEXT_I32])
