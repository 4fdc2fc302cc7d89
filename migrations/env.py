"""Alembic's entry: `syncd migrate` hands in a connection; the alembic command line makes its own from the settings."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from syncd.settings import load
from syncd.store.database import Database
from syncd.tables import metadata


def upgrade_on(connection: Connection) -> None:
    """Run the migrations in one transaction, so that a failing one leaves nothing behind."""
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


async def upgrade_alone() -> None:
    """For ``alembic -c …``: the database of the settings in force."""
    settings = load()
    database = Database(settings.database.url.get_secret_value(), pool_size=1)
    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade_on)
    finally:
        await database.close()


given = context.config.attributes.get("connection")
if given is not None:
    upgrade_on(given)
else:
    asyncio.run(upgrade_alone())
