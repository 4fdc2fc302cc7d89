"""The OpenAPI 3.1 document of `api`, served at ``/api/v1/openapi.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncd import __version__
from syncd.lines import LONGEST_NAME
from syncd.sources import SOURCES
from syncd.store.status import FRESHNESS, STATES, TROUBLES

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

BASE = "/api/v1"
MOST = 500  # rows of one answer
LARGEST = 2**63 - 1  # of what a database counts with
FARTHEST = LARGEST - MOST

_TEXT: Schema = {"type": "string"}
_TRUTH: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ID: Schema = {"type": "integer", "minimum": 1, "maximum": LARGEST}
_TIME: Schema = {"type": "string", "format": "date-time"}
_FREE: Schema = {"type": "object"}
_NAME: Schema = {"type": "string", "maxLength": LONGEST_NAME, "pattern": "^[^\\u0000]*$"}
_WORKSPACE: Schema = {**_NAME, "minLength": 1}
_SOURCE: Schema = {"type": "string", "enum": list(SOURCES)}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _enum(values: tuple[str, ...], *, null: bool = False) -> Schema:
    return {"type": ["string", "null"], "enum": [*values, None]} if null else {"type": "string", "enum": list(values)}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}, **more}


def _closed(required: Mapping[str, Schema], optional: Mapping[str, Schema], **more: Any) -> Schema:
    return _object(required, optional, additionalProperties=False, **more)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_COUNTS = dict.fromkeys(("added", "changed", "deleted", "calls"), _COUNT)
_CYCLE = _object(
    {
        "id": _ID,
        "trigger": _TEXT,
        "turn": _or_null(_TIME),
        "status": _TEXT,
        "started_at": _TIME,
        "finished_at": _or_null(_TIME),
        "total": _COUNT,
        **_COUNTS,
        **dict.fromkeys(("successful_workspaces", "failed_workspaces", "deferred_workspaces"), _COUNT),
    }
)
_QUEUE = _object(
    {
        **dict.fromkeys(("workers", "queued", "picked", "repeated_deliveries"), _COUNT),
        "oldest_waiting_s": {"type": ["number", "null"]},
    }
)
_BY_NAME: Schema = {"type": "object", "additionalProperties": _COUNT}
_OF_SOURCE = _object(
    {
        "enabled": _TRUTH,
        "next_turn": _or_null(_TIME),
        "last_cycle": {"oneOf": [_ref("Cycle"), {"type": "null"}]},
        "connections": _COUNT,
        "states": _BY_NAME,
        "freshness": _BY_NAME,
        "troubles": _BY_NAME,
        "waiting": _BY_NAME,
        "backlog": _COUNT,
        "oldest_read_at": _or_null(_TIME),
    }
)
_CONNECTION = _object(
    {
        "id": _ID,
        "workspace_id": _or_null(_TEXT),
        "source": _TEXT,
        "account": _TEXT,
        "is_active": _TRUTH,
        "has_credentials": _TRUTH,
        "status": _enum(("ok", "needs_reauth", "misconfigured")),
        "status_since": _or_null(_TIME),
        "state": {**_enum(STATES), "description": "What it does or waits for."},
        "freshness": {
            **_enum(FRESHNESS, null=True),
            "description": "How old what is held may be; null: nobody reads it.",
        },
        "trouble": {**_enum(TROUBLES, null=True), "description": "What is wrong, also while it runs or waits."},
        "running": _TRUTH,
        "failures": _COUNT,
        "backlog": _COUNT,
        "last_success_at": _or_null(_TIME),
        "next_sync_at": _or_null(_TIME),
        "limited_until": _or_null(_TIME),
        "limited_by": _or_null(_TEXT),
        "last_error": _or_null(_TEXT),
        "last_error_kind": _or_null(_TEXT),
        "last_error_at": _or_null(_TIME),
        "pass_s": _or_null(_COUNT),
        "pass_read": _or_null(_COUNT),
        "pass_parts": _or_null(_COUNT),
        "pass_of": _or_null(_TEXT),
    }
)
_RUN = _object(
    {
        "id": _ID,
        "cycle_id": _ID,
        "connection_id": _ID,
        "status": _enum(("running", "succeeded", "deferred", "interrupted", "failed")),
        "started_at": _TIME,
        "finished_at": _or_null(_TIME),
        "records": _COUNT,
        **_COUNTS,
        "error_kind": _or_null(_TEXT),
        "error": _or_null(_TEXT),
        "hint": {**_or_null(_TEXT), "description": "The way out."},
        "cursors": {**_or_null(_FREE), "description": "Stream, or stream/partition, to [before, after]."},
    }
)
_ITEM = _object(
    {
        "connection_id": _ID,
        "stream": _TEXT,
        "external_id": _TEXT,
        "reason": _TEXT,
        "attempts": _COUNT,
        "next_try_at": _TIME,
        "last_error": _or_null(_TEXT),
        "created_at": _TIME,
    }
)
_CREDENTIALS: Schema = {**_FREE, "writeOnly": True, "description": "As the README's part on the source has them."}
_SETTINGS: Schema = {**_FREE, "description": "As the README's part on the source has them."}
_ASKED = _object(
    {
        "source": _TEXT,
        "connection_id": _or_null(_ID),
        "started": _TRUTH,
        "waits": {**_TRUTH, "description": "It waits for a free place and will start by itself."},
        "cycle_id": _or_null(_ID),
        "run_id": _or_null(_ID),
        "why": {**_TEXT, "description": "Why it has not started, in words; empty where it has."},
    }
)
_SCHEMAS: dict[str, Schema] = {
    "Status": _object(
        {
            "timestamp": _TIME,
            "sources": {"type": "object", "additionalProperties": _ref("Source")},
            "queue": _or_null(_QUEUE),
            "connections": {"type": "array", "items": _ref("Connection")},
        }
    ),
    "Source": _OF_SOURCE,
    "Cycle": _CYCLE,
    "Connection": _CONNECTION,
    "WholeConnection": {"allOf": [_ref("Connection"), _object({"settings": _FREE, "created_at": _TIME})]},
    "NewConnection": _closed(
        {"workspace_id": _WORKSPACE, "source": _SOURCE},
        {"account": _NAME, "settings": _SETTINGS, "credentials": _CREDENTIALS, "is_active": _TRUTH},
        description="As a line of `syncd connections import`: key = (source, workspace_id, account).",
    ),
    "Change": _closed({}, {"settings": _SETTINGS, "credentials": _CREDENTIALS, "is_active": _TRUTH}, minProperties=1),
    "Nothing": _closed({}, {}),
    "Sync": {
        "oneOf": [
            _closed({"connection_id": _ID}, {"sweep": _TRUTH}),
            _closed({"source": _SOURCE}, {"workspace": _WORKSPACE, "sweep": _TRUTH}),
            _closed({"workspace": _WORKSPACE}, {"sweep": _TRUTH}),
        ],
        "description": "One connection, or every active one of a source, of a workspace, or of both.",
    },
    "Asked": _object({"asked": {"type": "array", "items": _ASKED}}),
    "LinkRequest": _closed(
        {"source": _SOURCE, "workspace": _WORKSPACE},
        {"account": _NAME, "expires": {"type": "string", "pattern": "^[0-9]{1,3}[smhd]$", "default": "1h"}},
    ),
    "ConnectLink": _object({"url": {"type": "string", "format": "uri"}, "expires_at": _TIME}),
    "Run": _RUN,
    "BacklogItem": _ITEM,
    "Problem": _object(
        {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT},
        description="RFC 9457. `detail` is one line for a person, with the way out.",
    ),
}

_ANY = (401, 403, 421, 429, 503)  # who asks, and whether the database answers
_WORDS = {
    200: "Done.",
    201: "Made.",
    202: "Started, or it will start by itself.",
    204: "Done.",
    400: "A parameter, or the body, cannot be read.",
    401: "No token, or a wrong one.",
    403: "Not let in, or asked for by a page of another site.",
    404: "There is no such thing.",
    409: "Not as things are now.",
    413: "The body is larger than 1 MiB.",
    415: "The body is not said to be JSON.",
    421: "This name is not ours.",
    422: "The body says something that cannot be done.",
    429: "Too many wrong tokens from this address.",
    503: "The database does not answer, or no secret key is set.",
}


def _operation(
    summary: str,
    answer: Schema | None = None,
    *,
    status: tuple[int, ...] = (200,),
    body: str = "",
    parameters: tuple[Schema, ...] = (),
    problems: tuple[int, ...] = (),
    headers: tuple[str, ...] = (),
) -> Schema:
    """One method of a path. ``problems``: beside those that any may have."""
    said: Schema = {"content": {"application/json": {"schema": answer}}} if answer else {}
    if headers:
        said["headers"] = {name: {"schema": _TEXT} for name in headers}
    responses = {str(code): {"description": _WORDS[code], **said} for code in status}
    refused = {400, *_ANY, *problems, *({413, 415, 422} if body else ())}
    for code in sorted(refused):
        responses[str(code)] = {"$ref": f"#/components/responses/{code}"}
    made: Schema = {"summary": summary, "responses": responses}
    if parameters:
        made["parameters"] = list(parameters)
    if body:
        made["requestBody"] = {"required": body != "Nothing", "content": {"application/json": {"schema": _ref(body)}}}
    return made


def _asked(name: str, schema: Schema, words: str = "") -> Schema:
    return {"name": name, "in": "query", "schema": schema, **({"description": words} if words else {})}


def _listed(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}


_LIMIT = _asked("limit", {"type": "integer", "minimum": 1, "maximum": MOST})
_PAGE = (_LIMIT, _asked("offset", {"type": "integer", "minimum": 0, "maximum": FARTHEST}))
_FILTERS = (
    _asked("source", _SOURCE),
    _asked("workspace", _WORKSPACE),
    _asked("state", _enum(STATES)),
    _asked("freshness", _enum(FRESHNESS)),
    _asked("trouble", _enum(TROUBLES)),
)


def _of(name: str, **methods: Schema) -> Schema:
    """A path with an id of that name in it."""
    return {"parameters": [{"name": name, "in": "path", "required": True, "schema": _ID}], **methods}


def _of_connections() -> dict[str, Any]:
    purge = _asked("purge", _TRUTH, "Erase its records, runs and backlog too.")
    return {
        "/connections": {
            "get": _operation(
                "As `syncd connections list --json`, page by page",
                _listed("Connection"),
                parameters=(*_FILTERS, *_PAGE),
                headers=("X-Total-Count", "Link"),
            ),
            "post": _operation(
                "Add a connection, or give the one with this key new credentials and settings",
                _ref("WholeConnection"),
                status=(200, 201),
                body="NewConnection",
                problems=(409,),
                headers=("Location",),
            ),
        },
        "/connections/{connection_id}": _of(
            "connection_id",
            get=_operation("One connection", _ref("WholeConnection"), problems=(404,)),
            patch=_operation("Change it", _ref("WholeConnection"), body="Change", problems=(404, 409)),
            delete=_operation(
                "Erase its credentials and stop it; its records stay",
                status=(204,),
                parameters=(purge,),
                problems=(404,),
            ),
        ),
    }


def _of_one_connection() -> dict[str, Any]:
    """What hangs on the path of a connection."""
    before = _asked("before", _ID, "Only runs before this one.")
    acts = {"pause": "Stop reading it until it is resumed", "resume": "Read it again, from its cursor"}
    lists = {
        "runs": ("Its runs, the last first", "Run", (_LIMIT, before)),
        "backlog": ("What is known but not read yet, the oldest first", "BacklogItem", _PAGE),
    }
    one, paths = "/connections/{connection_id}", dict[str, Any]()
    for act, words in acts.items():
        done = _operation(words, _ref("WholeConnection"), body="Nothing", problems=(404, 409))
        paths[f"{one}/{act}"] = _of("connection_id", post=done)
    for name, (words, kind, parameters) in lists.items():
        listed = _operation(words, _listed(kind), parameters=parameters, problems=(404,), headers=("Link",))
        paths[f"{one}/{name}"] = _of("connection_id", get=listed)
    return paths


def _paths() -> dict[str, Any]:
    link = "A link by which a customer connects an account, as `syncd connect-link`"
    return {
        "/openapi.json": {"get": _operation("This document", _FREE)},
        "/status": {"get": _operation("As `syncd status --json`", _ref("Status"))},
        **_of_connections(),
        **_of_one_connection(),
        "/runs/{run_id}": _of("run_id", get=_operation("One run", _ref("Run"), problems=(404,))),
        "/sync": {
            "post": _operation("Read now, due or not", _ref("Asked"), status=(202,), body="Sync", problems=(404, 409))
        },
        "/connect-links": {"post": _operation(link, _ref("ConnectLink"), body="LinkRequest", problems=(409,))},
    }


def document() -> dict[str, Any]:
    """The whole document, its paths with ``/api/v1``."""
    problem = {"application/problem+json": {"schema": _ref("Problem")}}
    refused = {str(code): {"description": words, "content": problem} for code, words in _WORDS.items() if code >= 400}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "syncd",
            "version": __version__,
            "description": "What the command line does, for programs. Times are ISO 8601 in UTC, null where unknown.",
        },
        "security": [{"token": []}, {}],
        "paths": {BASE + path: item for path, item in _paths().items()},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Of `http.token`."}},
            "schemas": _SCHEMAS,
            "responses": refused,
        },
    }
