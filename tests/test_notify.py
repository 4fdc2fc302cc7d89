"""Messages to real receivers on loopback: HTTP servers, a mail server; what they say and what they never say."""

from __future__ import annotations

import asyncio
import email
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.policy import default
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from syncd.alerts import Notice
from syncd.notify import Undelivered, message_of, open_receivers, trial_message
from syncd.settings_alerts import AlertSettings
from syncd.store import Delivery
from syncd.ways_out import PLACEHOLDER

AT = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
EVIL = "<!channel> & <@U1>\r\nBcc: all@example.com\n*Why:* nothing\x1b[2J"


def delivery(event: str = "failing", *who: str, count: int = 0, **more: Any) -> Delivery:
    ids = tuple(range(1, len(who) + 1))
    known: dict[str, Any] = {"reason": "HTTP 503", "way_out": "Nothing to do.", "since": AT - timedelta(minutes=5)}
    notice = Notice(
        event=event, source="slack", cause="unread", connections=ids, count=count or len(who), **(known | more)
    )
    return Delivery(7, "webhook", 1, AT, notice, [(one, name, "") for one, name in zip(ids, who, strict=True)])


class Hook:
    """An HTTP server that keeps what it is sent, and answers as told."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status, self.body, self.headers = 200, b"ok", dict[str, str]()
        self.hang: asyncio.Event | None = None
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        if self.hang is not None:
            await self.hang.wait()
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@pytest_asyncio.fixture
async def hook() -> AsyncIterator[Hook]:
    hook = Hook()
    app = web.Application()
    app.router.add_post("/secret-path", hook.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/secret-path"
    yield hook
    if hook.hang is not None:
        hook.hang.set()
    await runner.cleanup()


async def send(one: Delivery, **settings: Any) -> None:
    async with open_receivers(AlertSettings(**settings)) as receivers:
        (receiver,) = receivers.values()
        await receiver.deliver(message_of(one, "http://page"))


def webhook_at(hook: Hook) -> dict[str, Any]:
    return {"webhook": {"url": hook.url, "secret": "s3cret"}}


def slack_at(hook: Hook) -> dict[str, Any]:
    return {"slack": {"url": hook.url}}


# ── webhook ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_webhook_has_the_documented_shape(hook: Hook) -> None:
    await send(delivery("failing", "acme", "globex", count=25, outage="slack/unread/x"), **webhook_at(hook))
    ((headers, body),) = hook.requests
    assert orjson.loads(body) == {
        "id": "7-20260105120000",
        "event": "failing",
        "source": "slack",
        "count": 25,
        "connections": [
            {"id": 1, "workspace_id": "acme", "account": ""},
            {"id": 2, "workspace_id": "globex", "account": ""},
        ],
        "outage": True,
        "remaining": 0,
        "reason": "HTTP 503",
        "way_out": "Nothing to do.",
        "since": "2026-01-05T11:55:00Z",
        "told_at": "2026-01-05T12:00:00Z",
        "link": "http://page/?source=slack",
        "title": "Slack does not answer: 25 connections fail",
    }
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Syncd-Delivery"] == "7-20260105120000"


async def test_its_signature_is_verified_as_the_readme_says(hook: Hook) -> None:
    await send(delivery("late", "acme"), **webhook_at(hook))
    ((headers, body),) = hook.requests
    readme = Path("README.md").read_text()
    code = readme[readme.index("def is_from_syncd") :].split("```")[0]
    known: dict[str, Any] = {}
    exec("import hashlib, hmac, time\n" + code, known)
    assert known["is_from_syncd"](headers, body, "s3cret")
    assert not known["is_from_syncd"](headers, body + b" ", "s3cret")
    assert not known["is_from_syncd"](headers, body, "another")
    assert not known["is_from_syncd"](headers | {"X-Syncd-Timestamp": "1"}, body, "s3cret")
    signed = hmac.new(b"s3cret", headers["X-Syncd-Timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["X-Syncd-Signature"] == f"sha256={signed}"


@pytest.mark.parametrize(("status", "refused"), [(500, False), (404, False), (302, False), (400, True), (422, True)])
async def test_what_is_not_taken_is_undelivered(hook: Hook, status: int, refused: bool) -> None:
    hook.status, hook.headers = status, {"Location": hook.url}
    with pytest.raises(Undelivered, match=f"^HTTP {status}$") as told:
        await send(delivery("late", "acme"), **webhook_at(hook))
    assert told.value.refused is refused
    assert len(hook.requests) == 1


async def test_a_receiver_may_say_when_to_come_again(hook: Hook) -> None:
    hook.status, hook.headers = 429, {"Retry-After": "90"}
    with pytest.raises(Undelivered) as told:
        await send(delivery("late", "acme"), **webhook_at(hook))
    assert told.value.after_s == 90


async def test_a_receiver_that_hangs_is_given_up_on(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncd.notify._PATIENCE_S", 0.1)
    hook.hang = asyncio.Event()
    with pytest.raises(Undelivered, match="no answer within"):
        await send(delivery("late", "acme"), **webhook_at(hook))


async def test_no_error_names_the_address() -> None:
    url = "http://127.0.0.1:9/services/T0/B0/verysecret"
    with pytest.raises(Undelivered) as told:
        await send(delivery("late", "acme"), slack={"url": url})
    assert "verysecret" not in repr(told.value)
    assert told.value.__suppress_context__


# ── Slack ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def slack_text(hook: Hook, one: Delivery) -> str:
    await send(one, **slack_at(hook))
    return str(orjson.loads(hook.requests[-1][1])["text"])


async def test_slack_is_told_in_a_few_lines(hook: Hook) -> None:
    assert await slack_text(hook, delivery("failing", "acme", "globex", count=3)) == (
        "*Slack: 3 connections fail*\n"
        "Whose: acme, globex and 1 more\n"
        "Why: HTTP 503\n"
        "Since: 2026-01-05 11:55 UTC\n"
        "Nothing to do.\n"
        "<http://page/?source=slack|Status page>"
    )


async def test_a_workspace_with_an_evil_name_pings_nobody(hook: Hook) -> None:
    text = await slack_text(hook, delivery("failing", EVIL, reason=EVIL, way_out=EVIL))
    assert "<!" not in text
    assert "<@" not in text
    assert "\x1b" not in text
    assert len(text.splitlines()) == 5
    assert text.startswith("*Slack of &lt;!channel&gt; &amp; &lt;@U1&gt;  Bcc: all@example.com *Why:* nothing")


async def test_slack_says_in_a_word_why_it_refuses(hook: Hook) -> None:
    hook.status, hook.body = 404, b"no_service"
    with pytest.raises(Undelivered, match=r"^HTTP 404: no_service$"):
        await send(delivery("late", "acme"), **slack_at(hook))
    hook.body = f"see {hook.url}".encode()
    with pytest.raises(Undelivered, match=r"^HTTP 404$"):
        await send(delivery("late", "acme"), **slack_at(hook))


# ── mail ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Post:
    """What a mail server took."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []
        self.refuses = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        if self.refuses:
            return self.refuses
        self.envelopes.append(envelope)
        return "250 OK"

    @property
    def mails(self) -> list[Any]:
        return [email.message_from_bytes(one.content, policy=default) for one in self.envelopes]


