"""Credentials at rest: sealed with Fernet, each carrying the id of the connection it belongs to."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from syncd.errors import SealError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NO_KEY = (
    "no secret key is configured: make one with `syncd keys generate`, then set SYNCD_SECRET_KEYS "
    "(or secret_keys_file in syncd.toml)"
)


class Vault:
    """Seals with the first key, opens with any. Without keys it can do neither and says so when asked."""

    def __init__(self, keys: Sequence[str]) -> None:
        fernets = [Fernet(key) for key in keys]
        self._first = fernets[0] if fernets else None
        self._fernet = MultiFernet(fernets) if fernets else None

    def seal(self, connection_id: int, credentials: Mapping[str, Any]) -> str:
        """Encrypt ``credentials`` for that connection. Raises `SealError` without a key."""
        if self._fernet is None:
            raise SealError(NO_KEY)
        return self._fernet.encrypt(orjson.dumps({"connection": connection_id, "credentials": credentials})).decode()

    def open(self, connection_id: int, sealed: str | None) -> dict[str, Any]:
        """Decrypt. Raises `SealError` when no key fits or the secret was sealed for another connection."""
        if self._fernet is None:
            raise SealError(NO_KEY)
        if sealed is None:
            raise SealError(f"connection {connection_id} has no credentials: add them with `syncd connections add`")
        try:
            opened = orjson.loads(self._fernet.decrypt(sealed))
        except (InvalidToken, ValueError):  # ValueError: not even ASCII
            raise SealError(
                f"the credentials of connection {connection_id} were sealed with a key that is not in secret_keys: "
                "add that key after the first"
            ) from None
        if opened["connection"] != connection_id:
            raise SealError(
                f"the credentials of connection {connection_id} belong to connection {opened['connection']}"
            )
        credentials: dict[str, Any] = opened["credentials"]
        return credentials

    def reseal(self, connection_id: int, sealed: str) -> str | None:
        """Sealed with the first key, whichever sealed it before; None when that one did. Raises `SealError`."""
        opened = self.open(connection_id, sealed)
        if self._first is not None:
            with suppress(InvalidToken):
                self._first.decrypt(sealed)
                return None
        return self.seal(connection_id, opened)

    def same(self, connection_id: int, one: str, other: str) -> bool:
        """Whether both hold the same credentials, whichever key sealed them. False where one cannot be opened."""
        try:
            return one == other or self.open(connection_id, one) == self.open(connection_id, other)
        except SealError:
            return False


class Parcel:
    """Seals connections on their way to another database, by a key of its own (``str`` of a Fernet key).

    A line is sealed as a whole, so that its credentials open only beside the workspace they belong to.
    Raises `UsageError` on a key that is none.
    """

    def __init__(self, key: str) -> None:
        try:
            self._fernet = Fernet(key)
        except ValueError:
            raise UsageError("the export's key is not a Fernet key; `syncd keys generate` makes one") from None

    def seal(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """The line with ``{"sealed": …}`` for its credentials."""
        return {**line, "credentials": {"sealed": self._fernet.encrypt(orjson.dumps(line)).decode()}}

    def open(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """The line as it was before `seal`. Raises `UsageError` on another key and on a line that was changed."""
        try:
            opened: dict[str, Any] = orjson.loads(self._fernet.decrypt(line["credentials"]["sealed"]))
        except (InvalidToken, ValueError, TypeError):
            raise UsageError("its credentials were sealed with another key, or were changed since") from None
        if {**line, "credentials": None} != {**opened, "credentials": None}:
            raise UsageError("it was changed after it was exported")
        return opened


def generate_key() -> str:
    return Fernet.generate_key().decode()
