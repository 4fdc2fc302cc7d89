"""The mailboxes that a From or To header names, as mail programs write them. Pure; belongs to `gmail_mail`.

The standard's grammar is not theirs: ``ceo@acme.example <x@evil.example>`` and ``Doe, John <j@x.example>`` break it and
are common. So what is in angle brackets is the address, and everything before it is its name.
"""

from __future__ import annotations

import re
from contextlib import suppress
from email.utils import getaddresses

# What a comma may hide in, and the commas. No alternative is tried anew over what another one scanned: it is linear.
_TOKEN = re.compile(r"""\\.|"(?:[^"\\]|\\.)*"|\([^()<>]*\)|<[^<>]*>|<[^<>,;]*|[,;]""", re.DOTALL)


def mailboxes(header: str) -> list[tuple[str, str]]:
    """(name, address) of each, the name without quotes. What holds no address is left out."""
    found: list[tuple[str, str]] = []
    began = at = 0  # of the name and of the piece: a piece without an address belongs to the name of the next
    angle: re.Match[str] | None = None
    for token in [*_TOKEN.finditer(header), None]:
        if token is not None and token[0] not in {",", ";"}:
            angle = token if token[0].startswith("<") else angle
            continue
        end = token.start() if token else len(header)
        if angle is not None and "@" in angle[0]:
            name = _plain(header[began : angle.start()]) or _plain(header[angle.end() : end]).strip("()")
            found.append((name, angle[0].strip("<> \t\r\n")))
        elif angle is None:
            found += _bare(header[at:end])
        named = angle is not None or "@" in header[at:end]
        at, angle = end + 1, None
        began = at if named else began
    return found


def _bare(piece: str) -> list[tuple[str, str]]:
    """A piece without angle brackets: an address, with a comment or the name of a group around it."""
    with suppress(RecursionError):  # of comments in comments
        return [one for one in getaddresses([re.sub(r'^[^@"(]*:', "", piece)]) if "@" in one[1]]
    return []


def _plain(name: str) -> str:
    """A display name without its quotes and escapes."""
    return " ".join(re.sub(r"\\(.)|\"", r"\1", name, flags=re.DOTALL).split())
