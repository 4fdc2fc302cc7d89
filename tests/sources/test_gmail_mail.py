"""A mail in Gmail's JSON becomes a record, whatever is in it."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from email.header import decode_header

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.sources import gmail_mail
from syncd.sources.gmail_mail import conversation, long_texts, message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["From", "To", "Subject", "Content-Type", "Content-Disposition"]) | JSON,
            "value": st.text() | JSON,
        }
    )
    | JSON,
    max_size=4,
)
LEAF = st.fixed_dictionaries(
    {},
    optional={
        "partId": st.text(max_size=3) | JSON,
        "mimeType": st.sampled_from(["text/plain", "text/html", "message/rfc822", "multipart/mixed"]) | JSON,
        "filename": st.text(max_size=5) | JSON,
        "headers": HEADERS | JSON,
        "body": st.fixed_dictionaries({}, optional={"data": st.text() | JSON, "size": JSON, "attachmentId": JSON})
        | JSON,
    },
)
PART = st.recursive(
    LEAF,
    lambda inner: st.fixed_dictionaries(
        {
            "mimeType": st.sampled_from(["multipart/alternative", "multipart/mixed", "multipart/related"]),
            "parts": st.lists(inner | JSON, max_size=4) | JSON,
        }
    ),
    max_leaves=6,
)


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()


def leaf(kind: str, content: bytes | str, part_id: str = "", **more):
    data = content.encode() if isinstance(content, str) else content
    return {"partId": part_id, "mimeType": kind, "body": {"size": len(data), "data": b64(data)}, **more}


def multi(kind: str, *parts, **more):
    return {"mimeType": f"multipart/{kind}", "parts": list(parts), "body": {"size": 0}, **more}


def file(name: str, kind: str = "application/pdf", part_id: str = "1", **more):
    return {"partId": part_id, "mimeType": kind, "filename": name, "body": {"attachmentId": "h1", "size": 9}, **more}


def headers(**values):
    return {"headers": [{"name": name.replace("_", "-"), "value": value} for name, value in values.items()]}


def read(payload, texts=None, **more):
    return message({"id": "m", "threadId": "t", "payload": payload, **more}, "t", texts or {})


# ---- bodies


def test_plain_text_is_preferred_and_html_kept_beside_it():
    made = read(multi("alternative", leaf("text/plain", "plain"), leaf("text/html", "<b>rich</b>")))
    assert (made.text, made.html) == ("plain", "<b>rich</b>")


def test_a_nested_mail_is_read_in_order_with_its_files():
    body = multi(
        "related",
        multi("alternative", leaf("text/plain", "one"), leaf("text/html", "<p>one</p>")),
        file("a.png", "image/png"),
    )
    made = read(multi("mixed", body, file("b.pdf", part_id="2"), leaf("text/plain", "footer")))
    assert made.text == "one\n\nfooter"
    assert [one["name"] for one in made.attachments] == ["a.png", "b.pdf"]


def test_an_empty_plain_part_does_not_hide_the_html():
    made = read(multi("alternative", leaf("text/plain", " \r\n"), leaf("text/html", "<p>words</p>")))
    assert made.text == "words"


@pytest.mark.parametrize(
    ("content", "charset", "text"),
    [
        ("Grüße".encode(), "UTF-8", "Grüße"),
        ("Grüße".encode("iso-8859-1"), "ISO-8859-1", "Grüße"),
        ("– 5 €".encode("cp1252"), "windows-1252", "– 5 €"),
        ("– 5 €".encode("cp1252"), "iso-8859-1", "– 5 €"),
        ("見積り".encode("shift_jis"), "Shift_JIS", "見積り"),
        ("見積り".encode("iso-2022-jp"), "ISO-2022-JP", "見積り"),
        ("Grüße".encode(), "iso-8859-1", "Grüße"),
        ("Grüße".encode(), "us-ascii", "Grüße"),
        ("Grüße".encode(), "x-unknown", "Grüße"),
        ("Grüße".encode(), "rot13", "Grüße"),
        ("Grüße".encode(), "\x00", "Grüße"),
        ("Grüße".encode("iso-8859-1"), "utf-8", "Gr�\ufffde"),
        (b"\x81\x8d", "cp1252", "��"),
        (b"\xff\xfe\xfd", "x-unknown", "���"),
    ],
)
def test_a_charset_may_be_a_lie_or_unknown(content, charset, text):
    part = leaf("text/plain", content, **headers(Content_Type=f'text/plain; format=flowed; charset="{charset}"'))
    assert read(part).text == text


@pytest.mark.parametrize(
    ("charset", "meant", "text"),
    [
        ("gb2312", "gbk", "朱镕基①"),
        ("x-gbk", "gbk", "朱镕基"),
        ("gbk", "gb18030", "朱镕基€"),
        ("Shift_JIS", "cp932", "①髙"),
        ("x-sjis", "cp932", "見積り"),
        ("euc-kr", "cp949", "똠방각하"),
        ("ks_c_5601-1987", "cp949", "똠방각하"),
        ("iso-8859-8-i", "iso-8859-8", "שלום"),
        ("iso-8859-6-e", "iso-8859-6", "سلام"),
        ("windows-874", "cp874", "สวัสดี"),
        ("x-mac-cyrillic", "mac_cyrillic", "Привет"),
    ],
)
def test_a_charset_is_read_as_browsers_read_it(charset, meant, text):
    part = leaf("text/plain", text.encode(meant), **headers(Content_Type=f"text/plain; charset={charset}"))
    assert read(part).text == text


@pytest.mark.parametrize("data", ["aGVsbG8_", "aGVsbG8_==", "aGVs\r\nbG8_", "aGVsbG8/", "aGVs*bG8_=", "aGVsbG8_a"])
def test_base64_of_any_style_is_read(data):
    assert read({"mimeType": "text/plain", "body": {"data": data}}).text == "hello?"


def test_text_that_came_as_a_handle_is_asked_for_and_used():
    part = {"partId": "0", "mimeType": "text/plain", "body": {"attachmentId": "h", "size": 20}}
    assert long_texts({"id": "m", "payload": multi("mixed", part, file("a.txt", "text/plain"))}) == {"0": "h"}
    assert read(part, {"0": b64(b"long")}).text == "long"


def test_a_text_of_any_length_is_asked_for():
    part = {"partId": "0", "mimeType": "text/plain", "body": {"attachmentId": "h", "size": 9_000_000}}
    assert long_texts({"id": "m", "payload": part}) == {"0": "h"}


def test_a_message_without_its_fetched_text_is_another_one_than_with_it():
    part = {"partId": "0", "mimeType": "text/plain", "body": {"attachmentId": "h", "size": 20}}
    assert read(part, {"0": ""}).stable != read(part, {"0": b64(b"long")}).stable


def test_a_mail_without_text_shows_its_snippet():
    assert read(file("a.pdf"), snippet="Tom &amp; Ana&#39;s").text == "Tom & Ana's"


# ---- HTML


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<style>p{}</style><script>x()</script><p>Hi&nbsp;you</p>", "Hi you"),
        ('<p>Read <a href="https://x.example/?a=1&amp;b=2">more</a></p>', "Read [more](https://x.example/?a=1&b=2)"),
        ("<table><tr><td>A</td><td>B</td></tr><tr><td>1</td><td>2</td></tr></table>", "A B\n1 2"),
        ("<div style='color:red; display: none'>hidden</div><div style='margin-top:99999em'>seen</div>", "seen"),
        ("<?xml version='1.0' encoding='latin1'?><p>declared</p>", "declared"),
        ("a ͏ ͏ ͏ ͏ ͏ ͏ b", "a b"),
        ("no tags at all", "no tags at all"),
        ("<p>broken <b>tags", "broken tags"),
    ],
)
def test_html_alone_becomes_readable_text(html, text):
    made = read(leaf("text/html", html))
    assert (made.text, made.html) == (text, html)


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 100_000 + "x",
        "<table><tr><td>" * 30_000 + "x",
        "<table>" + f"<tr><td>{'x' * 100_000}</td></tr>" + "<tr><td>a</td></tr>" * 5_000,
        "<p style='margin-top:9999999em'>x</p>" * 5_000,
        "<" * 300_000,
        "<!--" * 100_000,
        "<a href='" + "x" * 400_000,
    ],
)
def test_hostile_html_costs_little(html):
    began = time.process_time()
    made = read(leaf("text/html", html), snippet="x")
    assert time.process_time() - began < 5
    assert len(made.text or "") < 2_000_000


# ---- who, when, what else


@pytest.fixture
def handed(monkeypatch):
    """What is handed to `decode_header`, which takes the square of its length where words do not end."""
    seen: list[str] = []

    def decode(value):
        seen.append(value)
        return decode_header(value)

    monkeypatch.setattr(gmail_mail, "decode_header", decode)
    return seen


def test_addresses_are_read_with_names_in_any_alphabet():
    made = read(
        leaf("text/plain", "x")
        | headers(
            From="=?ISO-2022-JP?B?GyRCOjRGIxsoQg==?= <Yumi@Kita.example>",
            to='"Ruiz, Ana" <Ana@x.example>, =?utf-8?q?Zo=C3=AB?= <zoe@x.example>, bo@x.example',
            Cc="undisclosed-recipients:;",
            Reply_To="Help <help@x.example>",
        )
    )
    assert (made.author_id, made.author) == ("yumi@kita.example", "佐藤")
    assert [(one["type"], one["name"], one["email"]) for one in made.recipients] == [
        ("to", "Ruiz, Ana", "ana@x.example"),
        ("to", "Zoë", "zoe@x.example"),
        ("to", None, "bo@x.example"),
        ("reply_to", "Help", "help@x.example"),
    ]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("john@acme.example <john@acme.example>", [("john@acme.example", "john@acme.example")]),
        ("ceo@acme.example <x@evil.example>", [("ceo@acme.example", "x@evil.example")]),
        ('"<ceo@acme.example>" <x@evil.example>', [("<ceo@acme.example>", "x@evil.example")]),
        ("bob@x.example via Foo <noreply@foo.example>", [("bob@x.example via Foo", "noreply@foo.example")]),
        ("Doe, John <j@x.example>", [("Doe, John", "j@x.example")]),
        ("Müller, Hans (Sales, EU) <h@x.example>", [("Müller, Hans (Sales, EU)", "h@x.example")]),
        ('a@b.example, "Ruiz \\"R\\", Ana" <r@x.example>', [(None, "a@b.example"), ('Ruiz "R", Ana', "r@x.example")]),
        ("Bob [x] <b@x>", [("Bob [x]", "b@x")]),
        ("Jo (she/her <j@x.example>", [("Jo (she/her", "j@x.example")]),
        ("Acme :) Team <a@b.example>", [("Acme :) Team", "a@b.example")]),
        ('5" Pipes <p@x.example>, Al <al@x.example>', [("5 Pipes", "p@x.example"), ("Al", "al@x.example")]),
        ("Jo <j@x.example", [("Jo", "j@x.example")]),
        ("<b@x.example> (Bob)", [("Bob", "b@x.example")]),
        ("b@x.example (Bob)", [("Bob", "b@x.example")]),
        ("Bob <>, Al <nobody>, c@d.example", [(None, "c@d.example")]),
        ("a@b.example; c@d.example", [(None, "a@b.example"), (None, "c@d.example")]),
        ("Friends: a@b.example, c@d.example;", [(None, "a@b.example"), (None, "c@d.example")]),
        ("undisclosed-recipients:;", []),
        ("=?utf-8?q?M=C3=BCller=2C_Hans?= <h@x.example>", [("Müller, Hans", "h@x.example")]),
    ],
)
def test_addresses_are_read_as_mail_programs_write_them(value, found):
    made = read(leaf("text/plain", "x") | headers(To=value))
    assert [(one["name"], one["email"]) for one in made.recipients] == found


@pytest.mark.parametrize(
    "value", ['"' + '\\"' * 100_000, "(" * 100_000 + "@", "<" * 100_000, "<," * 50_000, '"<">' * 50_000]
)
def test_a_hostile_header_costs_little(value):
    began = time.process_time()
    read(leaf("text/plain", "x") | headers(From=value))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("value", ["=?a?q?x " * 50_000, "=?a?q?x?= " + "=?a?q?x " * 50_000])
def test_of_words_that_do_not_end_none_is_looked_at(handed, value):
    read(leaf("text/plain", "x") | headers(From=value + "<a@x.example>"))
    conversation({"id": "t", "messages": [{"id": "m", "payload": headers(Subject=value)}]}, "t")
    assert sum(map(len, handed)) <= 2 * len("=?a?q?x?=")


def test_of_a_long_name_the_beginning_is_decoded(handed):
    name = "=?utf-8?q?=C3=A9?= " * 50_000
    made = read(leaf("text/plain", "x") | headers(From=name + "<a@x.example>"))
    assert (made.author[:5], made.author[-18:], made.author_id) == ("ééééé", "=?utf-8?q?=C3=A9?=", "a@x.example")
    assert max(map(len, handed)) <= 4000


def test_all_of_many_addresses_come_with_their_names(handed):
    value = ", ".join(f"=?utf-8?q?Zo=C3=AB_{n}?= <zoe{n}@x.example>" for n in range(500))
    made = read(leaf("text/plain", "x") | headers(To=value))
    assert [(one["name"], one["email"]) for one in made.recipients] == [
        (f"Zoë {n}", f"zoe{n}@x.example") for n in range(500)
    ]
    assert max(map(len, handed)) < 40


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("=?utf-8?q?Caf=C3=A9?= =?utf-8?b?w6k=?=", "Caféé"),
        ("=?x-unknown?q?Caf=C3=A9?= 5 €", "Café 5 €"),
        ("5 € =?utf-8?q?Caf=C3=A9?=  =?utf-8?q?x", "5 € Café  =?utf-8?q?x"),
        ("=?utf-8?b?w?=", "=?utf-8?b?w?="),
        ("plain ünïcode", "plain ünïcode"),
    ],
)
def test_a_subject_is_decoded_or_left_as_it_is(value, name):
    thread = {"id": "t", "messages": [{"id": "m", "payload": headers(Subject=value)}]}
    assert conversation(thread, "t").name == name


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("1777485134000", datetime(2026, 4, 29, 17, 52, 14, tzinfo=UTC)),
        (1777485134000, datetime(2026, 4, 29, 17, 52, 14, tzinfo=UTC)),
        ("soon", None),
        (None, None),
        ([], None),
        ("99999999999999999999", None),
    ],
)
def test_a_senseless_time_is_none(value, at):
    assert read({}, internalDate=value).sent_at == at


def test_files_are_known_by_message_and_part():
    inline = file("logo.png", "image/png", "0.1", **headers(Content_ID="<l>", Content_Disposition="inline"))
    made = read(multi("mixed", leaf("text/plain", "see"), inline, file("a.pdf", part_id="2")))
    assert [(one["id"], one["part_id"], one["size"], one["inline"]) for one in made.attachments] == [
        ("m:0.1", "0.1", 9, True),
        ("m:2", "2", 9, False),
    ]


def test_an_attached_mail_and_an_attached_text_are_files_not_words():
    mail = leaf("message/rfc822", "", "1", parts=[leaf("text/plain", "inner")])
    note = leaf("text/plain", "note", "2", **headers(Content_Disposition="attachment"))
    made = read(multi("mixed", leaf("text/plain", "outer", "0"), mail, note))
    assert made.text == "outer"
    assert [one["mimetype"] for one in made.attachments] == ["message/rfc822", "text/plain"]


def test_what_gmail_changes_by_itself_is_raw_but_no_change():
    first = read(multi("mixed", file("a.pdf")), labelIds=["INBOX", "UNREAD"], historyId="1", novel={"x": None})
    second = read(
        multi("mixed", file("a.pdf") | {"body": {"attachmentId": "h2", "size": 9}}),
        labelIds=["UNREAD", "INBOX"],
        historyId="2",
        novel={"x": None},
    )
    assert first.stable == second.stable
    assert first.raw != second.raw
    assert first.raw["novel"] == {"x": None}
    assert first.stable != read(multi("mixed", file("a.pdf")), labelIds=["INBOX"], novel={"x": None}).stable


def test_a_thread_changes_with_its_subject_and_not_with_its_history_id():
    def thread(history, subject):
        return conversation({"id": "t", "historyId": history, "messages": [{"payload": headers(Subject=subject)}]}, "t")

    assert thread("1", "a").stable == thread("2", "a").stable
    assert thread("1", "a").stable != thread("1", "b").stable
    assert "messages" not in thread("1", "a").raw


@settings(max_examples=300, deadline=None)
@given(
    payload=PART | JSON,
    more=st.dictionaries(st.sampled_from(["threadId", "labelIds", "snippet", "internalDate"]), JSON),
)
def test_no_json_makes_a_mapper_fail(payload, more):
    raw = {"id": "m", "payload": payload, **more}
    made = message(raw, "t", {})
    assert made.external_id == "m"
    assert isinstance(long_texts(raw), dict)
    assert conversation({"messages": [raw, None]}, "t").external_id == "t"
