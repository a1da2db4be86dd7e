"""The index of a part-wise artefact and the metadata of a shard's sample."""

from __future__ import annotations

import pyarrow as pa

INDEX = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # file name below the artefact's folder
        pa.field("split", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),  # clips in the file
        pa.field("rejects", pa.int64(), nullable=False),  # planned clips of the file that became rejects
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        # of a Parquet part's end (footer, its length, magic), for who reads footers only; null: no Parquet, or older
        pa.field("footer_sha256", pa.string()),
    ]
)
"""One row a part; the same for clips, shards and token stores. The card holds the sha256 of this file."""

FOOTER_MEMBER = "__vtok__/"
"""Last entry of every shard: a folder, so no reader takes it for a part of a sample. Its pax header, of the name
FOOTER_HEADER, has the shard's description (plan, split, rows, rejects, sources) as the comment."""

FOOTER_HEADER = "__vtok__/PaxHeaders/footer"

MANIFEST_NAME = "_clips.table"
"""Beside the shards: the manifest of the clips that were written, with their sources' sha256. Parquet, too."""
