"""What comes and goes by mail in a company's week: customers' threads, invoices, newsletters, and the odd ones.

`week` gives the mails of one mailbox in the order of their times. A mail's body is a MIME part as Gmail's JSON has it
(`leaf`, `multi`, `file`), without the part ids, which `numbered` gives.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.header import Header
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from datetime import datetime

    from syncd.sandbox.dataset import Company, Somebody

Part = dict[str, Any]
Odd = Callable[["random.Random", "Company"], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """``thread``: a number that mails of one thread share. ``to``, ``sender``: header values."""

    thread: int
    at: datetime
    sender: str
    to: str
    subject: str
    body: Part
    labels: tuple[str, ...]
    cc: str = ""


# (subject, labels, [(who, what)]): who is c(ustomer), o(wner of the mailbox) or s(upport); {…} are filled in.
_STORIES = (
    (
        "Pricing for {n} seats",
        ("IMPORTANT", "Label_1"),
        (
            ("c", "Hi {owner},\n\ncan we have {product} for all {n} of us? Is there a price per year?\n\n{contact}"),
            ("o", "Hi {contact},\n\n{n} seats are {amount} EUR a year, onboarding included. The offer is attached."),
            ("c", "Thanks, that is within what we planned. I will take it to {other} on {day}.\n\n{contact}"),
        ),
    ),
    (
        "Export stops at 10,000 rows",
        ("Label_1",),
        (
            ("c", "Hello,\n\nsince {day} our export ends after 10,000 rows, without any error. Screenshot below."),
            ("s", "Hi {contact}, we see it here too: a limit meant for previews. The fix goes out tonight."),
            ("c", "It works again, all {n}00 rows. Thank you for being so quick!"),
        ),
    ),
    (
        "Invoice {n}-07",
        ("Label_2", "CATEGORY_UPDATES"),
        (
            ("o", "Dear {contact},\n\nattached is invoice {n}-07 over {amount} EUR, due within 30 days."),
            ("c", "Our purchase order number is missing on it (PO-88{n}). Could you send it again?"),
            ("o", "Of course, here is the corrected one."),
        ),
    ),
    (
        "Meeting on {day}?",
        ("Label_1", "CATEGORY_PERSONAL"),
        (
            ("c", "Do you have half an hour on {day}? {other} would like to see the new reports."),
            ("o", "{day} at 14:00 suits me well. An invitation is on its way 📅"),
        ),
    ),
    (
        "Security questionnaire",
        ("Label_1",),
        (
            ("c", "Before we can sign, our security team needs answers to the attached questions by {day}."),
            ("o", "Forwarded to {support}, you will have them by {day}. Question 14 we should talk about."),
        ),
    ),
    (
        "Webhook signatures fail since {day}",
        ("Label_1", "IMPORTANT"),
        (
            ("c", "All webhooks are refused here, 'bad signature'. Did the secret change?\n\nX-Request-Id: 7f{n}c0"),
            ("s", "The secret was rotated on {day}; the new one is in your settings under Webhooks → Secrets."),
        ),
    ),
    (
        "Renewal and the second team",
        ("Label_1",),
        (("c", "Hi {owner}, two things: the renewal is due, and our second team ({n} people) wants to join. Call?"),),
    ),
    (
        "Training for new colleagues",
        ("Label_1",),
        (
            ("c", "We hired four people. Is there a recording of the training, or do we book a new one?"),
            ("o", "There is one, and we are happy to add a live hour for questions.\nhttps://{domain}/training"),
        ),
    ),
    (
        "Notes from the call with {customer}",
        ("CATEGORY_PERSONAL",),
        (("s", "Three points:\n- they want single sign-on first\n- the budget is approved\n- next call {day}"),),
    ),
)  # fmt: skip
_NEWS = (
    "Five dashboards that people really open", "What we shipped in the autumn", "The quiet cost of copied spreadsheets",
    "You are invited: data breakfast", "Your weekly summary is ready",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


def leaf(kind: str, content: str, charset: str = "UTF-8", *, declared: str | None = None, late: bool = False) -> Part:
    """A part of text. ``declared``: the charset that the header claims; ``late``: comes as a handle, not as data."""
    data = content.encode(charset, "replace")
    body: Part = {"size": len(data), "data": base64.urlsafe_b64encode(data).decode()}
    return {
        "mimeType": kind,
        "filename": "",
        "headers": [header("Content-Type", f'{kind}; charset="{declared or charset}"')],
        "body": body | ({"late": True} if late else {}),
    }


def multi(kind: str, *parts: Part) -> Part:
    mime = f"multipart/{kind}"
    return {
        "mimeType": mime,
        "filename": "",
        "headers": [header("Content-Type", f'{mime}; boundary="b-{len(parts)}-{kind}"')],
        "body": {"size": 0},
        "parts": list(parts),
    }


def file(name: str, kind: str, size: int, *, inline: bool = False) -> Part:
    """A part with bytes that are made when they are asked for."""
    disposition = f'{"inline" if inline else "attachment"}; filename="{name}"'
    headers = [header("Content-Type", f'{kind}; name="{name}"'), header("Content-Disposition", disposition)]
    if inline:
        headers.append(header("Content-ID", f"<{name}>"))
    return {"mimeType": kind, "filename": name, "headers": headers, "body": {"size": size, "late": True}}


def header(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


def worded(value: str) -> str:
    """A header's value as it travels: RFC 2047 words where it is not ASCII."""
    return value if value.isascii() else Header(value, "utf-8").encode()


