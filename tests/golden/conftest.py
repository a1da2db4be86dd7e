"""Prints one line at the end: how many golden cases were checked, and which have no check yet."""

from __future__ import annotations

import pytest

from tests.golden.cases import discover, golden_root
from tests.golden.registry import check_of


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    cases = discover()
    open_ids = [case.id for case in cases if check_of(case) is None]
    line = f"golden: {len(cases)} cases under {golden_root()}, {len(cases) - len(open_ids)} with a check"
    terminalreporter.write_line(f"{line}; no check yet ({len(open_ids)}): {', '.join(open_ids) or 'none'}")
