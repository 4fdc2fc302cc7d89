"""``keys``: the keys that encrypt credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from syncd import daemon
from syncd.cli.terminal import ConfigOption, err, out, perform, settings_of
from syncd.credentials import Vault, generate_key

if TYPE_CHECKING:
    from syncd.settings import Settings
    from syncd.store import Rotation

app = typer.Typer(no_args_is_help=True, help="Make and rotate the keys that encrypt credentials.")
_SHOWN = 20


@app.command()
def generate() -> None:
    """Print a new key, for SYNCD_SECRET_KEYS or secret_keys_file."""
    typer.echo(generate_key())


@app.command()
def rotate(config: ConfigOption = None) -> None:
    """Seal all credentials anew with the first key; the others are no longer needed afterwards.

    A daemon may run beside it, once it knows the new key as well. Stopped in whatever way, the same command goes on
    where it was. Exits 1 when a secret could not be opened.
    """
    settings = settings_of(config, quiet=True)
    last: list[Rotation] = []
    try:
        done = perform(settings, _rotated(settings, last))
    except KeyboardInterrupt:
        if last:
            words = f"{last[0].done} of {last[0].total} are sealed with the first key"
            err.print(f"stopped: {words}; run it again to go on")
        raise
    out.print(f"{done.done} credentials are sealed with the first key: {done.resealed} anew, {done.kept} were already")
    for why in list(done.refused.values())[:_SHOWN]:
        out.print(f"[red]left as it is:[/red] {escape(why)}")
    if len(done.refused) > _SHOWN:
        out.print(f"and {len(done.refused) - _SHOWN} more like these")
    if done.refused:
        raise typer.Exit(1)


async def _rotated(settings: Settings, last: list[Rotation]) -> Rotation:
    """Rotate and show how far it is. ``last`` gets the progress, for whoever stops it."""
    vault = Vault(settings.keys())
    async with daemon.open_store(settings) as store:
        with err.status("sealing credentials") as shown:

            def told(now: Rotation) -> None:
                last[:] = [now]
                shown.update(f"sealing credentials: {now.done} of {now.total}")

            return await store.seals.rotate(vault.reseal, told=told)
