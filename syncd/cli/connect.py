"""``connect``, ``connect-link``: an account is connected by a person, on a terminal or by a link to the daemon."""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import secrets
import sys
import webbrowser
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from aiohttp import web
from rich.markup import escape

from syncd import daemon
from syncd.cli.terminal import ConfigOption, err, fail, out, perform, printable, settings_of, table
from syncd.connect import Invitation, app_of, begin, exchanged, link_for, placed, tried
from syncd.credentials import NO_KEY
from syncd.durations import parse_duration
from syncd.errors import OtherAccount, Rejected, SealError, SourceError, UsageError
from syncd.lines import known_source
from syncd.logs import secrets_of
from syncd.runs import told
from syncd.settings import http_address
from syncd.source import Report
from syncd.sources import SOURCES
from syncd.store import Line
from syncd.web.connect import CLOSE, page, public_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from syncd.connect import App, SignIn, Tried
    from syncd.settings import Settings
    from syncd.source import Grant, OAuth, Source
    from syncd.store import Connection

WAITS_S = 300.0  # for the person in the browser
_SHOWN = 200  # channels or labels; more are chosen by `connections add --settings`

WorkspaceOption = Annotated[str, typer.Option("--workspace", "-w", help="Your id of the customer.")]
AccountOption = Annotated[
    str, typer.Option("--account", "-a", help="Which of several accounts; Gmail and Fathom: the address.")
]


def register(app: typer.Typer) -> None:
    app.command()(connect)
    app.command("connect-link")(connect_link)


def connect(
    source: Annotated[str, typer.Argument(help=f"{', '.join(SOURCES)}.")],
    workspace: WorkspaceOption,
    account: AccountOption = "",
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the browser, or only print the address.")
    ] = True,
    port: Annotated[
        int,
        typer.Option(help="Of the address on 127.0.0.1 that the vendor sends you back to; 0 = any.", min=0, max=65535),
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Also when another account is connected there.")] = False,
    config: ConfigOption = None,
) -> None:
    """Connect an account, guided: sign in or give a token, see what it opens, choose what is read.

    A token or key is asked for without showing it. It is tried before it is stored.
    """
    name, settings = known_source(source), settings_of(config, quiet=True)
    if not sys.stdin.isatty():
        raise UsageError(
            "connect asks its questions on a terminal; in a script use `syncd connections add --credentials-file -`"
        )
    if not settings.keys():
        raise SealError(NO_KEY)
    line = Line(workspace_id=workspace, source=name, account=account)
    known = perform(settings, _known(settings, line))  # before anybody types a secret: is the database there?
    line = replace(line, settings=known.settings if known else None)
    try:
        credentials = _credentials(settings, line, _opened if browser else _printed, port)
        if credentials is None:
            return
        err.print("trying …")
        line = replace(line, credentials=credentials)
        found, line = perform(settings, _tried(settings, line, force=force))
        if not _reported(found) and not typer.confirm("Store it all the same?", default=False):
            fail(f"{name}: nothing was stored", 1)
        line = replace(line, settings=_chosen(SOURCES[name], found, line.settings or {}))
        perform(settings, _stored(settings, line, force=force))
    except OtherAccount as error:
        fail(f"nothing was stored: {error}, or use --force", 1)
    except SourceError as error:
        fail(f"{name}: nothing was stored: {told(error, secrets_of(line.credentials))}", 1)
    whose = f"{name} of {workspace}" + (f", account {line.account}" if line.account else "")
    out.print(f"[green]connected:[/green] {escape(printable(whose))}")
    now = f"syncd run-once --source {name} --workspace {escape(printable(workspace))}"
    out.print(f"it is read in the next cycle, or now: {now}", soft_wrap=True)


