"""Durations as people write them in settings and on the command line."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = {"s": 3650 * 86400, "m": 3650 * 1440, "h": 3650 * 24, "d": 3650}  # ten years


def parse_duration(value: object) -> timedelta:
    """``"90s"``, ``"10m"``, ``"24h"`` or ``"7d"``; a number alone could mean anything. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", str(value))
    if not match:
        raise ValueError("write a duration such as 90s, 10m, 24h or 7d")
    amount = float(match[1])
    if amount > _LONGEST[match[2]]:
        raise ValueError("a duration may be ten years at most")
    return timedelta(**{_UNITS[match[2]]: amount})


def format_duration(value: timedelta) -> str:
    """A form that `parse_duration` reads back, in the largest unit of which there are two: 24h, 7d, 10m, 60s."""
    seconds = value.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    return f"{seconds:g}s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