def only_ann(server: Any, session: Any, envelope: Any, mechanism: Any, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"ann", b"pass-word"), handled=False)


@asynccontextmanager
async def mail_server(post: Post, *, tls: ssl.SSLContext | None = None, at_once: bool = False) -> AsyncIterator[int]:
    """Its port. ``tls``: offers STARTTLS, and wants a password of ann; ``at_once``: TLS from the first byte on."""
    demanding: dict[str, Any] = {"authenticator": only_ann, "auth_required": True}
    if tls is not None and not at_once:
        demanding |= {"tls_context": tls, "require_starttls": True}
    if at_once:
        demanding = {"authenticator": only_ann, "auth_require_tls": False}  # it does not see that TLS is there
    asked = demanding if tls else {}
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(post, hostname="mx", loop=asyncio.get_running_loop(), **asked),
        "127.0.0.1",
        0,
        ssl=tls if at_once else None,
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Of localhost, which this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, private)
    return context


def mail_to(port: int, **more: Any) -> dict[str, Any]:
    known = {"host": "127.0.0.1", "port": port, "security": "none", "from": "syncd@example.com"}
    return {"mail": known | {"to": "ann@example.com, bob@example.com"} | more}


async def test_a_mail_goes_to_all_recipients() -> None:
    post = Post()
    async with mail_server(post) as port:
        await send(delivery("needs_reauth", "Zürich"), **mail_to(port))
    ((envelope,), (mail,)) = post.envelopes, post.mails
    assert envelope.rcpt_tos == ["ann@example.com", "bob@example.com"]
    assert mail["Subject"] == "[syncd] Slack of Zürich needs new credentials"
    assert (mail["From"], mail["Message-ID"]) == ("syncd@example.com", "<syncd-7-20260105120000@example.com>")
    text = mail.get_content()
    assert text.splitlines()[:3] == ["Slack of Zürich needs new credentials", "", "Why: HTTP 503"]
    assert text.rstrip().endswith("http://page/connections/1")


