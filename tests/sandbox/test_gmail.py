"""The emulated Gmail answers as Gmail does."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import datetime, timedelta
from email import message_from_bytes
from importlib.resources import files

import aiohttp
import pytest
import pytest_asyncio
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError

from syncd.sandbox import gmail
from syncd.sandbox.world import Options, World


class Client:
    """Plain HTTP with the first workspace's token: ``await client("threads", labelIds="INBOX")`` → (status, body)."""

    def __init__(self, box, session, line):
        self.box, self.session, self.line = box, session, line
        self.token = ""
        self.headers = {}

    async def sign_in(self, **form):
        form = {"grant_type": "refresh_token", **self.line["credentials"], **form}
        async with self.session.post(f"{self.box.base}/gmail/token", data=form) as response:
            body = await response.json()
        self.token = body.get("access_token", self.token)
        return response.status, body

    async def __call__(self, path, *, user="me", headers=None, method="GET", **query):
        url = f"{self.box.base}/gmail/gmail/v1/users/{user}/{path}"
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        async with self.session.request(method, url, params=query, headers=sent) as response:
            self.headers = response.headers
            return response.status, await response.json()

    async def ok(self, path, **query):
        status, body = await self(path, **query)
        assert status == 200, body
        return body

    def act(self, action, **body):
        return self.box.gmail.act("acme", action, body)


@pytest_asyncio.fixture
async def client(sandbox):
    sessions = []

    async def make(**options):
        box = await sandbox(Options(**{"workspaces": 2, "limits": False} | options))
        sessions.append(aiohttp.ClientSession(auto_decompress=True))
        made = Client(box, sessions[-1], next(box.gmail.connections()))
        await made.sign_in()
        return made

    yield make
    for session in sessions:
        await session.close()


def reason(body):
    return body["error"]["errors"][0]["reason"]


# ---- who may ask


@pytest.mark.parametrize("scheme", ["", "Basic ", "Bearer"])
async def test_a_token_counts_only_as_a_bearer_token(client, scheme):
    c = await client()
    assert (await c("profile", headers={"Authorization": scheme + c.token}))[0] == 401


async def test_without_a_good_token_the_answer_is_401_with_a_challenge(client):
    c = await client()
    c.token = "ya29.unknown"
    status, body = await c("profile")
    assert (status, reason(body), body["error"]["status"]) == (401, "authError", "UNAUTHENTICATED")
    assert 'error="invalid_token"' in c.headers["WWW-Authenticate"]


async def test_an_access_token_lives_for_an_hour_of_the_sandboxs_clock(client):
    c = await client()
    await c.ok("profile")
    c.box.world.clock.advance(timedelta(hours=1))
    assert (await c("profile"))[0] == 401


async def test_the_owner_may_be_named_and_nobody_else(client):
    c = await client()
    assert (await c("profile", user=c.line["account"]))[0] == 200
    status, body = await c("profile", user="someone@else.example")
    assert (status, reason(body)) == (403, "forbidden")
    assert body["error"]["message"].startswith("Delegation denied for")


async def test_a_refresh_tells_its_scope_and_gives_no_new_refresh_token(client):
    status, body = await (await client()).sign_in()
    assert status == 200
    assert body.keys() == {"access_token", "expires_in", "scope", "token_type"}


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"refresh_token": "1//none"}, 400, "invalid_grant"),
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "x.y"}, 400, "invalid_grant"),
    ],
)
async def test_the_token_endpoint_refuses_in_googles_words(client, form, status, error):
    answer = await (await client()).sign_in(**form)
    assert (answer[0], answer[1]["error"]) == (status, error)
    assert answer[1]["error_description"]


async def test_a_revoked_sign_in_is_refused_everywhere_until_it_is_restored(client):
    c = await client()
    c.act("revoke")
    assert (await c("profile"))[0] == 401
    assert (await c.sign_in())[1]["error"] == "invalid_grant"
    c.act("restore")
    assert (await c.sign_in())[0] == 200