def connect_link(
    source: Annotated[str, typer.Option("--source", "-s", help=f"{', '.join(SOURCES)}.")],
    workspace: WorkspaceOption,
    account: AccountOption = "",
    expires: Annotated[str, typer.Option(help="For how long it is good: 30m, 1h, 7d.")] = "1h",
    config: ConfigOption = None,
) -> None:
    """Print a link by which a customer connects an account with a browser, through the running daemon."""
    settings = settings_of(config, quiet=True)
    line = Line(workspace_id=workspace, source=known_source(source), account=account)
    out.print(_link(settings, line, expires), soft_wrap=True, markup=False)


def _link(settings: Settings, line: Line, expires: str) -> str:
    if not settings.http.public_url and not settings.http.port:
        raise UsageError("where browsers reach the daemon is not known: set http.public_url, or http.port")
    try:
        expires_at = datetime.now(UTC) + parse_duration(expires)
    except ValueError as error:
        raise UsageError(f"--expires: {error}") from None
    base = public_url(settings, http_address(settings.http.host, settings.http.port))
    return link_for(settings, base, Invitation(line.source, line.workspace_id, line.account, expires_at))


# --- the way in: a browser, or what is typed --------------------------------------------------------------------------


def _credentials(settings: Settings, line: Line, show: Callable[[str], None], port: int) -> Mapping[str, Any] | None:
    """What the person signs in to or types; None where the daemon's page does the rest. Raises `SourceError`."""
    vendor, app = SOURCES[line.source], app_of(settings, line.source)
    if app is None or vendor.oauth is None or not _by_browser(vendor.name):
        return _typed(vendor)
    if vendor.oauth.loopback:
        return perform(settings, _signed_in(settings, vendor.name, app, vendor.oauth, port, show))
    if not (settings.http.public_url or "").startswith("https:"):
        err.print(
            f"{line.source} sends browsers back to https addresses only: http.public_url must be one that reaches the "
            "running daemon"
        )
    show(_link(settings, line, "15m"))
    out.print("The running daemon connects the account; then: syncd connections list")
    return None


def _by_browser(name: str) -> bool:
    out.print(f"How do you connect {name}?\n  1  sign in with the browser\n  2  give a token or key")
    return bool(typer.prompt("1 or 2", default="1", value_proc=_one_or_two) == "1")


def _one_or_two(text: str) -> str:
    if text.strip() not in {"1", "2"}:
        raise typer.BadParameter("type 1 or 2")
    return text.strip()


def _typed(vendor: Source) -> dict[str, Any]:
    """The members of the vendor's first form of credentials, each asked for; what is secret is not shown."""
    return {
        member: typer.prompt(f"{vendor.name} {member}", hide_input=bool(secrets_of({member: "secret"}))).strip()
        for member in sorted(vendor.credentials[0])
    }


def _printed(url: str) -> None:
    out.print("Open this address in a browser:")
    out.print(url, soft_wrap=True, markup=False)


def _opened(url: str) -> None:
    """Open a window, where there is one: a browser of the terminal's own would take the terminal."""
    _printed(url)
    if sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        webbrowser.open(url)


async def _signed_in(
    settings: Settings, name: str, app: App, oauth: OAuth, port: int, show: Callable[[str], None]
) -> Mapping[str, Any]:
    async with daemon.open_parts(settings) as parts:
        grant = await sign_in(app, oauth, show, port=port)
        return await exchanged(parts.engine.runs, parts.engine.plans[name], app, grant)


