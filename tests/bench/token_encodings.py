"""Bits a code and milliseconds a random row group, by encoding, zstd level and rows in a row group of a token store.

    python -m tests.bench.token_encodings [--rows 512]

Two kinds of codes of a codebook of 16,384: uniform ones (14 bits each: nothing can be saved), and ones with the habits
of real ones, drawn by Zipf's law and staying the same from latent frame to latent frame with a probability of 0.7. The
codes' column alone is counted, and the whole part with footer, names and the histogram of usage. Fewer rows in a row
group make a random row cheaper, and footers larger.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tokens import tokens_schema
from tests.bench.token_reading import CODEBOOK, GRID, LENGTH, token_row
from vtok.files import table_bytes
from vtok.tokens import parts

ENCODINGS: dict[str, dict[str, Any]] = {
    "BYTE_STREAM_SPLIT": {"use_dictionary": parts._DICTIONARY, "column_encoding": parts._SPLIT_BYTES},
    "dictionary": {"use_dictionary": [*parts._DICTIONARY, "codes.list.element"]},
    "plain": {"use_dictionary": parts._DICTIONARY},
}
LEVELS, GROUPS = (1, 3, 9), (64, 128, 256, 512)


def uniform(rows: int, random: np.random.Generator) -> np.ndarray:
    return random.integers(0, CODEBOOK, (rows, LENGTH), dtype=np.uint16)


def lifelike(rows: int, random: np.random.Generator) -> np.ndarray:
    """Zipf's law, and codes that mostly stay as they are in time."""
    t, h, w = GRID
    weights = 1 / np.arange(1, CODEBOOK + 1)
    codes = random.choice(CODEBOOK, (rows, t, h, w), p=weights / weights.sum()).astype(np.uint16)
    for frame in range(1, t):
        codes[:, frame] = np.where(random.random((rows, h, w)) < 0.7, codes[:, frame - 1], codes[:, frame])
    return codes.reshape(rows, LENGTH)


def measured(
    table: pa.Table, usage: str, group: int, level: int, encoding: dict[str, Any]
) -> tuple[float, float, float]:
    """Bits a code of the column, bits a code of the whole part, ms to read a random row group's codes."""
    options = {"compression_level": level, **encoding}
    data = table_bytes(table, row_group_size=group, metadata={b"vtok": usage.encode()}, **options)
    codes = table.num_rows * LENGTH
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    chunks = [each.column(number) for each in groups for number in range(each.num_columns)]
    column = sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema == "codes.list.element")
    times = []
    for number in itertools.islice(itertools.cycle(range(file.num_row_groups)), 7):
        began = time.perf_counter()
        file.read_row_group(number, columns=["codes"])
        times.append(time.perf_counter() - began)
    return 8 * column / codes, 8 * len(data) / codes, 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="of the part")
    rows = parser.parse_args().rows
    print("| codes | encoding | zstd | rows a group | codes' column | whole part | a group |\n|" + "---|" * 7)
    for kind in (uniform, lifelike):
        codes = kind(rows, np.random.default_rng(0))
        made = [token_row(number, row, GRID) for number, row in enumerate(codes)]
        schema = tokens_schema(CODEBOOK)
        table = pa.Table.from_arrays([parts._column(made, field) for field in schema], schema=schema)
        usage = parts._pack(np.bincount(codes.reshape(-1), minlength=CODEBOOK))
        for (name, encoding), level, group in itertools.product(ENCODINGS.items(), LEVELS, GROUPS):
            column, whole, ms = measured(table, usage, group, level, encoding)
            print(f"| {kind.__name__} | {name} | {level} | {group} | {column:.2f} | {whole:.2f} | {ms:.1f} ms |")


if __name__ == "__main__":
    main()
