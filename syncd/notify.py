"""Messages to people and programs outside: by webhook, to Slack, by mail. What they say, and how they go.

What they tell holds names and errors from outside. In Slack's text only ``<``, ``>`` and ``&`` have a meaning, and are
escaped: a workspace called ``<!channel>`` calls nobody. In a mail's header there is no line break but ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Protocol

import aiosmtplib
import httpx
import orjson

from syncd import __version__
from syncd.alerts import FAILING, LATE, RECOVERED, TEST, UNREAD, Notice
from syncd.logs import redact
from syncd.net import retry_after_s
from syncd.policy import MISCONFIGURED, NEEDS_REAUTH
from syncd.ways_out import PLACEHOLDER, whose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from syncd.settings_alerts import AlertSettings, MailAlerts
    from syncd.store import Delivery

_PATIENCE_S = 10.0  # of one attempt, from the first packet to the last
_NAMED = 5  # connections in a text; a webhook has all that the notice names
_LONGEST_NAME = 80
_OFFENCES = {400, 413, 422}  # HTTP: this message is refused, another may pass
_ONE = {
    NEEDS_REAUTH: "needs new credentials",
    MISCONFIGURED: "waits until a setting is corrected",
    FAILING: "fails",
    LATE: "is late",
    RECOVERED: "is read again",
}
_MANY = {
    NEEDS_REAUTH: "need new credentials",
    MISCONFIGURED: "wait until a setting is corrected",
    FAILING: "fail",
    LATE: "are late",
    RECOVERED: "are read again",
}


class Undelivered(Exception):
    """A message did not get through; ``str()`` names no address and no secret.

    ``refused``: the receiver takes others, but not this one. ``after_s``: it asked to wait so long.
    """

    def __init__(self, words: str, *, refused: bool = False, after_s: float | None = None) -> None:
        super().__init__(words)
        self.refused, self.after_s = refused, after_s


@dataclass(frozen=True, slots=True)
class Message:
    """``key``: the same for each attempt. ``facts``: for programs. ``title``, ``lines``: for people, plain text."""

    key: str
    facts: Mapping[str, Any]
    title: str
    lines: Sequence[str]
    link: str


class Receiver(Protocol):
    """Where messages go; raises `Undelivered`."""

    async def deliver(self, message: Message) -> None: ...


def message_of(delivery: Delivery, link: str) -> Message:
    """``link``: where people reach the status page."""
    notice, who = delivery.notice, delivery.who
    way_out = notice.way_out
    if notice.count == 1 and who and who[0][1]:  # what is stored names nobody
        way_out = way_out.replace(PLACEHOLDER, whose(*who[0][1:3]))
    page = f"{link}/connections/{notice.connections[0]}" if notice.count == 1 else f"{link}/?source={notice.source}"
    facts: dict[str, Any] = {
        "id": f"{delivery.id}-{delivery.made_at:%Y%m%d%H%M%S}",
        "event": notice.event,
        "source": notice.source,
        "count": notice.count,
        "connections": [{"id": one[0], "workspace_id": one[1], "account": one[2]} for one in who],
        "outage": notice.outage is not None,
        "remaining": notice.remaining,
        "reason": notice.reason,
        "way_out": way_out,
        "since": _iso(notice.since),
        "told_at": _iso(delivery.made_at),
        "link": page,
    }
    return Message(facts["id"], facts, _title(notice, who), _lines(replace(notice, way_out=way_out), who), page)


def trial_message(link: str) -> Message:
    """What `syncd alerts --test` sends."""
    now = datetime.now(UTC)
    facts: dict[str, Any] = {
        "id": f"test-{now:%Y%m%d%H%M%S}",
        "event": TEST,
        "source": None,
        "count": 0,
        "connections": [],
        "outage": False,
        "remaining": 0,
        "reason": "somebody ran `syncd alerts --test`",
        "way_out": "",
        "since": None,
        "told_at": _iso(now),
        "link": f"{link}/",
    }
    lines = ["Nothing is wrong: somebody ran `syncd alerts --test`."]
    return Message(facts["id"], facts, "A test message of syncd", lines, f"{link}/")


def _title(notice: Notice, who: Sequence[tuple[int, str | None, str]]) -> str:
    product = notice.source.capitalize()
    if notice.count == 1:
        whose = f" of {_name(who[0])}" if who else ""
        return f"{product}{whose} {_ONE[notice.event]}"
    if notice.outage and notice.event != RECOVERED and notice.cause == UNREAD:
        return f"{product} does not answer: {notice.count} connections {_MANY[notice.event]}"
    return f"{product}: {notice.count} connections {_MANY[notice.event]}"


def _lines(notice: Notice, who: Sequence[tuple[int, str | None, str]]) -> list[str]:
    lines = []
    if notice.count > 1 and who:
        named = ", ".join(_name(one) for one in who[:_NAMED])
        rest = notice.count - min(_NAMED, len(who))
        lines.append(f"Whose: {named}" + (f" and {rest} more" if rest > 0 else ""))
    if notice.reason:
        lines.append(f"Why: {_flat(notice.reason)}")
    if notice.since is not None:
        began = "The trouble began" if notice.event == RECOVERED else "Since"
        lines.append(f"{began}: {notice.since:%Y-%m-%d %H:%M} UTC")
    if notice.way_out:
        lines.append(_flat(notice.way_out))
    return lines


def _name(one: tuple[int, str | None, str]) -> str:
    connection_id, workspace, account = one
    name = _flat(workspace or f"connection {connection_id}")[:_LONGEST_NAME]
    return f"{name} ({_flat(account)[:_LONGEST_NAME]})" if account else name


def _flat(text: str) -> str:
    """In one line, without what is not printed: a name must not look like a line of ours."""
    return "".join(char if char.isprintable() else " " for char in text)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ── receivers ───────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def open_receivers(settings: AlertSettings) -> AsyncIterator[dict[str, Receiver]]:
    """By their names in the settings, those that are set: ``webhook``, ``slack``, ``mail``."""
    async with httpx.AsyncClient(timeout=_PATIENCE_S, follow_redirects=False) as client:
        receivers: dict[str, Receiver] = {}
        if url := settings.webhook.url.get_secret_value():
            receivers["webhook"] = Webhook(client, url, settings.webhook.secret.get_secret_value())
        if url := settings.slack.url.get_secret_value():
            receivers["slack"] = SlackHook(client, url)
        if settings.mail.host:
            receivers["mail"] = Mail(settings.mail)
        yield receivers


def names(settings: AlertSettings) -> list[str]:
    """Of the receivers that are set."""
    hooks = {"webhook": settings.webhook.url.get_secret_value(), "slack": settings.slack.url.get_secret_value()}
    return [name for name, where in {**hooks, "mail": settings.mail.host}.items() if where]


class Webhook:
    """JSON, signed: ``X-Syncd-Signature: sha256=HMAC-SHA256(secret, timestamp + "." + body)`` in hexadecimal."""

    def __init__(self, client: httpx.AsyncClient, url: str, secret: str) -> None:
        self._client, self._url, self._secret = client, url, secret.encode()

    async def deliver(self, message: Message) -> None:
        body = orjson.dumps({**message.facts, "title": message.title})
        sent_at = str(int(time.time()))
        signed = hmac.new(self._secret, f"{sent_at}.".encode() + body, hashlib.sha256).hexdigest()
        headers = {
            "X-Syncd-Delivery": message.key,
            "X-Syncd-Timestamp": sent_at,
            "X-Syncd-Signature": f"sha256={signed}",
        }
        await _post(self._client, self._url, body, headers)


class SlackHook:
    """An incoming webhook of Slack's."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client, self._url = client, url

    async def deliver(self, message: Message) -> None:
        lines = [f"*{_escaped(message.title)}*", *(_escaped(line) for line in message.lines)]
        lines.append(f"<{_escaped(message.link)}|Status page>")
        # Without link_names a bare @name calls nobody; nothing here shall unfold into a picture.
        body = {"text": "\n".join(lines), "unfurl_links": False, "unfurl_media": False}
        await _post(self._client, self._url, orjson.dumps(body), {}, told_in_body=True)