async def test_the_metadata_scope_gives_headers_but_neither_bodies_nor_search(client):
    c = await client()
    c.act("scopes", scopes=["gmail.metadata"])
    one = (await c.ok("messages"))["messages"][0]["id"]
    assert "parts" not in (await c.ok(f"messages/{one}", format="metadata"))["payload"]
    status, body = await c(f"messages/{one}", format="full")
    assert (status, body["error"]["details"][0]["reason"]) == (403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
    assert "does not support 'q'" in (await c("messages", q="x"))[1]["error"]["message"]


# ---- lists


async def test_lists_go_newest_first_by_opaque_tokens_to_the_end(client):
    c = await client(page_size=3)
    seen, query = [], {}
    while True:
        page = await c.ok("messages", maxResults="900", **query)
        seen += [one["id"] for one in page["messages"]]
        if "nextPageToken" not in page:
            break
        query = {"pageToken": page["nextPageToken"]}
    times = [int((await c.ok(f"messages/{one}", format="minimal"))["internalDate"]) for one in seen[:9]]
    assert times == sorted(times, reverse=True)
    assert len(set(seen)) == len(seen) > 30


async def test_a_page_token_expires_and_is_not_taken_from_another_list(client):
    c = await client(page_size=3)
    token = (await c.ok("threads"))["nextPageToken"]
    assert (await c("messages", pageToken=token))[0] == 400
    assert (await c("threads", pageToken="12"))[0] == 400
    c.box.world.clock.advance(timedelta(hours=2))
    await c.sign_in()
    assert (await c("threads", pageToken=token))[0] == 400


async def test_what_is_empty_is_left_out(client):
    c = await client()
    assert await c.ok("threads", labelIds="CHAT") == {"resultSizeEstimate": 0}
    now = (await c.ok("profile"))["historyId"]
    assert await c.ok("history", startHistoryId=now) == {"historyId": now}


async def test_spam_and_bin_are_listed_on_request_only(client):
    c = await client()
    usual = {one["id"] for one in (await c.ok("messages", maxResults="500"))["messages"]}
    every = {one["id"] for one in (await c.ok("messages", maxResults="500", includeSpamTrash="True"))["messages"]}
    spam = {one["id"] for one in (await c.ok("messages", labelIds="SPAM"))["messages"]}
    assert spam
    assert spam <= every - usual


async def test_search_by_time_sender_and_label(client):
    c = await client()
    made = c.act("add", **{"from": "Max <max@findme.example>"})
    for q in ("from:findme", "label:inbox from:max@findme.example", "after:1 from:findme"):
        assert [one["id"] for one in (await c.ok("messages", q=q))["messages"]] == [made["id"]]
    assert "messages" not in await c.ok("messages", q="before:1")


async def test_labels_tell_their_type(client):
    found = {one["id"]: one for one in (await (await client()).ok("labels"))["labels"]}
    assert found["INBOX"]["type"] == "system"
    assert (found["Label_1"]["name"], found["Label_1"]["type"]) == ("Customers", "user")


# ---- threads, messages, attachments


async def test_a_thread_is_oldest_first_with_the_bin_in_it_and_the_highest_history_id(client):
    c = await client()
    made = c.act("add")
    reply = c.act("add", thread_id=made["threadId"])
    c.act("trash", id=reply["id"])
    thread = await c.ok(f"threads/{made['threadId']}")
    assert [one["id"] for one in thread["messages"]] == [made["id"], reply["id"]]
    assert thread["historyId"] == max((one["historyId"] for one in thread["messages"]), key=int)
    assert isinstance(thread["messages"][0]["internalDate"], str)


async def test_the_formats_of_a_message(client):
    c = await client()
    one = (await c.ok("messages", labelIds="Label_1"))["messages"][0]["id"]
    assert (await c.ok(f"messages/{one}", format="minimal"))["payload"] == {"partId": ""}
    only = await c.ok(f"messages/{one}", format="metadata", metadataHeaders="subject")
    assert [header["name"] for header in only["payload"]["headers"]] == ["Subject"]
    mail = message_from_bytes(base64.urlsafe_b64decode((await c.ok(f"messages/{one}", format="raw"))["raw"]))
    assert mail["From"]
    assert (await c(f"threads/{one}", format="raw"))[0] == 400


async def test_an_attachment_has_another_handle_each_time_and_old_ones_die(client):
    c = await client()
    one = (await c.ok("messages", q="from:calendar@"))["messages"][0]["id"]

    async def handle():
        return (await c.ok(f"messages/{one}"))["payload"]["parts"][1]["body"]["attachmentId"]

    first, second = await handle(), await handle()
    assert first != second
    data = await c.ok(f"messages/{one}/attachments/{first}")
    assert len(base64.urlsafe_b64decode(data["data"])) == data["size"] == 412
    c.box.world.clock.advance(timedelta(hours=2))
    await c.sign_in()
    assert (await c(f"messages/{one}/attachments/{first}"))[0] == 404
    assert (await c(f"messages/{one}/attachments/nonsense"))[0] == 400


async def test_fields_select_a_part_of_the_answer(client):
    c = await client()
    page = await c.ok("threads", fields="nextPageToken,threads(id,historyId)")
    assert page.keys() == {"threads"}
    assert page["threads"][0].keys() == {"id", "historyId"}
    one = page["threads"][0]["id"]
    assert (await c.ok(f"threads/{one}", fields="messages/payload/mimeType"))["messages"][0].keys() == {"payload"}
    assert (await c("threads", fields="threads(id"))[0] == 400


async def test_gzip_needs_the_word_in_both_headers(client):
    c = await client()
    await c.ok("labels", headers={"Accept-Encoding": "gzip", "User-Agent": "test"})
    assert "Content-Encoding" not in c.headers
    await c.ok("labels", headers={"Accept-Encoding": "gzip", "User-Agent": "test (gzip)"})
    assert c.headers["Content-Encoding"] == "gzip"


# ---- history


async def test_each_change_is_a_record_of_its_type_by_a_counter_with_gaps(client):
    c = await client()
    start = (await c.ok("profile"))["historyId"]
    made = c.act("add")
    c.act("label", id=made["id"], add=["STARRED"], remove=["UNREAD"])
    c.act("touch", id=made["id"])
    c.act("delete", id=made["id"])
    answer = await c.ok("history", startHistoryId=start)
    kinds = [sorted(set(record) - {"id", "messages"}) for record in answer["history"]]
    assert kinds == [["messagesAdded"], ["labelsAdded"], ["labelsRemoved"], [], ["messagesDeleted"]]
    numbers = [int(record["id"]) for record in answer["history"]]
    assert int(start) < numbers[0] < numbers[-1] <= int(answer["historyId"])
    assert numbers == sorted(numbers)
    assert numbers[-1] - numbers[0] > 5
    assert (await c(f"messages/{made['id']}"))[0] == 404
    deleted = await c.ok("history", startHistoryId=start, historyTypes="messageDeleted")
    assert [record["id"] for record in deleted["history"]] == [str(numbers[-1])]


async def test_history_before_the_floor_and_beyond_the_present_is_404(client):
    c = await client()
    now = int((await c.ok("profile"))["historyId"])
    status, body = await c("history", startHistoryId=str(now + 1000))
    assert (status, reason(body), body["error"]["status"]) == (404, "notFound", "NOT_FOUND")
    c.act("expire_history")
    assert (await c("history", startHistoryId=str(now)))[0] == 404
    status, body = await c("history")
    assert (status, reason(body)) == (400, "invalidArgument")


async def test_history_is_kept_for_about_a_week(client):
    c = await client()
    start = (await c.ok("profile"))["historyId"]
    c.act("add")
    c.box.world.clock.advance(timedelta(days=9))
    await c.sign_in()
    assert (await c("history", startHistoryId=start))[0] == 404


async def test_an_edited_draft_is_another_message_of_the_same_thread(client):
    c = await client()
    done = c.act("edit", text="again")
    assert (await c(f"messages/{done['replaced']}"))[0] == 404
    assert [one["id"] for one in (await c.ok(f"threads/{done['threadId']}"))["messages"]] == [done["id"]]


async def test_an_imported_mail_is_old_by_date_and_new_by_history(client):
    c = await client()
    start = (await c.ok("profile"))["historyId"]
    made = c.act("add", at="2019-05-01T00:00:00+00:00")
    assert (await c.ok("history", startHistoryId=start))["history"][0]["messages"][0]["id"] == made["id"]
    assert (await c.ok(f"messages/{made['id']}"))["internalDate"].startswith("15566")


# ---- limits


@pytest.mark.parametrize(("prices", "gets"), [("new", 150), ("old", 1500)])
async def test_units_run_out_with_a_403_that_tells_when_to_come_back(client, prices, gets):
    c = await client(limits=True, switches={"gmail.prices": prices})
    mailbox = c.box.gmail._mailboxes["acme"]
    cost = gmail._PRICES["threads.get"][prices == "old"]
    for _ in range(gets):
        assert c.box.world.over_limit(gmail._RATES[prices], "gmail", mailbox.workspace, "units", cost=cost) is None
    status, body = await c("threads")
    assert (status, reason(body), body["error"]["errors"][0]["domain"]) == (403, "userRateLimitExceeded", "usageLimits")
    assert "Retry-After" not in c.headers
    at = datetime.fromisoformat(body["error"]["message"].partition("Retry after ")[2])
    assert timedelta(0) < at - c.box.world.clock.now() <= timedelta(seconds=61)


async def test_a_burst_is_429(client):
    c = await client(limits=True)
    answers = [await c("labels") for _ in range(60)]
    refused = [body for status, body in answers if status == 429]
    assert refused
    assert refused[0]["error"]["message"] == "Too many concurrent requests for user"


# ---- the data, and Google's own client


def test_the_same_seed_and_moment_give_the_same_mailboxes():
    world = World(Options(workspaces=2))
    first, second = (type(world)(world.options, world.clock) for _ in range(2))
    second.born = first.born
    assert [box.messages for box in gmail.Gmail(first)._mailboxes.values()] == [
        box.messages for box in gmail.Gmail(second)._mailboxes.values()
    ]


async def test_googles_own_client_reads_it(client):
    c = await client(page_size=5)
    text = files("googleapiclient.discovery_cache").joinpath("documents/gmail.v1.json").read_text()
    document = json.loads(text) | {"rootUrl": f"{c.box.base}/gmail/"}
    document.pop("mtlsRootUrl", None)
    secret = c.line["credentials"]
    credentials = Credentials(None, token_uri=f"{c.box.base}/gmail/token", **secret)

    def read():
        with build_from_document(document, credentials=credentials) as api:
            users = api.users()
            profile = users.getProfile(userId="me").execute()
            pages, request = [], users.threads().list(userId="me", labelIds=["INBOX"], maxResults=50)
            while request is not None:
                pages.append(request.execute())
                request = users.threads().list_next(request, pages[-1])
            first = users.threads().get(userId="me", id=pages[0]["threads"][0]["id"], format="full").execute()
            try:
                users.history().list(userId="me", startHistoryId="1").execute()
            except HttpError as error:
                return profile, pages, first, error.status_code
        return None

    profile, pages, first, status = await asyncio.to_thread(read)
    assert profile["emailAddress"] == c.line["account"]
    assert len(pages) > 2
    assert first["messages"]
    assert status == 404
