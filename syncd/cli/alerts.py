"""``alerts``: who is told, what is told of whom now, and whether it arrived; a message to try it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from syncd import daemon
from syncd.cli.terminal import ConfigOption, JsonOption, out, perform, print_json, printable, settings_of, table
from syncd.errors import UsageError
from syncd.notify import Undelivered, names, open_receivers, trial_message
from syncd.report import ago, plain
from syncd.settings import http_address
from syncd.web.connect import public_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncd.settings import Settings

_NOBODY = "nobody is told: set alerts.webhook, alerts.slack or alerts.mail in syncd.toml"


def register(app: typer.Typer) -> None:
    app.command()(alerts)


def alerts(
    test: Annotated[
        bool, typer.Option("--test", help="Send a test message to each receiver; exit 1 if one fails.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """The receivers of alerts, the troubles that are told or soon will be, and the last messages."""
    settings = settings_of(config, quiet=True)
    if test:
        _try(settings)
        return
    report = perform(settings, _report(settings))
    if as_json:
        print_json(report)
        return
    _show(report)


def _try(settings: Settings) -> None:
    if not names(settings.alerts):
        raise UsageError(_NOBODY)
    link = settings.alerts.link or public_url(settings, http_address(settings.http.host, settings.http.port))
    results = perform(settings, _sent(settings, link.rstrip("/")))
    for name, why in results.items():
        word = f"[red]not delivered[/red]: {escape(printable(why))}" if why else "[green]delivered[/green]"
        out.print(f"{name}: {word}")
    if any(results.values()):
        raise typer.Exit(1)


async def _sent(settings: Settings, link: str) -> dict[str, str]:
    """Receiver → why it did not get the test message, empty where it did."""
    results = {}
    async with open_receivers(settings.alerts) as receivers:
        for name, receiver in receivers.items():
            try:
                await receiver.deliver(trial_message(link))
            except Undelivered as error:
                results[name] = str(error)
            else:
                results[name] = ""
    return results


async def _report(settings: Settings) -> dict[str, Any]:
    async with daemon.open_store(settings) as store:
        known = await store.outbox.waiting()
        nothing = {"waiting": 0, "last_sent_at": None, "error": None}
        messages = [plain(one) for one in await store.outbox.last()]
        for one in messages:
            one["deliveries"] = [plain(part) for part in one["deliveries"]]
        return {
            "receivers": {name: plain(known.get(name, nothing)) for name in names(settings.alerts)},
            "open": [plain(one) for one in await store.outbox.open_alerts()],
            "messages": messages,
        }


def _show(report: Mapping[str, Any]) -> None:
    if not report["receivers"]:
        out.print(_NOBODY)
    else:
        states = report["receivers"].items()
        rows = ((name, one["waiting"], ago(one["last_sent_at"]), one["error"]) for name, one in states)
        table(("receiver", "waiting", "last sent", "last error"), rows)
    if report["open"]:
        out.print()
        table(("id", "workspace", "source", "account", "trouble", "since", "told", "reason"), _open(report["open"]))
    if report["messages"]:
        out.print()
        table(("made", "event", "source", "connections", "arrived"), _messages(report["messages"]))


def _open(rows: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        told = "not yet" if row["told"] is None else "as part of an outage" if row["outage"] else "yes"
        whose = (row["connection_id"], row["workspace_id"], row["source"], row["account"])
        yield (*whose, row["trouble"], ago(row["since"]), told, row["last_error"])


def _messages(rows: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        yield (
            ago(row["made_at"]),
            row["event"],
            row["source"],
            row["count"],
            ", ".join(map(_arrived, row["deliveries"])),
        )


def _arrived(one: Mapping[str, Any]) -> str:
    if one["sent_at"]:
        return f"{one['receiver']} {ago(one['sent_at'])}"
    if one["next_try_at"]:
        why = f": {one['error']}" if one["error"] else ""
        return f"{one['receiver']} not yet{why}"
    return f"{one['receiver']} never: {one['error']}"
