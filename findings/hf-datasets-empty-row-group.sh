#!/usr/bin/env bash
# datasets fails on a Parquet file that has a row group of no rows.
#
# Versions:  datasets 5.2.0, pyarrow 26.0.1.
# Behaviour: pyarrow writes an empty table as one row group of 0 rows and reads it back. load_dataset takes the first
#            row group's size as its batch size, and so fails, also if other files beside it have rows. The same table
#            in a file without row groups loads beside other files. Alone, it is refused too, as a split without rows:
#            ValueError: Instruction "train" corresponds to no data!
# Seen:      row group of 0 rows: pyarrow reads 0 rows; load_dataset beside a file of 1 row: ArrowInvalid: BatchSize
#                must be greater than 0, got 0
#            no row group: pyarrow reads 0 rows; load_dataset beside a file of 1 row: [{'x': 7}]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1
cd "$work"
cat > show.py <<'PY'
import logging
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
logging.disable(logging.ERROR)
empty = pa.table({"x": pa.array([], pa.int32())})
pq.write_table(pa.table({"x": pa.array([7], pa.int32())}), "rows.parquet")
pq.write_table(empty, "group.parquet")
pq.ParquetWriter("none.parquet", empty.schema).close()


def load(name: str) -> str:
    """What load_dataset makes of the file beside one of 1 row."""
    try:
        found = datasets.load_dataset("parquet", data_files=["rows.parquet", name], split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        return f"{type(error.__cause__).__name__}: {error.__cause__}"
    return str(list(found))


seen = []
for name, groups, words in (("group.parquet", [0], "row group of 0 rows"), ("none.parquet", [], "no row group")):
    footer = pq.read_metadata(name)
    assert [footer.row_group(number).num_rows for number in range(footer.num_row_groups)] == groups
    seen.append(load(name))
    rows = pq.read_table(name).num_rows
    print(f"{words}: pyarrow reads {rows} rows; load_dataset beside a file of 1 row: {seen[-1]}")
if seen != ["ArrowInvalid: BatchSize must be greater than 0, got 0", "[{'x': 7}]"]:
    sys.exit("this has changed")
PY
HF_HOME="$work/hf" HF_HUB_OFFLINE=1 venv/bin/python show.py
