"""How long the chaos is, and the seed that replays it."""

from __future__ import annotations

import os
import random

LENGTH = int(os.environ.get("SYNCD_CHAOS", "0"))  # how many kills, turns…; 0: the few of CI
_GIVEN = os.environ.get("SYNCD_CHAOS_SEED", "")
SEED = int(_GIVEN) if _GIVEN else random.SystemRandom().randrange(1_000_000) if LENGTH else 1
REPLAY = f"replay it with SYNCD_CHAOS_SEED={SEED}"


def dice(*path: object) -> random.Random:
    """A generator of its own for each test, so that one test's throws do not move another's."""
    return random.Random("/".join(map(str, (SEED, *path))))


def databases(in_ci: str) -> list[str]:
    """On which a test runs, for ``database_url``: in CI on one of them, as the suite has to be short."""
    return ["sqlite", "postgres"] if LENGTH else [in_ci]
