"""Sends clients with a vendor's address built in to ``MOVED_TO``, where the sandbox is. Nothing else is changed."""

import dataclasses
import os
from contextlib import suppress

BASE = os.environ.get("MOVED_TO", "")
MOVED = (
    ("https://www.slack.com/api/", f"{BASE}/slack/api/"),
    ("https://slack.com/api/", f"{BASE}/slack/api/"),
    ("https://api.gong.io/v2/", f"{BASE}/gong/v2/"),
)


def moved(url):
    for theirs, ours in MOVED:
        if url.startswith(theirs):
            # Slack documents "under 1000", and the sandbox holds to it; Airbyte asks for 1000
            return ours + url[len(theirs) :].lstrip("/").replace("limit=1000", "limit=999")
    return url


def field_of(cls, name, kind, keyword_only):
    """airbyte-source-gong asks for Python 3.9 to 3.11, and from 3.11 on a default must have a hash."""
    try:
        return get_field(cls, name, kind, keyword_only)
    except ValueError:
        type(cls.__dict__[name]).__hash__ = object.__hash__
        return get_field(cls, name, kind, keyword_only)


if BASE:
    get_field, dataclasses._get_field = dataclasses._get_field, field_of
    with suppress(ImportError):
        from requests.adapters import HTTPAdapter

        send = HTTPAdapter.send

        def sent(self, request, *args, **kwargs):
            request.url = moved(request.url)
            return send(self, request, *args, **kwargs)

        HTTPAdapter.send = sent
    with suppress(ImportError):
        from slack.web.base_client import BaseClient

        held = list(BaseClient.__init__.__defaults__)
        BaseClient.__init__.__defaults__ = tuple(moved(one) if isinstance(one, str) else one for one in held)