async def sign_in(
    app: App, oauth: OAuth, show: Callable[[str], None], *, port: int = 0, waits_s: float = WAITS_S
) -> Grant:
    """A person's consent, by a browser that the vendor sends back to this machine; ``show`` is told where to go.

    Raises `Rejected` when it is refused or nobody comes back in time, UsageError when the port is taken.
    """
    coming: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    state = secrets.token_urlsafe(32)

    async def back(request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.query.get("state", "").encode(errors="replace"), state.encode()):
            return page("This does not work", "This is not the sign-in that waits on the terminal.", status=403)
        if coming.done():
            return page("This does not work", "This sign-in was finished before.", status=403)
        if code := request.query.get("code"):
            coming.set_result(code)
            return page("You are signed in", "Go on in the terminal. " + CLOSE)
        coming.set_exception(Rejected("the sign-in was refused in the browser"))
        return page("You did not allow it", "Nothing was connected. " + CLOSE, status=403)

    async with _listening(back, port) as base:
        begun: SignIn = begin(oauth, app, f"{base}/callback", state)
        show(begun.url)
        try:
            async with asyncio.timeout(waits_s):
                return begun.grant(await coming)
        except TimeoutError:
            raise Rejected(f"nobody came back from the browser within {waits_s:g} s", hint="try again") from None


@asynccontextmanager
async def _listening(back: Callable[[web.Request], Any], port: int) -> AsyncIterator[str]:
    """The one address of the way back, on loopback alone."""
    app = web.Application()
    app.add_routes([web.get("/callback", back, allow_head=False)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    except OSError as error:
        await runner.cleanup()
        raise UsageError(f"port {port} of 127.0.0.1 cannot be used: {error.strerror}; give another by --port") from None
    try:
        yield http_address(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


# --- what it opens, and what is read of it ----------------------------------------------------------------------------


async def _known(settings: Settings, line: Line) -> Connection | None:
    async with daemon.open_store(settings) as store:
        mine = await store.connections.all(source=line.source, workspace=line.workspace_id)
    return next((one for one in mine if one.account == line.account), None)


async def _tried(settings: Settings, line: Line, *, force: bool) -> tuple[Tried, Line]:
    """What the credentials open, and the line under which that is to be stored, with the settings it has now."""
    async with daemon.open_parts(settings) as parts:
        found = await tried(parts.engine.runs, parts.engine.plans[line.source], line)
        line = await placed(parts.store, line, found, force=force)
    known = await _known(settings, line)
    return found, replace(line, settings=known.settings if known else None)


async def _stored(settings: Settings, line: Line, *, force: bool) -> None:
    async with daemon.open_parts(settings) as parts:
        await parts.store.connections.put([line], parts.vault.seal, force=force)


def _reported(found: Tried) -> bool:
    """Tell who it is and what it sees; answers whether all is well."""
    report = found.report or Report("")
    out.print(f"[bold]{escape(printable(report.identity))}[/bold]")
    for fact in report.facts:
        out.print(f"  {escape(printable(fact))}")
    for what, way_out in report.problems:
        out.print(f"  [red]{escape(printable(what))}[/red]: {escape(printable(way_out))}")
    return not report.problems


def _chosen(vendor: Source, found: Tried, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings with what the person chose; None leaves them as they are."""
    choice = vendor.choice
    if choice is None or not found.choices:
        return None
    now = settings.get(choice.setting)
    without = choice.without if now in (None, "*") else "as it is"
    shown = found.choices[:_SHOWN]
    table(("", choice.setting, "id"), ((number, name, one) for number, (one, name) in enumerate(shown, 1)))
    if len(found.choices) > len(shown):
        out.print(
            f"and {len(found.choices) - len(shown)} more; those are chosen with `syncd connections add --settings`"
        )
    while True:
        text = typer.prompt(f"Which? Such as 1,3-5; Enter for {without}", default="", show_default=False)
        try:
            ids = picked(text, shown)
        except ValueError as error:
            err.print(str(error))
        else:
            return {**settings, choice.setting: ids} if ids else None


def picked(text: str, choices: Sequence[tuple[str, str]]) -> list[str]:
    """The ids that ``1,3-5`` stands for, counted from 1; none for an empty text. Raises ValueError in words."""
    ids: list[str] = []
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= len(choices):
            raise ValueError(f"{part}: type numbers from 1 to {len(choices)}, such as 1,3-5")
        ids += [one for one, _ in choices[first - 1 : last]]
    return list(dict.fromkeys(ids))
