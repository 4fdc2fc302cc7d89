"""``connections import`` and ``export``: many connections as JSON lines, also on their way to another database."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from syncd import daemon
from syncd.cli.connections import object_of, put, read_text
from syncd.cli.terminal import ConfigOption, err, out, perform, settings_of
from syncd.credentials import Parcel, Vault
from syncd.errors import NoCredentials, UsageError
from syncd.lines import known_source, line_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syncd.settings import Settings
    from syncd.store import Connection, Line

_BAD_LINES_SHOWN = 10

KeyFileOption = Annotated[
    Path | None,
    typer.Option("--key-file", help="The file with the export's Fernet key; without it SYNCD_EXPORT_KEY."),
]


def register(app: typer.Typer) -> None:
    app.command("import")(import_)
    app.command()(export)


def import_(
    file: Annotated[str, typer.Argument(help="A file of JSON lines, or - for standard input.")],
    key_file: KeyFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Add or update many: all lines or none. Takes what `syncd connections export` wrote, with the key of that export.

    A line: {"workspace_id", "source", "account", "settings": {}, "credentials": {}, "is_active": true}.
    """
    lines, numbers, bad, parcel = [], [], [], _parcel(key_file)
    for number, text in enumerate(read_text(file).split("\n"), 1):  # not splitlines: JSON may hold U+2028 in a text
        if text.strip():
            try:
                lines.append(_line(object_of(text, "it"), parcel))
                numbers.append(number)
            except UsageError as error:
                bad.append(f"line {number}: {error}")
    if bad:
        raise _refused(file, bad)
    if not lines:
        raise UsageError(f"{file} holds no line to import")
    try:
        added, updated = put(settings_of(config, quiet=True), lines)
    except NoCredentials as error:
        raise _refused(file, [f"line {numbers[one]}: {error.WHY}" for one in sorted(error.at)]) from None
    out.print(f"{added} added, {updated} updated")


def _refused(file: str, bad: Sequence[str]) -> UsageError:
    more = f"; and {len(bad) - _BAD_LINES_SHOWN} more bad lines" if len(bad) > _BAD_LINES_SHOWN else ""
    return UsageError(f"{file}: nothing was imported: {'; '.join(bad[:_BAD_LINES_SHOWN])}{more}")


def export(
    file: Annotated[str, typer.Argument(help="A file to make, or - for standard output.")],
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Only this workspace.")] = None,
    source: Annotated[str | None, typer.Option("--source", "-s", help="Only this source.")] = None,
    key_file: KeyFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Write connections as lines for `syncd connections import` into another database, the credentials sealed.

    Records and cursors stay here: there the connections begin anew. Stop whatever reads with them here first, or
    refresh tokens that are good for one use will be spent twice.
    """
    parcel = _parcel(key_file)
    if parcel is None:
        raise UsageError("name the export's key by --key-file or SYNCD_EXPORT_KEY; `syncd keys generate` makes one")
    settings = settings_of(config, quiet=True)
    lines, left_out = perform(settings, _lines(settings, workspace, source and known_source(source), parcel))
    if not lines:
        raise UsageError("there is no connection to export; `syncd connections list` shows all")
    _write(file, b"".join(orjson.dumps(line) + b"\n" for line in lines))
    more = f", {left_out} without credentials or workspace left out" if left_out else ""
    err.print(f"{len(lines)} exported{more}")


async def _lines(
    settings: Settings, workspace: str | None, source: str | None, parcel: Parcel
) -> tuple[list[dict[str, Any]], int]:
    """The lines, and how many connections cannot be one. Raises SealError where a secret cannot be opened."""
    vault = Vault(settings.keys())
    async with daemon.open_store(settings) as store:
        found = await store.connections.all(source=source, workspace=workspace)
    whole = [one for one in found if one.sealed is not None and one.workspace_id is not None]
    return [parcel.seal(_body(one, vault)) for one in whole], len(found) - len(whole)


def _body(connection: Connection, vault: Vault) -> dict[str, Any]:
    body = {
        "workspace_id": connection.workspace_id,
        "source": connection.source,
        "account": connection.account,
        "settings": connection.settings,
        "credentials": vault.open(connection.id, connection.sealed),
        "is_active": connection.is_active,
    }
    return body if connection.identity is None else body | {"identity": connection.identity}


def _line(body: dict[str, Any], parcel: Parcel | None) -> Line:
    """A checked line, opened first where it was sealed. Raises UsageError."""
    credentials = body.get("credentials")
    if not isinstance(credentials, dict) or set(credentials) != {"sealed"}:
        return line_of(body)
    if parcel is None:
        raise UsageError("its credentials are sealed: name the export's key by --key-file or SYNCD_EXPORT_KEY")
    opened = parcel.open(body)
    identity = opened.pop("identity", None)
    return replace(line_of(opened), identity=identity)


def _parcel(key_file: Path | None) -> Parcel | None:
    """What opens and seals, by the key of that file or of the environment; None without one. Raises UsageError."""
    key = read_text(str(key_file)) if key_file else os.environ.get("SYNCD_EXPORT_KEY", "")
    if not key.strip():
        if key_file:
            raise UsageError(f"--key-file {key_file} is empty")
        return None
    return Parcel(key.strip())


def _write(name: str, content: bytes) -> None:
    """To standard output, or to a new file that nobody else may read. Raises UsageError."""
    if name == "-":
        sys.stdout.write(content.decode())
        return
    try:
        number = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(content)
    except FileExistsError:
        raise UsageError(f"{name} is there already: name a new file") from None
    except OSError as error:
        raise UsageError(f"{name} cannot be written: {error.strerror}") from None
