"""The status page with 10,000 connections, as ``python -m benchmarks.status_page`` measures it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.measure import ROOT, Failed
from benchmarks.tables import Table

if TYPE_CHECKING:
    from benchmarks.subjects import Setting


def table(setting: Setting) -> list[Table]:
    """Raises `Failed` where it says nothing."""
    which = ["sqlite"] if setting.quick else []
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.status_page", *which],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"},
    )
    lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    if not lines or done.returncode not in {0, 1}:
        raise Failed((done.stderr.strip().splitlines() or ["the status page was not measured"])[-1][-300:])
    title, *rest = lines
    rows = [re.split(r"\s{2,}", re.sub("[│┃|]", "  ", line).strip()) for line in rest if re.search("[0-9A-Za-z]", line)]
    wide = max(map(len, rows), default=1)
    head, *body = [[*row, *[""] * (wide - len(row))] for row in rows] or [["nothing"]]
    return [Table(f"The status page and the API: {title.strip()}", head, list(body))]
