"""Credentials at rest: sealed with Fernet, each carrying the id of the connection it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from syncd.errors import SealError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NO_KEY = (
    "no secret key is configured: make one with `syncd keys generate`, then set SYNCD_SECRET_KEYS "
    "(or secret_keys_file in syncd.toml)"
)


class Vault:
    """Seals with the first key, opens with any. Without keys it can do neither and says so when asked."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None

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
        except InvalidToken:
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

    def reseal(self, connection_id: int, sealed: str) -> str:
        """Sealed with the first key, whichever key sealed it before. Raises `SealError`."""
        return self.seal(connection_id, self.open(connection_id, sealed))


def generate_key() -> str:
    return Fernet.generate_key().decode()
