"""The old design, written fairly: a periodic task fans out one task per workspace, synchronous clients read, a session
writes. Everything that a worker of Celery's does by default; JSON by the standard library, as its clients have it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import requests
from celery import Celery
from slack_sdk import WebClient

from benchmarks.old_design.store import Meeting, Message, Person, Sessions, Transcript, save

if TYPE_CHECKING:
    from collections.abc import Iterator

app = Celery("old", broker=os.environ["OLD_BROKER"], backend=os.environ["OLD_RESULTS"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
if queue := os.environ.get("OLD_QUEUE"):
    app.conf.broker_transport_options = {"data_folder_in": queue, "data_folder_out": queue}
PER_PAGE = 200


@app.task
def ready() -> bool:
    """That a worker is there."""
    return True


@app.task
def sync_slack(workspace: str, base: str, credentials: dict[str, str], days: float, selector: Any) -> int:
    """The people, the channels, their messages since then, and the replies to these."""
    client = WebClient(token=credentials["token"], base_url=f"{base}/slack/api/")
    oldest = datetime.now(UTC) - timedelta(days=days)
    stored = 0
    with Sessions() as session:
        for page in client.users_list(limit=PER_PAGE):
            rows = [
                {"workspace_id": workspace, "external_id": one["id"], "name": one["name"], "raw": one}
                for one in page["members"]
            ]
            save(session, Person, rows)
        for page in client.users_conversations(types="public_channel,private_channel,mpim,im", limit=PER_PAGE):
            for channel in page["channels"]:
                stored += _channel(client, session, workspace, channel["id"], oldest)
    return stored


def _channel(client: WebClient, session: Any, workspace: str, channel: str, oldest: datetime) -> int:
    stored = 0
    for page in client.conversations_history(channel=channel, oldest=f"{oldest.timestamp():.6f}", limit=PER_PAGE):
        messages = page["messages"]
        stored += save(session, Message, [_row(workspace, channel, one) for one in messages])
        for parent in messages:
            if not parent.get("reply_count"):
                continue
            for thread in client.conversations_replies(channel=channel, ts=parent["ts"], limit=PER_PAGE):
                replies = [one for one in thread["messages"] if one["ts"] != parent["ts"]]
                stored += save(session, Message, [_row(workspace, channel, one) for one in replies])
    return stored


def _row(workspace: str, channel: str, one: dict[str, Any]) -> dict[str, Any]:
    return {
        "workspace_id": workspace,
        "external_id": f"{channel}:{one['ts']}",
        "conversation_id": channel,
        "thread_ts": one.get("thread_ts"),
        "author_id": one.get("user"),
        "sent_at": datetime.fromtimestamp(float(one["ts"]), UTC),
        "text": one.get("text"),
        "raw": one,
    }


@app.task
def sync_gong(workspace: str, base: str, credentials: dict[str, str], days: float, selector: Any) -> int:
    """The users, the calls since then, and their transcripts."""
    http = requests.Session()
    if "access_token" in credentials:
        http.headers["Authorization"] = f"Bearer {credentials['access_token']}"
    else:
        http.auth = (credentials["access_key"], credentials["access_key_secret"])
    start = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    window = {"fromDateTime": start, "toDateTime": datetime.now(UTC).isoformat()}
    stored, ids = 0, list[str]()
    with Sessions() as session:
        for page in _gong(http, f"{base}/gong/v2/calls/extensive", {"filter": window, "contentSelector": selector}):
            calls = [one for one in page.get("calls", ()) if not one["metaData"].get("isPrivate")]
            ids += [one["metaData"]["id"] for one in calls]
            stored += save(session, Meeting, [_meeting(workspace, one) for one in calls])
        for at in range(0, len(ids), 100):
            for page in _gong(http, f"{base}/gong/v2/calls/transcript", {"filter": {"callIds": ids[at : at + 100]}}):
                found = [_transcript(workspace, one) for one in page.get("callTranscripts") or ()]
                stored += save(session, Transcript, found)
    return stored


def _gong(http: requests.Session, url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    while True:
        answer = http.post(url, json=body, timeout=60)
        if answer.status_code == 404:
            return
        answer.raise_for_status()
        page = answer.json()
        yield page
        cursor = page.get("records", {}).get("cursor")
        if not cursor:
            return
        body = {**body, "cursor": cursor}


def _meeting(workspace: str, one: dict[str, Any]) -> dict[str, Any]:
    meta = one["metaData"]
    started = datetime.fromisoformat(meta["started"])
    return {
        "workspace_id": workspace,
        "external_id": meta["id"],
        "title": meta.get("title"),
        "started_at": started,
        "raw": one,
    }


def _transcript(workspace: str, one: dict[str, Any]) -> dict[str, Any]:
    spoken = one.get("transcript") or []
    said = "\n".join(sentence["text"] for part in spoken for sentence in part.get("sentences") or ())
    return {"workspace_id": workspace, "external_id": one["callId"], "text": said, "raw": one}
