"""The index of a samples folder: how each drawn clip came to be."""

from __future__ import annotations

import pyarrow as pa

SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # mp4 below the folder
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("codes", pa.list_(pa.field("element", pa.uint32(), nullable=False)), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("class_name", pa.string()),
        pa.field("prior", pa.string(), nullable=False),  # fingerprints
        pa.field("tokenizer", pa.string(), nullable=False),
        pa.field("temperature", pa.float64(), nullable=False),
        pa.field("top_k", pa.int32()),
        pa.field("top_p", pa.float64()),
    ]
)
