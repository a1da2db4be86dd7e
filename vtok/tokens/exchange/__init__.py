"""Token stores from and to other tools' formats, so that neither coming nor going loses anything."""

from __future__ import annotations

from vtok.tokens.exchange import ds, hdf5, hf, litdata, mds, tars
from vtok.tokens.exchange.base import Format

FORMATS: dict[str, Format] = {
    "hf": hf,
    "mds": mds,
    "litdata": litdata,
    "ds": ds,
    "webdataset": tars,
    "hdf5": hdf5,
}
"""Format names, as `--format` takes them."""
