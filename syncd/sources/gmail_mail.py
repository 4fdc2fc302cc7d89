"""A mail as Gmail's JSON has it, as records: MIME parts, charsets, addresses, readable text. Pure; belongs to `gmail`.

Nothing here raises on what a mail or an answer holds: a member may be missing, null or of another type, a charset
may be unknown or a lie, HTML may be anything.
"""

from __future__ import annotations

import base64
import html as markup
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.errors import HeaderParseError
from email.header import decode_header
from typing import TYPE_CHECKING, Any

from inscriptis import get_text
from inscriptis.css_profiles import CSS_PROFILES
from inscriptis.model.config import ParserConfig

from syncd.records import Conversation, Message, without
from syncd.sources.gmail_addresses import mailboxes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_VOLATILE = frozenset({"attachmentId", "historyId"})  # a handle made anew in each answer; a stamp of label changes
_LONGEST_HTML = 300_000  # characters of HTML that are made readable
_DEEPEST = 60  # levels of MIME that are read
_LONGEST_WORDS = 4000  # characters of a subject or of one name whose RFC 2047 words are decoded
_CHARSETS = {  # declared → what is meant by it, as browsers read it (WHATWG); Python knows the strict ones, or none
    **dict.fromkeys(("gb2312", "gbk", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
    **dict.fromkeys(("iso-8859-8-i", "iso-8859-8-e"), "iso-8859-8"),
    **dict.fromkeys(("iso-8859-6-i", "iso-8859-6-e"), "iso-8859-6"),
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac_cyrillic",
}


def conversation(raw: Mapping[str, Any], thread_id: str) -> Conversation:
    """A thread of ``threads.get``; its messages are rows of their own. Named by the subject of its first message."""
    thread = {key: value for key, value in raw.items() if key != "messages"}
    subject = next((_header(obj(one.get("payload")), "Subject") for one in objs(raw.get("messages"))), "")
    # any label change gives the thread another historyId, and snippet is its newest message's
    stable = {**without(thread, _VOLATILE | {"snippet"}), "subject": subject}
    return Conversation(
        external_id=thread_id, kind="email_thread", name=_unworded(subject) or None, raw=thread, stable=stable
    )


def message(raw: Mapping[str, Any], thread_id: str, texts: Mapping[str, str]) -> Message:
    """A message of ``threads.get``. ``texts``: by part id, the data of the parts that `long_texts` named."""
    payload = obj(raw.get("payload"))
    pieces = _pieces(payload, texts)
    readable = "\n\n".join(filter(None, (plain.strip() or _readable(html) for plain, html in pieces)))
    author = next(iter(_addresses(payload, "From")), {"email": None, "name": None})
    labels = sorted(one for one in listed(raw.get("labelIds")) if isinstance(one, str))
    return Message(
        external_id=raw["id"],
        conversation_id=text(raw.get("threadId")) or thread_id,
        author_id=author["email"],
        author=author["name"] or author["email"],
        sent_at=_moment(raw.get("internalDate")),
        text=readable or _tidy(markup.unescape(text(raw.get("snippet")))) or None,
        html="\n".join(html for _, html in pieces if html.strip()) or None,
        labels=labels,
        recipients=[one for kind in ("To", "Cc", "Bcc", "Reply-To") for one in _addresses(payload, kind)],
        attachments=[_attachment(raw["id"], part) for part in _leaves(payload) if _is_file(part)],
        raw=raw,
        # fetched texts are no part of raw, yet a message that has them is not the one without
        stable={**without(raw, _VOLATILE), "labelIds": labels, **({"texts": dict(texts)} if texts else {})},
    )


def is_sound(raw: object) -> bool:
    """Whether a message of ``threads.get`` has an id, its stamp and its parts in the documented form (contract)."""
    if not isinstance(raw, dict) or not text(raw.get("id")) or not number(text(raw.get("historyId"))):
        return False
    waiting, labels = [raw.get("payload")], raw.get("labelIds", [])
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict) or not isinstance(part.get("body", {}), dict):
            return False
        if not isinstance(part.get("headers", []), list) or not isinstance(part.get("parts", []), list):
            return False
        waiting += part.get("parts", [])
    return isinstance(labels, list)


def long_texts(raw: Mapping[str, Any]) -> dict[str, str]:
    """The text parts that came as a handle instead of data (contract): part id → attachmentId."""
    return {
        text(part.get("partId")): handle
        for part in _leaves(obj(raw.get("payload")))
        if not _is_file(part)
        and (handle := text(obj(part.get("body")).get("attachmentId")))
        and not obj(part.get("body")).get("data")
    }


def _pieces(part: Mapping[str, Any], texts: Mapping[str, str], depth: int = 0) -> list[tuple[str, str]]:
    """A body as (plain, html) pieces in reading order; the forms of a multipart/alternative make one piece."""
    if depth > _DEEPEST or _is_file(part):
        return []
    if _kind(part).startswith("multipart/"):
        below = [piece for child in objs(part.get("parts")) for piece in _pieces(child, texts, depth + 1)]
        if _kind(part) != "multipart/alternative":
            return below
        return [("\n".join(plain for plain, _ in below if plain), "\n".join(html for _, html in below if html))]
    charset = re.search(r"charset\s*=\s*[\"']?([^\s\"';]+)", _header(part, "Content-Type"), re.IGNORECASE)
    data = obj(part.get("body")).get("data") or texts.get(text(part.get("partId")))
    content = _decoded(_bytes(text(data)), charset[1] if charset else "")
    return [("", content)] if _kind(part) == "text/html" else [(content, "")]


def _leaves(payload: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of a message in reading order; an attached mail is one part."""
    waiting = [payload]
    while waiting:
        part = waiting.pop()
        if _kind(part).startswith("multipart/"):
            waiting += reversed(objs(part.get("parts")))
        else:
            yield part


def _kind(part: Mapping[str, Any]) -> str:
    return text(part.get("mimeType")).lower() or "text/plain"


def _is_file(part: Mapping[str, Any]) -> bool:
    """Whether a part is an attachment rather than something to read."""
    if _kind(part).startswith("multipart/"):
        return False
    named = text(part.get("filename")) or _header(part, "Content-Disposition").lower().startswith("attachment")
    return bool(named) or _kind(part) not in {"text/plain", "text/html"}


def _attachment(message_id: str, part: Mapping[str, Any]) -> dict[str, Any]:
    part_id = text(part.get("partId"))
    disposition = _header(part, "Content-Disposition").lower()
    return {
        "id": f"{message_id}:{part_id}",  # contract: attachmentId is another one in each answer, partId is not
        "part_id": part_id,
        "name": text(part.get("filename")) or None,
        "mimetype": _kind(part),
        "size": number(obj(part.get("body")).get("size")),
        "inline": disposition.startswith("inline") or bool(not disposition and _header(part, "Content-ID")),
    }


def _addresses(payload: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The mailboxes of all headers of that name: ``{"type", "name", "email"}``, addresses in lower case."""
    return [
        {"type": kind.lower().replace("-", "_"), "name": _unworded(name) or None, "email": address.lower()}
        for name, address in mailboxes(_header(payload, kind))
    ]


def _header(part: Mapping[str, Any], name: str) -> str:
    """The value of a header, several of one name joined by commas; case does not count."""
    name = name.lower()  # a mail has dozens of headers, and is asked for several: this is its dearest loop
    values = [
        text(one.get("value"))
        for one in listed(part.get("headers"))
        if isinstance(one, dict) and isinstance(held := one.get("name"), str) and held.lower() == name
    ]
    return ", ".join(value for value in values if value)


def _unworded(value: str) -> str:
    """A header or a name with its RFC 2047 words decoded, or as it is where they are broken.

    `decode_header` takes the square of the length where words do not end, so it sees no further than to the last end.
    """
    end = value.rfind("?=", 0, _LONGEST_WORDS) + 2
    if end < 2:
        return value.strip()
    try:
        parts = decode_header(value[:end])
    except (HeaderParseError, ValueError):
        return value
    # beside encoded words decode_header hands plain text back as bytes in this codec
    decoded = (
        one if isinstance(one, str) else _decoded(one, charset or "raw-unicode-escape") for one, charset in parts
    )
    return ("".join(decoded) + value[end:]).strip()


def _bytes(data: str) -> bytes:
    """base64url, with or without padding; what does not belong there is skipped."""
    kept = re.sub(r"[^A-Za-z0-9_-]", "", data.replace("+", "-").replace("/", "_"))
    kept = kept[:-1] if len(kept) % 4 == 1 else kept
    return base64.urlsafe_b64decode(kept + "=" * (-len(kept) % 4))


def _decoded(data: bytes, charset: str) -> str:
    """Text in a declared charset that may be wrong, missing or unknown."""
    charset = _CHARSETS.get(charset.lower(), charset)
    if charset.lower() in {"", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252", "cp1252"}:
        strictly = ("utf-8", "cp1252")  # these are declared where it is neither, and never fail by themselves
    else:
        strictly = (charset, "utf-8")
    for name, errors in (*((one, "strict") for one in strictly), (charset or "utf-8", "replace")):
        with suppress(LookupError, ValueError):
            return data.decode(name, errors)
    return data.decode("utf-8", "replace")


def _readable(html: str) -> str:
    """HTML as text, links kept. Sizes and tables go first: by a mail's word inscriptis would pad lines without end."""
    html = re.sub(
        r"(?i)\bstyle\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s>]+)",
        lambda style: 'style="display:none"' if re.search(r"(?i)display\s*:\s*none", style[0]) else "",
        html[:_LONGEST_HTML],
    )
    html = re.sub(r"(?i)</t[dh]\s*>", " </span>", re.sub(r"(?i)<t[dh]\b", "<span", html))
    html = re.sub(r"(?i)<(/?)(?:table|tr)\b", r"<\1div", html)
    try:
        return _tidy(get_text(html, ParserConfig(css=CSS_PROFILES["strict"], display_links=True)))
    except Exception:  # noqa: BLE001 - whatever a mail does to the parser, its words are wanted
        return _tidy(markup.unescape(re.sub(r"<[^<>]*>", " ", html)))


def _tidy(content: str) -> str:
    """Without the invisible filling of newsletters, blanks at ends of lines and runs of empty lines."""
    content = re.sub(r"(?:[\u034f\u200b\u200c\u00ad\ufeff]\s*){3,}", "", content)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in content.split("\n"))).strip()


def _moment(value: object) -> datetime | None:
    """Milliseconds since 1970, as a number or as digits."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number(value)) if number(value) else None
    except OverflowError:
        return None


def number(value: object) -> int:
    """A whole number or its digits; 0 for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def text(value: object) -> str:
    """Text; "" for anything else."""
    return value if isinstance(value, str) else ""


def obj(value: object) -> dict[str, Any]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[Any]:
    """A JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else []


def objs(value: object) -> list[dict[str, Any]]:
    """The objects in a JSON array."""
    return [one for one in listed(value) if isinstance(one, dict)]