class Mail:
    """One plain text to all recipients."""

    def __init__(self, settings: MailAlerts) -> None:
        self._settings = settings

    async def deliver(self, message: Message) -> None:
        mine, password = self._settings, self._settings.password.get_secret_value()
        try:
            async with asyncio.timeout(_PATIENCE_S * 2):
                await aiosmtplib.send(
                    _mail(mine, message),
                    hostname=mine.host,
                    port=mine.port,
                    username=mine.user or None,
                    password=password or None,
                    use_tls=mine.security == "tls",
                    start_tls=mine.security == "starttls",
                    local_hostname=re.sub(r"[^\w.-]", "", socket.gethostname()) or "localhost",
                    timeout=_PATIENCE_S,
                )
        except aiosmtplib.SMTPException as error:
            words, refused = _refusal(error)
            raise Undelivered(redact(words, [password] if password else []), refused=refused) from None
        except (OSError, TimeoutError, ValueError, MessageError) as error:
            raise Undelivered(f"the mail server cannot be used ({type(error).__name__})") from None


def _mail(settings: MailAlerts, message: Message) -> EmailMessage:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.recipients())
    mail["Subject"] = f"[syncd] {_flat(message.title)}"
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = f"<syncd-{message.key}@{settings.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n".join([message.title, "", *message.lines, "", message.link, ""]))
    return mail


def _refusal(error: aiosmtplib.SMTPException) -> tuple[str, bool]:
    """In words, and whether it is about this message."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        first = error.recipients[0]
        return f"SMTP {first.code}: no recipient was taken: {_flat(str(first.message))[:150]}", False
    if isinstance(error, aiosmtplib.SMTPResponseException):
        offence = isinstance(error, aiosmtplib.SMTPDataError) and error.code >= 500
        return f"SMTP {error.code}: {_flat(str(error.message))[:150]}", offence
    return f"the mail server cannot be used ({type(error).__name__})", False


async def _post(
    client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str], *, told_in_body: bool = False
) -> None:
    """``told_in_body``: a refusal's reason is one word there."""
    sent = {"Content-Type": "application/json", "User-Agent": f"syncd/{__version__}", **headers}
    words = b""
    try:
        async with (
            asyncio.timeout(_PATIENCE_S),
            client.stream("POST", url, content=body, headers=sent) as answer,
        ):
            if told_in_body and not answer.is_success:
                async for part in answer.aiter_raw():
                    words = part[:100]
                    break
    except TimeoutError:
        raise Undelivered(f"no answer within {_PATIENCE_S:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise Undelivered(f"it cannot be reached ({type(error).__name__})") from None
    if answer.is_success:
        return
    why = words.decode("ascii", "replace").strip()
    told = f"HTTP {answer.status_code}" + (f": {why}" if re.fullmatch(r"[a-z_]{3,60}", why) else "")
    raise Undelivered(told, refused=answer.status_code in _OFFENCES, after_s=retry_after_s(answer.headers))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
