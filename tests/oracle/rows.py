"""The known faults, a maker each: small files of the kinds that vtok once got wrong, with what is right about them.

A row's name begins with its letter (1 and 2: blockers) in the list of faults.
"""

from __future__ import annotations

from tests.oracle import rows_pixels, rows_streams, rows_time
from tests.oracle.making import ROWS

__all__ = ["ROWS", "rows_pixels", "rows_streams", "rows_time"]
