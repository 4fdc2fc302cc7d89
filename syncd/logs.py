"""Logs on stderr: coloured for a person on a terminal, JSON lines for a machine; secrets taken out in both."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

MASK = "**********"
_SECRET_NAME = re.compile(
    r"(?i)token$|secret|password|authorization|api_key|access_key|private_key|credentials|cookie|assertion"
)
_SECRET_VALUE = re.compile(
    r"(?i)\b(?:xox[a-z]|xapp|xwfp)[-.][\w.-]{6,}|(?<=hooks.slack.com/)[\w/.-]+"  # Slack
    r"|\bya29\.[\w.-]+|\b1//[\w-]{10,}|\bGOCSPX-[\w-]+"  # Google
    r"|\bgAAAAA[\w=-]{20,}"  # Fernet
    r"|\b(?:bearer|basic)\s+[\w.~+/=-]{8,}"
    r"|(?<=access_token=)[^&\s\"']+|(?<=refresh_token=)[^&\s\"']+|(?<=client_secret=)[^&\s\"']+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|(?<=://)([^/\s:@]+):[^/\s@]+(?=@)"  # a password in an address
)
_LIBRARIES = ("httpx", "httpcore", "aiohttp", "slack_sdk", "aiosqlite", "google", "pgqueuer")
_QUIET = (*_LIBRARIES, "apscheduler", "alembic", "asyncio")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` with whatever looks like a secret, and each of ``secrets``, replaced."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return _SECRET_VALUE.sub(MASK, text)


def secrets_of(value: Any, name: str = "") -> set[str]:
    """The texts in credentials whose members' names say that they are secret, at any depth."""
    if isinstance(value, Mapping):
        return {secret for key, part in value.items() for secret in secrets_of(part, str(key))}
    return {value} if isinstance(value, str) and len(value) > 3 and _SECRET_NAME.search(name) else set()


def _redacted(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict) and depth < 6:
        return {
            key: MASK if isinstance(key, str) and _SECRET_NAME.search(key) and part else _redacted(part, depth + 1)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple) and depth < 6:
        return [_redacted(part, depth + 1) for part in value]
    return value if isinstance(value, int | float | bool | type(None)) else redact(str(value))


def _redact_event(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last processor before the renderer: no line leaves with a secret in it."""
    for key, value in event.items():
        if not key.startswith("_"):
            event[key] = MASK if _SECRET_NAME.search(key) and value else _redacted(value)
    return event


def _printable_event(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For a terminal: a vendor's control characters could move the cursor or rename the window."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
    return event


def for_library() -> None:
    """Hand the lines to the standard library's logging of whoever calls us as a library; nothing if it is set up."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                structlog.processors.format_exc_info,
                _redact_event,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )


def set_up(level: str, form: str) -> None:
    """Send structlog's and the standard library's lines through one renderer. ``form``: auto, json or console."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
    ]
    # Local variables stay out of tracebacks: a token may be one of them.
    last: list[Any] = (
        [
            _redact_event,
            _printable_event,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if console
        else [
            structlog.processors.format_exc_info,
            _redact_event,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    )
    if console:
        last.insert(0, structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:  # they print addresses with queries, bodies, parameters
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
