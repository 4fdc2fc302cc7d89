"""``sandbox`` and ``demo``: trying syncd without any vendor. The only importer of `sandbox` outside of tests."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from syncd import logs
from syncd.cli.terminal import err
from syncd.errors import UsageError
from syncd.sandbox.world import Options
from syncd.tasks import all_of

if TYPE_CHECKING:
    from syncd.sandbox.app import Sandbox

_SIZES = Options()


def register(app: typer.Typer) -> None:
    app.command()(sandbox)
    app.command()(demo)


def sandbox(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 = any free one.", min=0, max=65535)] = 8787,
    seed: Annotated[int, typer.Option(help="The same seed gives the same data.")] = _SIZES.seed,
    workspaces: Annotated[int, typer.Option(help="Customers, each with all four sources.", min=1)] = _SIZES.workspaces,
    days: Annotated[int, typer.Option(help="How far the past reaches.", min=1)] = _SIZES.days,
    channels: Annotated[int, typer.Option(help="Slack channels per workspace.", min=1)] = _SIZES.channels,
    messages_per_day: Annotated[
        int, typer.Option(help="Slack messages per channel and day.", min=1)
    ] = _SIZES.messages_per_day,
    calls_per_day: Annotated[int, typer.Option(help="Gong calls per workspace and day.", min=1)] = _SIZES.calls_per_day,
    meetings_per_day: Annotated[
        int, typer.Option(help="Fathom meetings per workspace and day.", min=1)
    ] = _SIZES.meetings_per_day,
    mails_per_day: Annotated[
        int, typer.Option(help="Gmail threads per workspace and day.", min=1)
    ] = _SIZES.mails_per_day,
    page_size: Annotated[
        int, typer.Option(help="Cap every page (0 = the vendor's own size).", min=0)
    ] = _SIZES.page_size,
    limits: Annotated[bool, typer.Option(help="Enforce the vendors' rate limits.")] = _SIZES.limits,
    switch: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: a variant of unconfirmed behaviour, see GET /control.")
    ] = None,
    connections_file: Annotated[
        Path | None, typer.Option(help="Write the lines for `syncd connections import` here.")
    ] = None,
    month: Annotated[bool, typer.Option("--month", help="Act out a month in each workspace.")] = False,
    speed: Annotated[
        float, typer.Option(help="With --month: how many times faster the vendors' clock runs.", min=1, max=100_000)
    ] = 1440,
) -> None:
    """Serve the four vendors on loopback, with a company's week of data, until Ctrl-C.

    Then, in another terminal, with http://127.0.0.1:8787 as printed:

      eval "$(curl -s http://127.0.0.1:8787/control/environment)"
      export SYNCD_SECRET_KEYS=$(syncd keys generate)
      syncd migrate
      curl -s http://127.0.0.1:8787/control/connections | syncd connections import -
      syncd run-once --source all

    GET /control lists what can be changed while it runs: messages added, edited, deleted, tokens revoked, faults, the
    clock.

    With --month the vendors' clock runs --speed times faster (1440: a day a minute), and a written month is acted out:
    late replies, edits and deletions, transcripts that ripen, a history that expires. To watch it: each event is
    printed as it happens, and what a perfect reader would hold by then is at

      curl -s "http://127.0.0.1:8787/control/holdings?vendor=slack&workspace=acme"

    Who reads along must live by the vendors' clock; syncd's own is the real one, so let it read along at --speed 1.
    """
    logs.set_up("warning", "auto")
    pairs = [text.partition("=") for text in switch or []]
    if any(not equals for _, equals, _ in pairs):
        raise UsageError("--switch takes NAME=VALUE")
    options = Options(
        seed=seed,
        workspaces=workspaces,
        days=days,
        channels=channels,
        messages_per_day=messages_per_day,
        calls_per_day=calls_per_day,
        meetings_per_day=meetings_per_day,
        mails_per_day=mails_per_day,
        page_size=page_size,
        limits=limits,
        switches={name: value for name, _, value in pairs},
    )
    try:
        asyncio.run(_serve(options, port, connections_file, speed if month else None))
    except ValueError as error:
        raise UsageError(f"--switch: {error}") from None


async def _serve(options: Options, port: int, connections_file: Path | None, speed: float | None) -> None:
    """Until a signal. ``speed``: of the month that is acted out meanwhile, None = none."""
    from syncd.sandbox.app import Sandbox
    from syncd.sandbox.world import Clock, World

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with Sandbox(options, port=port, world=World(options, Clock(speed=speed or 1.0))) as box:
            if connections_file:
                _write(connections_file, box.connections())
            err.print(
                f"the sandbox of {options.workspaces} workspaces serves {box.base}; "
                f"{box.base}/control says what it can do"
            )
            await _until(stop, None if speed is None else _act_out(box))
    except OSError as error:
        raise UsageError(
            f"sandbox on 127.0.0.1:{port}: {error.strerror or error}; choose another --port, or 0"
        ) from None


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None] | None) -> None:
    """Wait for ``stop``, at ``work`` meanwhile. Raises what goes wrong with it."""
    stopping = asyncio.ensure_future(stop.wait())
    if work is not None:
        working = asyncio.ensure_future(work)
        await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.cancel():
            working.result()
    await stopping


async def _act_out(box: Sandbox) -> None:
    """The scripted month of each workspace, told event by event."""
    from syncd.sandbox.month import Month
    from syncd.sandbox.month_script import script

    async def one(workspace: str) -> None:
        async for event in Month(box, workspace, script()).as_time_goes_by():
            err.print(f"{workspace}: {event}", markup=False, highlight=False)

    await all_of([one(workspace) for workspace in box.world.companies])
    err.print("the month is over; the sandbox serves on")


def _write(file: Path, lines: list[Mapping[str, Any]]) -> None:
    try:
        file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    except OSError as error:
        raise UsageError(f"--connections-file {file} cannot be written: {error.strerror}") from None


def demo(
    keep: Annotated[Path | None, typer.Option(help="Keep the database here instead of in a temporary folder.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other data.")] = _SIZES.seed,
) -> None:
    """See it work in a minute: the sandbox, SQLite, three workspaces, all four sources; no key, no network."""
    from syncd.sandbox.demo import show

    logs.set_up("error", "auto")
    asyncio.run(show(dataclasses.replace(_SIZES, seed=seed), keep))