async def test_an_evil_name_makes_no_header() -> None:
    post = Post()
    async with mail_server(post) as port:
        await send(delivery("failing", EVIL, reason=EVIL), **mail_to(port))
    (mail,) = post.mails
    assert mail["Bcc"] is None
    assert post.envelopes[0].rcpt_tos == ["ann@example.com", "bob@example.com"]
    assert "Bcc: all@example.com" in mail["Subject"]
    assert not [line for line in mail.get_content().splitlines() if line.startswith("Bcc")]


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_password_goes_over_tls(security: str, certificate: ssl.SSLContext) -> None:
    post = Post()
    async with mail_server(post, tls=certificate, at_once=security == "tls") as port:
        how = mail_to(port, host="localhost", security=security, user="ann", password="pass-word")
        await send(delivery("late", "acme"), **how)
    assert len(post.mails) == 1


async def test_a_certificate_that_nobody_vouches_for_is_not_taken(
    certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    post = Post()
    async with mail_server(post, tls=certificate) as port:
        how = mail_to(port, host="localhost", security="starttls", user="ann", password="pass-word")
        with pytest.raises(Undelivered):
            await send(delivery("late", "acme"), **how)
    assert post.mails == []


async def test_a_server_without_starttls_gets_no_mail() -> None:
    post = Post()
    async with mail_server(post) as port:
        with pytest.raises(Undelivered, match="mail server"):
            await send(delivery("late", "acme"), **mail_to(port, security="starttls"))
    assert post.mails == []


async def test_a_wrong_password_is_told_without_it(certificate: ssl.SSLContext) -> None:
    async with mail_server(Post(), tls=certificate) as port:
        how = mail_to(port, host="localhost", security="starttls", user="ann", password="wrong-pass-word")
        with pytest.raises(Undelivered, match="SMTP 535") as told:
            await send(delivery("late", "acme"), **how)
    assert "wrong-pass-word" not in str(told.value)


@pytest.mark.parametrize(("answer", "refused"), [("451 later", False), ("554 no", True)])
async def test_a_mail_that_is_not_taken_is_undelivered(answer: str, refused: bool) -> None:
    post = Post()
    post.refuses = answer
    async with mail_server(post) as port:
        with pytest.raises(Undelivered, match=f"SMTP {answer[:3]}") as told:
            await send(delivery("late", "acme"), **mail_to(port))
    assert told.value.refused is refused


async def test_a_mail_server_that_is_away_is_undelivered() -> None:
    with pytest.raises(Undelivered, match="mail server"):
        await send(delivery("late", "acme"), **mail_to(9))


# ── words ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("who", "command"),
    [
        (["acme"], "--workspace acme`"),
        (["a; rm -rf ~"], "--workspace 'a; rm -rf ~'`"),
        (["acme", "hooli"], "--workspace WORKSPACE [--account ACCOUNT]`"),
    ],
)
def test_the_message_of_one_connection_has_a_command_to_copy(who: list[str], command: str) -> None:
    one = delivery("needs_reauth", *who, way_out=f"Connect it again: `syncd connect-link --workspace {PLACEHOLDER}`.")
    message = message_of(one, "http://127.0.0.1")
    assert command in message.facts["way_out"]
    assert command in "\n".join(message.lines)


def test_the_command_names_the_account_as_well() -> None:
    """Without it a new connection of the same workspace would be made, and all be read twice."""
    one = delivery("needs_reauth", "acme", way_out=f"`syncd connect slack --workspace {PLACEHOLDER}`")
    one = replace(one, who=[(1, "acme", "eu")])
    assert message_of(one, "http://page").facts["way_out"] == "`syncd connect slack --workspace acme --account eu`"


def test_a_connection_that_was_purged_is_not_named() -> None:
    gone = Delivery(7, "webhook", 1, AT, delivery("recovered", "acme").notice, [])
    assert message_of(gone, "http://page").title == "Slack is read again"


def test_a_test_message_says_that_nothing_is_wrong() -> None:
    message = trial_message("http://page")
    assert (message.facts["event"], message.link) == ("test", "http://page/")
