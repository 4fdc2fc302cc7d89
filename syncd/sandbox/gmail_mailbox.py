"""What an emulated Gmail mailbox holds, how it changes, and the history it keeps of that. `gmail` serves it."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from syncd.sandbox.dataset.gmail import Mail, address, header, leaf, multi, numbered, week, worded
from syncd.sandbox.google import TOKEN_URL, claims_of, unpadded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from syncd.sandbox.dataset import Company
    from syncd.sandbox.world import World

Message = dict[str, Any]

CLIENT = {"client_id": "4711-sandbox.apps.googleusercontent.com", "client_secret": "GOCSPX-sandbox"}
_RETENTION = timedelta(days=8)
_SYSTEM = (
    "CHAT", "SENT", "INBOX", "IMPORTANT", "TRASH", "DRAFT", "SPAM", "CATEGORY_FORUMS", "CATEGORY_UPDATES",
    "CATEGORY_PERSONAL", "CATEGORY_PROMOTIONS", "CATEGORY_SOCIAL", "STARRED", "UNREAD",
)  # fmt: skip


class Mailbox:
    """``threads``: thread id → message ids, oldest first. ``log``: history records with the moment they were made.

    A reader of INBOX whose first read came when the sandbox began holds the threads that `holds` answers.
    """

    def __init__(self, world: World, company: Company) -> None:
        self._world, self._company = world, company
        self._rng = world.random("gmail", company.workspace)
        self._owner = company.role("Account Executive")
        self.workspace, self.address = company.workspace, self._owner.email
        secret = hashlib.sha256(f"{world.options.seed}/{company.workspace}".encode()).hexdigest()
        self.credentials = {"refresh_token": f"1//{secret[:40]}", **CLIENT}
        self.scopes, self.revoked = {"gmail.readonly"}, False
        self.labels = {name: name for name in _SYSTEM} | {"Label_1": "Customers", "Label_2": "Invoices"}
        self.messages: dict[str, Message] = {}
        self.threads: dict[str, list[str]] = {}
        self.unreadable: dict[str, int] = {}
        self.log: list[dict[str, Any]] = []
        self.counter = self._rng.randint(20_000, 90_000)
        self._forgotten = self.counter
        self._service_account: tuple[str, rsa.RSAPublicKey] | None = None
        self._handles = itertools.count()
        self._label_numbers = itertools.count(3)
        self._held: set[str] = set()  # threads
        self._hinted: set[str] = set()  # messages: whoever reads their thread while they are in INBOX holds it
        self._fill()
        self._held = set(self.newest_threads(["INBOX"])[:5])
        self._served = set(self._held)

    def _fill(self) -> None:
        options = self._world.options
        threads: dict[int, str] = {}
        for mail in week(self._rng, self._company, self._owner, self._world.born, options.days, options.mails_per_day):
            made = self.add(mail, threads.get(mail.thread))
            threads[mail.thread] = made["threadId"]
            if self._rng.random() < 0.25:
                self.record(None, [made], mail.at)  # real history has such records: nothing visible changed

    def add(self, mail: Mail, thread: str | None = None, *, now: datetime | None = None) -> Message:
        """A mail comes into being; ``now``: when the mailbox learns of it, where that is not the mail's own time."""
        at = int(mail.at.timestamp() * 1000)
        one = f"{(at << 20) | self._rng.getrandbits(20):016x}"
        own = [("From", mail.sender), ("To", mail.to), ("Cc", mail.cc), ("Subject", worded(mail.subject))]
        own += [("Date", mail.at.strftime("%a, %d %b %Y %H:%M:%S +0000")), ("Message-ID", f"<{one}@mail.example>")]
        payload = numbered(mail.body)
        payload["headers"] = [*(header(name, value) for name, value in own if value), *payload["headers"]]
        message: Message = {
            "id": one,
            "threadId": thread or one,
            "labelIds": list(mail.labels),
            "snippet": html.escape(_words(payload)[:180]),
            "sizeEstimate": 900 + _size(payload),
            "internalDate": str(at // 1000 * 1000),
            "payload": payload,
        }
        self.messages[one] = message
        self.threads.setdefault(message["threadId"], []).append(one)
        self.threads[message["threadId"]].sort(key=lambda each: int(self.messages[each]["internalDate"]))
        self.record("messagesAdded", [message], now or mail.at)
        return message

    def record(self, kind: str | None, messages: list[Message], at: datetime, labels: Iterable[str] = ()) -> None:
        """One history record, by a counter with gaps; each message bears its id from now on."""
        self.counter += self._rng.randint(1, 30)
        record: dict[str, Any] = {"id": self.counter, "at": at, "messages": [_reference(one) for one in messages]}
        if kind:
            seen = kind != "messagesDeleted"
            record[kind] = [
                {"message": _reference(one) | ({"labelIds": list(one["labelIds"])} if seen and one["labelIds"] else {})}
                | ({"labelIds": list(labels)} if labels else {})
                for one in messages
            ]
        for one in messages:
            one["historyId"] = str(self.counter)
            if at >= self._world.born and kind is None:
                self._hinted.add(one["id"])
            elif at >= self._world.born and "INBOX" in one["labelIds"] and kind != "messagesDeleted":
                self._held.add(one["threadId"])
        self.log.append(record)
        self.counter += self._rng.choice((0, 0, 1, 4))  # the mailbox's id may be ahead of its last record

    # ---- what a reader of INBOX holds

    def holds(self) -> set[str]:
        """Threads of which a record since the beginning told that a message was in INBOX, and the first five."""
        hinted = [self.messages[one] for one in self._hinted if one in self.messages]
        return self._held | {one["threadId"] for one in hinted if "INBOX" in one["labelIds"]}

    def served(self, thread: str) -> None:
        """A thread was read as a whole: who holds it then holds it for good."""
        if thread in self.holds():
            self._held.add(thread)
            self._served.add(thread)

    def forgotten(self, start: int) -> None:
        """Somebody was told that the history since ``start`` is gone. Of threads that were never read nobody can know
        any more that they were in INBOX; they are found if a message that changed since is there still.
        """
        unread = self._held - self._served
        self._held -= unread
        self._hinted |= {
            one["id"]
            for one in self.messages.values()
            if one["threadId"] in unread and int(one["historyId"]) > start and "INBOX" in one["labelIds"]
        }

    # ---- changes

    def floor(self) -> int:
        """History that starts below this is forgotten."""
        expired = self._world.clock.now() - _RETENTION
        while self.log and self.log[0]["at"] < expired:
            self._forgotten = int(self.log.pop(0)["id"])
        return self._forgotten

    def relabel(self, message: Message, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Labels as two records, as Gmail does; only what changes is recorded."""
        more = [label for label in add if label not in message["labelIds"]]
        less = [label for label in remove if label in message["labelIds"]]
        if unknown := set(more) - set(self.labels):
            raise ValueError(f"no such label: {', '.join(sorted(unknown))}")
        for kind, labels in (("labelsAdded", more), ("labelsRemoved", less)):
            if labels:
                kept = [label for label in message["labelIds"] if label not in less or kind == "labelsAdded"]
                message["labelIds"] = kept + (labels if kind == "labelsAdded" else [])
                self.record(kind, [message], self._world.clock.now(), labels)

    def delete(self, message: Message) -> None:
        """For ever: not the bin."""
        self.record("messagesDeleted", [message], self._world.clock.now())
        del self.messages[message["id"]]
        self.threads[message["threadId"]].remove(message["id"])
        if not self.threads[message["threadId"]]:
            del self.threads[message["threadId"]]

    def newest_threads(self, labels: Iterable[str]) -> list[str]:
        """Threads with a message that carries all of ``labels``, those with the newest message first."""
        wanted = set(labels)
        return self.by_newest({one["threadId"] for one in self.messages.values() if wanted <= set(one["labelIds"])})

    def by_newest(self, threads: Iterable[str]) -> list[str]:
        """Recordings list threads by their newest message of all, whichever message carries the label."""
        newest = {one: (self.messages[self.threads[one][-1]]["internalDate"], one) for one in threads}
        return sorted(newest, key=newest.__getitem__, reverse=True)

    def thread_history_id(self, thread: str) -> str:
        return str(max(int(self.messages[one]["historyId"]) for one in self.threads[thread]))

    # ---- handles of attachments: another one at each get

    def handle(self, message: str, part: str) -> str:
        at = self._world.clock.now().timestamp()
        return base64.urlsafe_b64encode(orjson.dumps([at, message, part, next(self._handles)])).decode()

    def opened(self, handle: str) -> tuple[str, str, datetime]:
        """Message, part and birth of a handle. Raises ValueError."""
        at, message, part, _ = orjson.loads(base64.urlsafe_b64decode(handle))
        return message, part, datetime.fromtimestamp(at, UTC)

    # ---- who may read it

    def granted_by(self, kind: str, form: Mapping[str, Any]) -> bool:
        """Whether a form of the token endpoint speaks of this mailbox."""
        if kind == "refresh_token":
            return bool(form.get("refresh_token") == self.credentials["refresh_token"])
        try:
            return bool(claims_of(str(form.get("assertion")))["sub"] == self.address)
        except (ValueError, KeyError, TypeError):
            return False

    def trusts(self, assertion: str) -> bool:
        """Whether the mailbox's service account signed it."""
        claims = claims_of(assertion)
        if self._service_account is None or claims.get("iss") != self._service_account[0]:
            return False
        signed, _, signature = assertion.rpartition(".")
        try:
            self._service_account[1].verify(unpadded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True

    # ---- what the control endpoint may do

    def act(self, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises KeyError on an unknown id, ValueError on a senseless body."""
        done: Mapping[str, Any] = getattr(self, f"_do_{action}")(body)
        return done

    def _do_add(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        contact = self._rng.choice(self._rng.choice(self._company.customers).contacts)
        thread = body.get("thread_id")
        first = self.messages[self.threads[thread][0]] if thread else None
        title = f"Re: {_subject(first)}" if first else "A question about the new reports"
        part = leaf("text/plain", str(body.get("text", f"Hi,\n\nhow do I share a report?\n\n{contact.first}")))
        if "html" in body:
            page = leaf("text/html", str(body["html"]))
            part = multi("alternative", part, page) if "text" in body else page
        now = self._world.clock.now()
        mail = Mail(
            thread=0,
            at=datetime.fromisoformat(body["at"]) if "at" in body else now,
            sender=str(body.get("from", address(contact))),
            to=self.address,
            subject=str(body.get("subject", title)),
            body=part,
            labels=tuple(body.get("labels", ("INBOX", "UNREAD"))),
        )
        made = self.add(mail, thread, now=now)
        if body.get("unreadable"):
            self.unreadable[made["threadId"]] = int(body["unreadable"])
        return _reference(made)

    def _do_edit(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        old = self._asked(body, "DRAFT")
        if "DRAFT" not in old["labelIds"]:
            raise ValueError("only a draft can be edited; a mail never changes")
        text = str(body.get("text", "Hi,\n\nthe offer is attached, and here is the second thought.\n"))
        now = self._world.clock.now()
        mail = Mail(
            thread=0,
            at=now,
            sender=self.address,
            to="",
            subject=_subject(old),
            body=leaf("text/plain", text),
            labels=("DRAFT",),
        )
        made = self.add(mail, old["threadId"])
        self.delete(old)
        return _reference(made) | {"replaced": old["id"]}

    def _do_delete(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if "thread_id" in body:
            gone = [self.messages[one] for one in self.threads[body["thread_id"]]]
        else:
            gone = [self._asked(body)]
        for message in gone:
            self.delete(message)
        return {"deleted": [one["id"] for one in gone], "threadId": gone[0]["threadId"]}

    def _do_label(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        message = self._asked(body)
        self.relabel(message, body.get("add", () if "remove" in body else ("STARRED",)), body.get("remove", ()))
        return _reference(message) | {"labelIds": message["labelIds"]}

    def _do_trash(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        message = self._asked(body)
        self.relabel(message, ("TRASH",), ("INBOX",))
        return _reference(message)

    def _do_spam(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        message = self._asked(body)
        self.relabel(message, ("SPAM",), ("INBOX",))
        return _reference(message)

    def _do_untrash(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        message = self._asked(body, "TRASH")
        self.relabel(message, (), ("TRASH",))
        return _reference(message)

    def _do_touch(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        message = self._asked(body)
        self.record(None, [message], self._world.clock.now())
        return _reference(message)

    def _do_expire_history(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.counter += 1
        self._forgotten = self.counter
        self.log.clear()
        return {"floor": str(self._forgotten)}

    def _do_name_label(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        label, name = str(body.get("id") or f"Label_{next(self._label_numbers)}"), str(body["name"])
        self.labels[label] = name
        return {"id": label, "name": name}

    def _do_delete_label(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        label = str(body["id"])
        if label in _SYSTEM:
            raise ValueError("Gmail's own labels cannot be deleted")
        name = self.labels[label]
        for message in list(self.messages.values()):
            self.relabel(message, (), (label,))
        del self.labels[label]
        return {"id": label, "name": name}

    def _do_scopes(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.scopes = set(map(str, body["scopes"]))
        return {"scopes": sorted(self.scopes)}

    def _do_service_account(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        email = f"syncd@{self.workspace}.iam.gserviceaccount.example"
        self._service_account = (email, key.public_key())
        form = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
        info = {"type": "service_account", "client_email": email, "private_key": pem, "private_key_id": "k1"}
        return {"service_account": info | {"token_uri": TOKEN_URL}, "subject": self.address}

    def _do_revoke(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.revoked = True
        return {"revoked": self.address}

    def _do_restore(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.revoked = False
        return {"restored": self.address}

    def _asked(self, body: Mapping[str, Any], label: str = "INBOX") -> Message:
        """The message that ``id`` names, else the newest with that label."""
        if "id" in body:
            return self.messages[body["id"]]
        found = [one for one in self.messages.values() if label in one["labelIds"]]
        if not found:
            raise ValueError(f"there is no message with the label {label}; name one by id")
        return max(found, key=lambda one: (one["internalDate"], one["id"]))


def _reference(message: Message) -> dict[str, Any]:
    return {"id": message["id"], "threadId": message["threadId"]}


def _subject(message: Message) -> str:
    return next((str(one["value"]) for one in message["payload"]["headers"] if one["name"] == "Subject"), "")


def _words(part: Mapping[str, Any]) -> str:
    """The first text of a mail, as a snippet shows it."""
    if part["mimeType"].startswith("text/"):
        charset = part["headers"][-1]["value"].partition('charset="')[2].rstrip('"')
        content = base64.urlsafe_b64decode(part["body"]["data"]).decode(
            charset if charset != "x-unknown" else "utf-8", "replace"
        )
        return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", content)).split())
    return next((found for child in part.get("parts", ()) if (found := _words(child))), "")


def _size(part: Mapping[str, Any]) -> int:
    return int(part["body"]["size"]) + sum(_size(child) for child in part.get("parts", ()))


def parts_of(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield part
    for child in part.get("parts", ()):
        yield from parts_of(child)


def mime(part: Mapping[str, Any]) -> bytes:
    """The part as it would travel."""
    headers = "".join(f"{one['name']}: {one['value']}\r\n" for one in part["headers"])
    if "parts" not in part:
        data = part["body"].get("data") or base64.urlsafe_b64encode(bytes(part["body"]["size"])).decode()
        body = base64.encodebytes(base64.urlsafe_b64decode(data))
        return f"{headers}Content-Transfer-Encoding: base64\r\n\r\n".encode() + body
    boundary = part["headers"][-1]["value"].partition('boundary="')[2].rstrip('"')
    inner = b"".join(f"--{boundary}\r\n".encode() + mime(child) + b"\r\n" for child in part["parts"])
    return f"{headers}\r\n".encode() + inner + f"--{boundary}--\r\n".encode()
