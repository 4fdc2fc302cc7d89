"""The part of the settings by which cycles are run: by one process alone, or by workers anywhere."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from syncd.durations import Duration
from syncd.settings_oauth import Model


def _schema(name: str) -> str:
    if not name.isascii() or not name.isidentifier() or name != name.lower() or len(name) > 40:
        raise ValueError("write a name of small letters, digits and _, of at most 40, such as syncd_queue")
    if name == "public" or name.startswith("pg_"):
        raise ValueError("the queue's tables have a schema of their own, such as syncd_queue")
    return name


class EngineSettings(Model):
    """``kind``: ``local``, each daemon runs what it claims; ``pgqueuer``: `syncd worker` processes run what daemons put
    into a queue in PostgreSQL.

    ``schema``: where the queue's tables are. ``heartbeat``: a worker that is silent for so long has lost its jobs.
    """

    kind: Literal["local", "pgqueuer"] = "local"
    in_schema: Annotated[str, AfterValidator(_schema)] = Field(default="syncd_queue", alias="schema")
    heartbeat: Duration = Field(default=timedelta(seconds=30), ge=timedelta(seconds=1))
