"""The Gong source's mappers and readings, on composed and odd JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from syncd.errors import AuthError, CursorExpired, Misconfigured, Rejected, Transient
from syncd.net import Answer
from syncd.sources import gong_api, gong_calls, gong_window

CALL = {
    "metaData": {
        "id": "18446744073709551617",
        "url": "https://us-1.app.gong.example/call?id=1",
        "title": "Acme / Initech: kickoff",
        "started": "2026-09-01T17:02:11.480+02:00",
        "duration": 1832,
        "primaryUserId": "41",
        "language": "eng",
        "isPrivate": False,
    },
    "parties": [
        {"name": "Robin Field", "emailAddress": "robin@acme.example", "userId": "41", "speakerId": "64", "affiliation": "Internal"},
        {"name": None, "emailAddress": "lee@initech.example", "speakerId": None},
    ],
    "content": {
        "brief": "Pilot agreed.",
        "highlights": [
            {"title": "Next steps", "items": [{"text": "Robin sends the order form"}, {"text": None}]},
            {"title": "Pricing", "items": [{"text": "not a step"}]},
        ],
        "pointsOfInterest": {"actionItems": [{"snippet": "Lee checks the terms"}]},
    },
    "surprise": {"kept": True},
}  # fmt: skip


def test_a_call_becomes_a_meeting():
    meeting = gong_calls.meeting(CALL)
    assert meeting.external_id == "18446744073709551617"
    assert meeting.started_at == datetime(2026, 9, 1, 15, 2, 11, 480_000, tzinfo=UTC)
    assert meeting.ended_at == meeting.started_at + timedelta(seconds=1832)
    assert (meeting.host, meeting.summary, meeting.is_private) == ("Robin Field", "Pilot agreed.", False)
    assert meeting.action_items == [{"text": "Robin sends the order form"}, {"text": "Lee checks the terms"}]
    assert meeting.participants[1] == {
        "name": None, "email": "lee@initech.example", "affiliation": None, "speaker_id": None, "user_id": None,
    }  # fmt: skip
    assert meeting.raw["surprise"] == {"kept": True}


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"metaData": None, "parties": None, "content": None},
        {"metaData": [], "parties": {"0": 1}, "content": "later"},
        {"metaData": {"id": None, "started": 12, "duration": "long", "isPrivate": "yes", "primaryUserId": []}},
        {"metaData": {"id": "1", "started": "0001-01-01T00:00:00+14:00", "duration": 1e300}, "parties": [None, 3, {}]},
        {"metaData": {"id": "1", "started": "2026-13-01", "duration": True}, "content": {"highlights": [{"title": 3}]}},
        {"content": {"highlights": {"title": "Next steps"}, "pointsOfInterest": [], "brief": ["x"]}},
        {"metaData": {"started": "2999-12-31T23:59:59Z", "duration": 9e9}},
    ],
)
def test_a_call_of_any_shape_is_mapped_without_an_error(call):
    assert gong_calls.meeting(call).raw == call


def test_without_a_host_among_the_parties_its_id_stands():
    assert gong_calls.meeting({"metaData": {"id": "1", "primaryUserId": "77"}}).host == "77"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-06-10T21:50:07.428+02:00", datetime(2026, 6, 10, 19, 50, 7, 428_000, tzinfo=UTC)),
        ("2026-06-10T21:50:07Z", datetime(2026, 6, 10, 21, 50, 7, tzinfo=UTC)),
        ("2026-06-10T21:50:07.000001-07:00", datetime(2026, 6, 11, 4, 50, 7, 1, tzinfo=UTC)),
        ("2026-06-10T21:50:07", datetime(2026, 6, 10, 21, 50, 7, tzinfo=UTC)),
        ("soon", None),
        ("", None),
        (None, None),
        (1_750_000_000, None),
    ],
)
def test_moments_are_utc_or_none(text, wanted):
    assert gong_calls.moment(text) == wanted


def test_a_transcript_names_its_speakers_and_counts_in_seconds():
    row = {
        "callId": "9",
        "transcript": [
            {"speakerId": "64", "sentences": [{"start": 460, "end": 2343, "text": "Hi."}, {"start": 2500, "end": None, "text": "All well?"}]},
            {"speakerId": None, "sentences": [{"start": 0, "end": 5200, "text": "Yes."}, {"text": ""}, None]},
            {"speakerId": "65", "sentences": None},
        ],
    }  # fmt: skip
    made = gong_calls.transcript(row, CALL["parties"], CALL["metaData"])
    assert [(one["speaker"], one["start_s"], one["end_s"], one["text"]) for one in made.segments] == [
        ("Robin Field", 0.46, 2.343, "Hi."), ("Robin Field", 2.5, None, "All well?"), (None, 0, 5.2, "Yes."),
    ]  # fmt: skip
    assert made.text == "Robin Field: Hi. All well?\nUnknown speaker: Yes."
    assert made.language == "eng"


@pytest.mark.parametrize(
    ("told", "wanted"),
    [(0, 0), (1, 0.001), (0.5, 0.0005), (10**10 - 1, 9_999_999.999), (10**10, None), (-1, None), (True, None), ("7", None)],
)  # fmt: skip
def test_a_time_in_a_transcript_is_a_number_of_milliseconds_or_is_not_told(told, wanted):
    sentences = [{"start": told, "end": told, "text": "Hi."}]
    (one,) = gong_calls.transcript({"callId": "9", "transcript": [{"sentences": sentences}]}).segments
    assert [(type(at), at) for at in (one["start_s"], one["end_s"])] == [(type(wanted), wanted)] * 2


def test_what_is_no_sentence_is_left_out_and_the_others_are_kept():
    sentences = [None, "Hi.", {"text": ""}, {"text": ["Hi."]}, {}, {"text": "Yes."}]
    made = gong_calls.transcript({"callId": "9", "transcript": ["Hi.", {"sentences": "Hi."}, {"sentences": sentences}]})
    assert ([one["text"] for one in made.segments], made.text) == (["Yes."], "Unknown speaker: Yes.")


@pytest.mark.parametrize(
    "transcript", [None, [], {}, "soon", [{}], [{"sentences": []}], [{"sentences": [{"text": 3}]}]]
)
def test_a_transcript_without_words_has_no_segments(transcript):
    assert gong_calls.transcript({"callId": "9", "transcript": transcript}, "no list", ["no object"]).segments == []


def test_a_person_without_names_is_kept():
    person = gong_calls.person({"id": 77, "firstName": None, "lastName": [], "emailAddress": ""})
    assert (person.external_id, person.name, person.email) == ("77", None, None)


@pytest.mark.parametrize(
    ("status", "words", "wanted"),
    [
        (404, "No calls found corresponding to the provided filters", None),
        (404, "No users found corresponding to the provided filters", None),
        (404, "no such path", Misconfigured),
        (401, "You don't have permission to use 'api:users:read' in your app.", Misconfigured),
        (401, "Company is inactive", AuthError),
        (401, "anything", AuthError),
        (403, "Access denied", Misconfigured),
        (400, "Failed to verify cursor", CursorExpired),
        (400, "your Cursor Has Expired, sorry", CursorExpired),
        (400, "Bad request", Rejected),
        (415, "Unsupported Media Type", Rejected),
    ],
)
def test_what_the_error_envelope_means(status, words, wanted):
    error = gong_api._refusal(Answer(status, {}, b'{"requestId":"1","errors":["%s"]}' % words.encode()))
    assert type(error) is (wanted or type(None))
    assert error is None or words in error.message


def test_a_404_that_is_not_json_is_a_wrong_address():
    assert isinstance(gong_api._refusal(Answer(404, {}, b"<h1>Not found</h1>")), Misconfigured)


def test_a_200_that_is_no_listing_is_not_taken_for_an_empty_one():
    with pytest.raises(Transient):
        gong_api._batch({"requestId": "1"}, "calls")
    with pytest.raises(Transient):
        gong_api._batch({"records": {"totalRecords": 5}, "calls": None}, "calls")
    assert gong_api._batch({"records": {"totalRecords": 0, "cursor": None}, "calls": None}, "calls") == ([], "", 0)


@pytest.mark.parametrize("cursor", [5, 0, False, [], {}, ["c1"]])
def test_a_cursor_that_is_no_text_is_not_taken_for_the_end(cursor):
    with pytest.raises(Transient, match="cursor"):
        gong_api._batch({"records": {"cursor": cursor}, "calls": []}, "calls")


@pytest.mark.parametrize("records", [{}, {"cursor": None}, {"cursor": ""}])
def test_without_a_cursor_a_listing_is_at_its_end(records):
    assert gong_api._batch({"records": records, "calls": []}, "calls") == ([], "", None)


def test_the_window_is_cut_into_slices_oldest_first():
    end = datetime(2026, 9, 1, 12, tzinfo=UTC)
    slices = list(gong_window.slices(end - timedelta(days=70), end))
    assert [(until - start).days for start, until in slices] == [30, 30, 10]
    assert (slices[0][0], slices[-1][1]) == (end - timedelta(days=70), end)
    assert list(gong_window.slices(end, end)) == []
