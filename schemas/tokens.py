"""The token store's Parquet contract: one row a clip."""

from __future__ import annotations

import pyarrow as pa

METADATA_KEY = b"vtok"
"""Key-value metadata of every part: JSON with tokenizer fingerprint, codebook size, grid, schema version, health."""


def tokens_schema(codebook_size: int) -> pa.Schema:
    """Columns of a part. Codes are uint16 up to 65,536 codes and uint32 above, in raster order (t, h, w)."""
    code = pa.uint16() if codebook_size <= 65_536 else pa.uint32()
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("codes", pa.list_(pa.field("element", code, nullable=False)), nullable=False),
            pa.field("grid_t", pa.int32(), nullable=False),
            pa.field("grid_h", pa.int32(), nullable=False),
            pa.field("grid_w", pa.int32(), nullable=False),
            pa.field("num_frames", pa.int32(), nullable=False),
            pa.field("fps", pa.float64(), nullable=False),  # frames per second of the clip as sampled
            pa.field("start_time", pa.float64(), nullable=False),  # span in the source, seconds
            pa.field("end_time", pa.float64(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("label", pa.int32()),
            pa.field("class_name", pa.string()),
            pa.field("caption", pa.string()),
            pa.field("source", pa.string(), nullable=False),
            pa.field("source_sha256", pa.string(), nullable=False),
            pa.field("shard", pa.string(), nullable=False),
            pa.field("windowed_from", pa.string()),  # clip_id of the longer encoding that these codes were cut from
        ]
    )
