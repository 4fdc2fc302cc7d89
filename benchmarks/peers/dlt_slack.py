"""A pipeline of dlt's for Slack, as its documentation of the REST source has it. Runs in dlt's own environment."""

from __future__ import annotations

import json
import sys
import time

import dlt
from dlt.sources.rest_api import rest_api_source


def main(spec: dict) -> dict:
    line, oldest = spec["line"], f"{time.time() - spec['days'] * 86_400:.6f}"
    paged = {"type": "cursor", "cursor_path": "response_metadata.next_cursor", "cursor_param": "cursor"}

    def resource(name: str, path: str, selector: str, key: list, parent: tuple = (), **params: object) -> dict:
        endpoint = {"path": path, "data_selector": selector, "params": {"limit": 200, **params}}
        return {"name": name, "primary_key": key, "endpoint": endpoint, "include_from_parent": list(parent)}

    source = rest_api_source(
        {
            "client": {
                "base_url": f"{spec['base']}/slack/api/",
                "auth": {"type": "bearer", "token": line["credentials"]["token"]},
                "paginator": paged,
            },
            "resource_defaults": {"write_disposition": "merge"},
            "resources": [
                resource("users", "users.list", "members", ["id"]),
                resource(
                    "channels",
                    "users.conversations",
                    "channels",
                    ["id"],
                    types="public_channel,private_channel,mpim,im",
                ),
                resource(
                    "messages",
                    "conversations.history",
                    "messages",
                    ["_channels_id", "ts"],
                    ("id",),
                    channel="{resources.channels.id}",
                    oldest={"type": "incremental", "cursor_path": "ts", "initial_value": oldest},
                ),
                resource(
                    "replies",
                    "conversations.replies",
                    "messages",
                    ["_messages__channels_id", "ts"],
                    ("_channels_id",),
                    channel="{resources.messages._channels_id}",
                    ts="{resources.messages.ts}",
                ),
            ],
        },
        max_table_nesting=0,  # JSON columns: the cheapest that it can do
    )
    destination = dlt.destinations.postgres(spec["url"])
    pipeline = dlt.pipeline("slack_bench", destination=destination, dataset_name="slack")
    pipeline.run(source)
    counts = pipeline.last_trace.last_normalize_info.row_counts
    return {"rows": {name: count for name, count in counts.items() if not name.startswith("_dlt")}}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
