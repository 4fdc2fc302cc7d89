"""The old design as a measured process: ``python -m benchmarks.old_design SPEC`` in an environment of its own.

``lines``: connections of one source; ``days``: how far back; ``selector``: what to ask of Gong. It starts a worker with
two processes, waits until that is there, sends a task for each connection and waits for all. Told is what all of them
used from then on, by the kernel's clock of each process: not the worker's start, as it runs for long.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

TICKS_S = os.sysconf("SC_CLK_TCK")


def used_s(pid: int) -> float:
    """CPU seconds of a process and of those that it started."""
    ticks = 0
    with suppress(OSError):
        ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    children = list[int]()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return ticks / TICKS_S + sum(map(used_s, children))


def main(spec: dict[str, Any]) -> dict[str, object]:
    from benchmarks.old_design import tasks
    from benchmarks.old_design.store import ENGINE, Base

    Base.metadata.create_all(ENGINE)
    ENGINE.dispose()
    command = ["-m", "celery", "-A", "benchmarks.old_design.tasks", "worker", "-c", "2", "-l", "ERROR"]
    worker = subprocess.Popen([sys.executable, *command, "--without-gossip", "--without-mingle"], stdout=sys.stderr)
    try:
        tasks.ready.delay().get(timeout=120)
        before_s = used_s(os.getpid())
        sent = [
            getattr(tasks, f"sync_{line['source']}").delay(
                line["workspace_id"], spec["base"], line["credentials"], spec["days"], spec["selector"]
            )
            for line in spec["lines"]
        ]
        stored = sum(one.get(timeout=1800) for one in sent)
        return {"stored": stored, "cpu_s": used_s(os.getpid()) - before_s}
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=60)


if __name__ == "__main__":
    os.environ.setdefault("C_FORCE_ROOT", "1")  # Celery refuses to run as root with pickle; it is JSON here
    print(json.dumps(main(json.loads(sys.argv[1]))))