def numbered(part: Part, at: str = "") -> Part:
    """The part with part ids: "" for the root, then 0, 0.1 and so on."""
    below = [numbered(child, f"{at}.{n}" if at else str(n)) for n, child in enumerate(part.get("parts", ()))]
    return {"partId": at, **part} | ({"parts": below} if below else {})


def address(one: Somebody) -> str:
    return f"{worded(one.name)} <{one.email}>"


def week(rng: random.Random, company: Company, owner: Somebody, now: datetime, days: int, per_day: int) -> list[Mail]:
    """About ``per_day`` threads a day over ``days``, most of them in the last hours, sorted by time."""
    numbers = count()
    made = [mail for _ in range(days * per_day) for mail in _story(rng, company, owner, now, days, next(numbers))]
    for odd in _ODD:
        at = now - _age(rng, days)
        said: dict[str, Any] = {"thread": next(numbers), "at": at, "to": _mailbox(owner)} | odd(rng, company)
        made.append(Mail(**said))
    return sorted(made, key=lambda mail: (mail.at, mail.thread))


def _age(rng: random.Random, days: int) -> timedelta:
    return timedelta(minutes=20, days=days * 0.95 * rng.random() ** 2.5)


def _mailbox(one: Somebody) -> str:
    return f'"{one.first}" <{one.email.capitalize()}>'  # addresses are not case-sensitive, and people write them so


def _story(
    rng: random.Random, company: Company, owner: Somebody, now: datetime, days: int, thread: int
) -> Iterator[Mail]:
    """A customer's thread: the mails answer each other with hours between, and the last is before ``now``."""
    subject, labels, turns = _STORIES[thread % len(_STORIES)]
    customer, support = rng.choice(company.customers), company.role("Support")
    contact, other = rng.sample(customer.contacts, 2)
    words = {
        "owner": owner.first, "contact": contact.first, "other": other.first, "support": support.first,
        "customer": customer.name, "product": f"{company.name} Desk", "domain": company.domain,
        "n": rng.randint(12, 90), "amount": f"{rng.randint(4, 60)},{rng.randint(1, 9)}00", "day": rng.choice(_DAYS),
    }  # fmt: skip
    people = {"c": contact, "o": owner, "s": support}
    age = _age(rng, days)
    archived = age > timedelta(days=1) and rng.random() < 0.6
    title, before = subject.format(**words), ""
    for n, (who, said) in enumerate(turns):
        sender = people[who]
        to = contact if who != "c" else owner
        place = ("SENT",) if sender is owner else ("UNREAD",) * (rng.random() < 0.4) + ("INBOX",) * (not archived)
        content = said.format(**words)
        yield Mail(
            thread=thread,
            at=now - age * (1 - n / (len(turns) + 1)),
            sender=address(sender),
            to=address(to) if sender is owner else _mailbox(owner),
            cc=address(other) if n == 0 and rng.random() < 0.3 else "",
            subject=title if n == 0 else f"Re: {title}",
            body=_body(rng, content, before, title),
            labels=(*place, *labels),
        )
        before = content


def _body(rng: random.Random, content: str, before: str, title: str) -> Part:
    """Plain text, or plain text beside HTML, with the file that the text speaks of."""
    quoted = "".join(f"> {line}\n" for line in before.splitlines())
    plain = leaf("text/plain", f"{content}\n\n{quoted}" if quoted else content)
    if rng.random() < 0.7:
        marked = "<br>".join(content.splitlines()) + (f"<blockquote>{before}</blockquote>" if before else "")
        plain = multi("alternative", plain, leaf("text/html", f'<div dir="ltr">{marked}</div>'))
    if "Screenshot" in content:
        return multi("related", plain, file("screenshot.png", "image/png", rng.randint(30_000, 90_000), inline=True))
    if "attached" in content or "corrected" in content:
        name = f"{title.replace(' ', '-')}.pdf"
        return multi("mixed", plain, file(name, "application/pdf", rng.randint(20_000, 400_000)))
    return plain


