"""One asyncio daemon that keeps Slack, Gong, Fathom and Gmail of many workspaces in one SQL database.

``await syncd.run_once("slack")`` runs one cycle now and answers its status object, as ``syncd run-once`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncd.daemon import run_once

__all__ = ["__version__", "run_once"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`run_once` is loaded when asked for: ``import syncd`` alone must stay cheap."""
    if name == "run_once":
        from syncd.daemon import run_once

        return run_once
    raise AttributeError(name)
