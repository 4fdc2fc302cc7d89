"""What the process counts, for ``GET /metrics``. Labels name sources, never connections: their number is unbounded."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from syncd import __version__


class Metrics:
    """One registry per process (or per test)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.cycles = Counter("syncd_cycles", "Cycles ended", ["source", "status"], registry=self.registry)
        self.runs = Counter("syncd_runs", "Runs ended", ["source", "status"], registry=self.registry)
        self.records = Counter("syncd_records", "Rows written", ["source", "change"], registry=self.registry)
        self.calls = Counter("syncd_calls", "Calls to vendors", ["source", "method", "outcome"], registry=self.registry)
        self.call_seconds = Histogram("syncd_call_seconds", "Time of a call", ["source"], registry=self.registry)
        self.running = Gauge("syncd_runs_running", "Runs under way", ["source"], registry=self.registry)
        Gauge("syncd_build_info", "Version", ["version"], registry=self.registry).labels(__version__).set(1)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
