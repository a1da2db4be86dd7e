#!/usr/bin/env bash
# Ray Data takes page_checksum_verification and does not verify page checksums.
#
# Versions:  ray[data] 2.60.0, pyarrow 26.0.1.
# Behaviour: ray.data.read_parquet(..., page_checksum_verification=True) reads a file with one flipped bit without an
#            error and returns another value than was written. pyarrow's own readers, asked the same, raise. Ray takes
#            an option that does not exist just as silently.
# Seen:      written 500; one bit flipped
#            pyarrow.parquet: OSError: could not verify page integrity, CRC checksum verification failed for
#                page_ordinal 0
#            pyarrow.dataset: the same
#            ray, page_checksum_verification=True: read 501
#            ray, no_such_option=True: read 501
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ray[data]==2.60.0' pyarrow==26.0.1
cd "$work"
cat > show.py <<'PY'
import logging
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pd
import pyarrow.parquet as pq
import ray

FILE = Path("x.parquet").absolute()
plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
pq.write_table(pa.table({"x": pa.array(range(1000), pa.int64())}), FILE, write_page_checksum=True, **plain)
data, value = bytearray(FILE.read_bytes()), (500).to_bytes(8, "little")
assert data.count(value) == 1
data[data.index(value)] ^= 1
FILE.write_bytes(data)
print("written 500; one bit flipped")


def with_parquet() -> int:
    return pq.read_table(FILE, page_checksum_verification=True)["x"][500].as_py()


def with_dataset() -> int:
    options = pd.ParquetFragmentScanOptions(page_checksum_verification=True)
    layout = pd.ParquetFileFormat(default_fragment_scan_options=options)
    return pd.dataset(FILE, format=layout).to_table()["x"][500].as_py()


def with_ray(option: str) -> int:
    return ray.data.read_parquet(str(FILE), **{option: True}).take_all()[500]["x"]


logging.disable(logging.WARNING)
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False, _temp_dir=sys.argv[1])
readers = {
    "pyarrow.parquet": with_parquet,
    "pyarrow.dataset": with_dataset,
    "ray, page_checksum_verification=True": lambda: with_ray("page_checksum_verification"),
    "ray, no_such_option=True": lambda: with_ray("no_such_option"),
}
seen = []
for name, reader in readers.items():
    try:
        seen.append(f"read {reader()}")
    except Exception as error:
        seen.append(f"{type(error).__name__}: {error}")
    print(f"{name}: {seen[-1]}")
ray.shutdown()
if not all("CRC checksum verification failed" in text for text in seen[:2]) or seen[2:] != ["read 501"] * 2:
    sys.exit("this has changed")
PY
export HOME=$work RAY_USAGE_STATS_ENABLED=0 RAY_DATA_DISABLE_PROGRESS_BARS=1
venv/bin/python show.py "$work/ray"
