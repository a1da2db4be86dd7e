"""A measured value, with what it takes to compare it with another."""

from __future__ import annotations

import pyarrow as pa

METRICS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),  # confidence interval
        pa.field("high", pa.float64()),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("features", pa.string()),  # fingerprint of the feature network
    ]
)
