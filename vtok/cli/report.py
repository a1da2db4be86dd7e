"""`vtok report`: one page from what the stages wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtok import console


def report(path: Annotated[Path, typer.Argument(help="A run's folder.")]) -> int:
    """Write report.html: data, rejects, reconstructions, codebook, losses, samples, timings."""
    from vtok.report import write_report

    written = write_report(path)
    console.say(f"report: {written} ({console.size(written.stat().st_size)})")
    console.say(f"next: open {written} in a browser")
    return 0