# ---- the odd ones: each gives the members of its mail


def _newsletter(rng: random.Random, company: Company) -> dict[str, Any]:
    title = rng.choice(_NEWS)
    html = (
        "<html><head><style>.a{color:#333}</style></head><body>"
        f'<div style="display:none">{title} {"͏ " * 30}</div><table width="600"><tr><td style="padding:40px">'
        f"<h1>{title}</h1><p>Numbers &amp; stories, once a week.</p>"
        '<a href="https://news.example/read?u=1&amp;c=42">Read more</a></td></tr></table></body></html>'
    )
    return {
        "sender": "Data Weekly <news@dataweekly.example>",
        "to": "undisclosed-recipients:;",
        "subject": title,
        "body": leaf("text/html", html),
        "labels": ("INBOX", "UNREAD", "CATEGORY_PROMOTIONS"),
    }


def _one(sender: str, subject: str, body: Part, *labels: str) -> Odd:
    def odd(rng: random.Random, company: Company) -> dict[str, Any]:
        return {"sender": sender, "subject": subject, "body": body, "labels": labels}

    return odd


def _draft(rng: random.Random, company: Company) -> dict[str, Any]:
    to = company.customers[0].contacts[0]
    content = f"Hi {to.first},\n\nthank you for the talk today. What I promised to send:\n"
    return {
        "sender": address(company.role("Account Executive")),
        "to": address(to),
        "subject": "After our call",
        "body": leaf("text/plain", content),
        "labels": ("DRAFT",),
    }


def _bounce(rng: random.Random, company: Company) -> dict[str, Any]:
    status = leaf("message/delivery-status", "Action: failed\nStatus: 5.1.1\n")
    lost = leaf("message/rfc822", "Subject: Offer\n\nHi Max, …\n")
    words = leaf("text/plain", "Address not found. Your message to max@nowhere.example was not delivered.")
    return {
        "sender": "Mail Delivery Subsystem <mailer-daemon@googlemail.example>",
        "subject": "Delivery Status Notification (Failure)",
        "body": multi("report", words, status, lost),
        "labels": ("INBOX", "UNREAD", "CATEGORY_UPDATES"),
    }


_INVITATION = multi(
    "mixed",
    multi(
        "alternative",
        leaf("text/plain", "You have been invited: Quarterly review"),
        leaf("text/html", "<p>You have been <b>invited</b>: Quarterly review</p>"),
        leaf("text/calendar", "BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR"),
    ),
    file("invite.ics", "application/ics", 412),
)
_ODD: tuple[Odd, ...] = (
    _newsletter,
    _one(
        "佐藤 由美 <yumi.sato@kitahama.example>",
        "お見積りのご依頼",
        leaf("text/plain", "お世話になっております。\n年間30席のお見積りをお願いいたします。\n佐藤", "Shift_JIS"),
        "INBOX", "IMPORTANT",
    ),
    _one(
        "Lucía Peña <lucia@almacenes.example>",
        "Factura de septiembre",
        leaf("text/plain", "Hola,\n¿podríais enviar otra vez la factura? La dirección cambió.\nLucía", "ISO-8859-1"),
        "INBOX", "Label_2",
    ),
    _newsletter,
    _one(
        "Benoît Lefèvre <b.lefevre@ateliers.example>",
        "Devis – 1 200 €",
        leaf("text/plain", "Bonjour,\nle devis de 1 200 € nous convient – où signer ?\nBenoît", "windows-1252"),
        "INBOX",
    ),
    _bounce,
    _one(
        "Lena Groß <lena@werkstatt.example>",
        "Öffnungszeiten",
        leaf("text/plain", "Wir schließen über die Feiertage früher. Grüße", declared="iso-8859-1"),
        "INBOX", "UNREAD",
    ),
    _one(
        "Build Robot <robot@ci.example>",
        "",
        leaf("text/plain", "", declared="x-unknown"),
        "CATEGORY_UPDATES",
    ),
    _one(
        "Calendar <calendar@invites.example>",
        "Invitation: Quarterly review",
        _INVITATION,
        "INBOX", "CATEGORY_UPDATES",
    ),
    _one(
        "Archive <logs@backup.example>",
        "Nightly report",
        leaf("text/plain", "0 errors, 41,210 files\n" * 900, late=True),
        "INBOX", "CATEGORY_UPDATES",
    ),
    _draft,
    _one(
        "Prize Office <win@lucky.example>",
        "You have been chosen!!!",
        leaf("text/html", "<p>Claim <a href='http://lucky.example'>here</a>"),
        "SPAM", "UNREAD",
    ),
    _one(
        "Old Supplier <sales@oldsupplier.example>",
        "Last chance",
        leaf("text/plain", "Prices go up next week."),
        "TRASH",
    ),
)  # fmt: skip
