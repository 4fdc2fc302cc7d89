"""What Google's APIs share, emulated: the error envelope, partial answers, page tokens, signed assertions."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

TOKEN_URL = "https://oauth2.googleapis.com/token"
_TOKEN_LIVES_S = 3600


class Refusal(Exception):
    """An error answer in Gmail's envelope; ``domain`` usageLimits for limits."""

    def __init__(
        self, code: int, reason: str, status: str, message: str, domain: str = "global", detail: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        error = {
            "code": code,
            "message": message,
            "errors": [{"message": message, "domain": domain, "reason": reason}],
            "status": status,
        }
        if detail:
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            error["details"] = [{"@type": kind, "reason": detail, "domain": "googleapis.com"}]
        self.body = {"error": error}


def invalid(message: str) -> Refusal:
    return Refusal(400, "invalidArgument", "INVALID_ARGUMENT", message)


def missing() -> Refusal:
    return Refusal(404, "notFound", "NOT_FOUND", "Requested entity was not found.")


def answered(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in JSON."""
    return web.Response(
        body=orjson.dumps(value), status=status, headers=headers, content_type="application/json", charset="UTF-8"
    )


def without_empty(value: Mapping[str, Any]) -> dict[str, Any]:
    """Google leaves out what is empty."""
    return {key: part for key, part in value.items() if part not in ([], "", None)}


def selected(answer: Mapping[str, Any], fields: str) -> Mapping[str, Any]:
    """A partial answer (contract): names, ``a/b``, ``a(b,c)``, ``*``. Raises `Refusal` for what is no selector."""
    if not fields:
        return answer
    words = re.findall(r"[\w.-]+|\S", fields)
    try:
        tree = _tree(words)
    except (ValueError, IndexError):
        words = ["?"]
    if words:
        raise invalid(f"Invalid field selection {fields}")
    return {key: _kept(value, below) for key, value, below in _named(answer, tree)}


def _tree(words: list[str]) -> dict[str, Any]:
    """What a selector names, as nested objects; {} = all below. Takes its words off the list."""
    tree: dict[str, Any] = {}
    while True:
        below = tree.setdefault(_name(words), {})
        while words[:1] == ["/"]:
            words.pop(0)
            below = below.setdefault(_name(words), {})
        if words[:1] == ["("]:
            words.pop(0)
            below.update(_tree(words))
            if words.pop(0) != ")":
                raise ValueError
        if words[:1] != [","]:
            return tree
        words.pop(0)


def _name(words: list[str]) -> str:
    if not re.fullmatch(r"[\w.-]+|\*", words[0]):
        raise ValueError
    return words.pop(0)


def _named(value: Mapping[str, Any], tree: Mapping[str, Any]) -> list[tuple[str, Any, Mapping[str, Any]]]:
    return [(key, one, tree.get(key, tree.get("*", {}))) for key, one in value.items() if key in tree or "*" in tree]


def _kept(value: Any, tree: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_kept(one, tree) for one in value]
    if not tree or not isinstance(value, dict):
        return value
    return {key: _kept(one, below) for key, one, below in _named(value, tree)}


def seal(now: datetime, method: str, position: int) -> str:
    """An opaque page token, numeric-looking as recorded, good for an hour."""
    return str(int.from_bytes(orjson.dumps([method, position, int(now.timestamp()) + _TOKEN_LIVES_S]), "big"))


def unseal(now: datetime, method: str, token: str) -> int:
    """The position that a page token stands for. Raises `Refusal` when it is another's, too old or none."""
    try:
        number = int(token)
        named, position, until = orjson.loads(number.to_bytes((number.bit_length() + 7) // 8, "big"))
    except (ValueError, OverflowError, TypeError):
        raise invalid("Invalid pageToken") from None
    if named != method or until < now.timestamp():
        raise invalid("Invalid pageToken")
    return int(position)


def claims_of(assertion: str) -> dict[str, Any]:
    """What a JWT says. Raises ValueError when it is none."""
    parts = assertion.split(".")
    if len(parts) != 3:
        raise ValueError("not a JWT")
    head, claims = (orjson.loads(unpadded(part)) for part in parts[:2])
    if not isinstance(claims, dict) or not isinstance(head, dict) or head.get("alg") != "RS256":
        raise ValueError("not a JWT signed by RS256")
    return claims


def assertion_fault(assertion: str) -> str:
    """Why a signed assertion is no good whoever signed it, "" when it is."""
    try:
        claims = claims_of(assertion)
        short = 0 < claims["exp"] - claims["iat"] <= 3600
    except (ValueError, KeyError, TypeError):
        return "Invalid JWT: the assertion cannot be read."
    if claims.get("aud") != TOKEN_URL or not short:
        return "Invalid JWT: Token must be a short-lived token (60 minutes) for this audience."
    return ""


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
