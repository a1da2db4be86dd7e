"""The token store's Parquet contract: one row a view of a clip."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

METADATA_KEY = b"vtok"
"""Key-value metadata of every part: JSON with tokenizer fingerprint, codebook size, grid, schema version, health."""

WHOLE = "whole"
"""`view_id` of a clip that was encoded as it is."""

DEFAULTS: dict[str, Any] = {
    "view_id": WHOLE,
    "flip": False,
    "height": -1,
    "width": -1,
    "decoder": "",
    "cond_frames": None,
    "audio_codes": None,
}
"""What the columns that version 1 lacks hold in its rows."""


def code_type(codebook_size: int) -> pa.DataType:
    """uint16 up to 65,536 codes, uint32 above."""
    return pa.uint16() if codebook_size <= 65_536 else pa.uint32()


def tokens_schema(codebook_size: int, audio_codebook_size: int = 0) -> pa.Schema:
    """Columns of a part of version 2. Codes are in raster order (t, h, w); (clip_id, view_id) is unique in a store.

    Args:
        codebook_size: of the video tokenizer.
        audio_codebook_size: of the audio tokenizer; 0: there is none.
    """
    code, audio = (
        pa.list_(pa.field("element", code_type(k), nullable=False)) for k in (codebook_size, audio_codebook_size)
    )
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("view_id", pa.string(), nullable=False),  # which window, stride, flip or size of the clip
            pa.field("codes", code, nullable=False),
            pa.field("grid_t", pa.int32(), nullable=False),  # of this row; rows may differ
            pa.field("grid_h", pa.int32(), nullable=False),
            pa.field("grid_w", pa.int32(), nullable=False),
            pa.field("num_frames", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),  # pixels that were encoded; -1: unknown
            pa.field("width", pa.int32(), nullable=False),
            pa.field("flip", pa.bool_(), nullable=False),  # mirrored left to right before it was encoded
            pa.field("fps", pa.float64(), nullable=False),  # frames per second of the clip as sampled
            pa.field("start_time", pa.float64(), nullable=False),  # span in the source, seconds
            pa.field("end_time", pa.float64(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("label", pa.int32()),
            pa.field("class_name", pa.string()),
            pa.field("caption", pa.string()),
            pa.field("source", pa.string(), nullable=False),
            pa.field("source_sha256", pa.string(), nullable=False),
            pa.field("decoder", pa.string(), nullable=False),  # with its version, e.g. "pyav 18.1.0"; "": unknown
            pa.field("shard", pa.string(), nullable=False),
            pa.field("windowed_from", pa.string()),  # clip_id of the longer encoding that these codes were cut from
            pa.field("cond_frames", pa.binary()),  # raw uint8 (n, height, width, 3): the first n frames of the view
            pa.field("audio_codes", audio),
        ]
    )
