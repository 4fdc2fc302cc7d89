"""syncd.toml and the environment: what wins, and one clear line for what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from syncd.credentials import generate_key
from syncd.daemon import plan
from syncd.durations import format_duration, parse_duration
from syncd.errors import UsageError
from syncd.settings import cron_trigger, load, masked


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str) -> None:
    Path("syncd.toml").write_text(text)


def test_without_a_file_the_defaults_hold() -> None:
    settings = load()
    assert settings.database.url.get_secret_value() == "sqlite+aiosqlite:///syncd.db"
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert settings.sources.gong.max_new_per_run == 50


def test_the_shipped_syncd_toml_says_what_the_defaults_are() -> None:
    shipped = Path(__file__).resolve().parents[1] / "syncd.toml"
    assert masked(load(shipped)) == masked(load())


def test_the_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    write('[sources.slack]\ncron = "*/5 * * * *"\nconcurrency = 3')
    assert load().sources.slack.concurrency == 3


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[sources.slack]\nconcurrency = 3\nlookback = '2h'")
    monkeypatch.setenv("SYNCD_SOURCES__SLACK__CONCURRENCY", "7")
    slack = load().sources.slack
    assert (slack.concurrency, slack.lookback) == (7, timedelta(hours=2))


def test_a_named_file_is_taken_by_option_and_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.toml").write_text("[http]\nport = 9")
    assert load("other.toml").http.port == 9
    monkeypatch.setenv("SYNCD_CONFIG", "other.toml")
    assert load().http.port == 9


def test_a_limit_given_leaves_the_others_as_the_vendor_has_them() -> None:
    write('[sources.slack.limits]\n"conversations.history" = "1/1m"')
    limits = load().sources.slack.limits
    assert (str(limits["conversations.history"]), str(limits["users.list"])) == ("1/1m", "20/1m")


def test_what_a_vendor_may_lower_a_limit_to_is_set_like_the_limit() -> None:
    write('[sources.slack.low_limits]\n"conversations.history" = "2/1m"')
    low = load().sources.slack.low_limits
    assert {name: str(rate) for name, rate in low.items()} == {
        "conversations.history": "2/1m",
        "conversations.replies": "1/1m",
    }


def test_gmails_old_price_list_is_one_setting() -> None:
    write("[sources.gmail]\nprice_list = 'old'")
    gmail = load().sources.gmail
    assert str(gmail.limits["units"]) == "15000/1m"
    assert [gmail.prices[call] for call in ("threads.get", "messages.get", "threads.list")] == [10, 5, 10]


def test_a_price_and_a_limit_of_ones_own_go_before_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[sources.gmail]\nlimits = {units = '9000/1m'}\nprices = {'threads.get' = 11}")
    monkeypatch.setenv("SYNCD_SOURCES__GMAIL__PRICE_LIST", "old")
    gmail = load().sources.gmail
    assert (str(gmail.limits["units"]), gmail.prices["threads.get"], gmail.prices["messages.get"]) == ("9000/1m", 11, 5)


@pytest.mark.parametrize(
    ("toml", "names"),
    [
        ("[sources.slack]\nfoo = 1", "sources.slack.foo"),
        ("[sources.hubspot]\nenabled = true", "sources.hubspot"),
        ("[sources.slack]\ncron = 'often'", "sources.slack.cron"),
        ("[sources.slack]\ncron = '61 * * * *'", "sources.slack.cron"),
        ("[sources.slack]\ncron = '0 0 31 2 *'", "never fires"),
        ("[sources.slack]\ncron = '0 0 * * 5-2'", "sources.slack.cron"),
        ("[sources.slack]\ncron = '0 0 1 * 1'", "not both"),
        ("[sources.gong]\nlookback = '9999999999d'", "sources.gong.lookback"),
        ("[sources.gong]\nbase_url = 'api.gong.io'", "sources.gong.base_url"),
        ("[sources.gong]\nlookback = 'a day'", "sources.gong.lookback"),
        ("[sources.gong]\nlookback = '24'", "sources.gong.lookback"),
        ("[sources.gong]\nlookback = 24", "sources.gong.lookback"),
        ("[sources.gong]\nlookback = '0s'", "sources.gong.lookback"),
        ("secret_keys = 'abc'", "secret_keys: key 1"),
        ("[sources.gong]\nconcurrency = 0", "sources.gong.concurrency"),
        ("[sources.slack.limits]\n'users.list' = 'fast'", "sources.slack.limits"),
        ("[sources.slack.limits]\n'users.lost' = '5/1m'", "users.lost"),
        ("[sources.slack.low_limits]\n'users.lost' = '5/1m'", "users.lost"),
        ("[sources.fathom.low_limits]\nheavy = 'few'", "sources.fathom.low_limits"),
        ("[sources.slack]\napp_kind = 'small'", "sources.slack.app_kind"),
        ("[sources.slack]\nlow_for = '0s'", "sources.slack.low_for"),
        ("[sources.gong]\nlow_for = '1h'", "sources.gong.low_for"),
        ("[sources.gmail]\nprice_list = 'older'", "sources.gmail.price_list"),
        ("[sources.gmail]\nprice_list = 'old'\nprices = 5", "sources.gmail.prices"),
        ("[database]\nurl = 'mysql://localhost/x'", "database.url"),
        ("[database]\nurl = 'sqlite+aiosqlite://'", "database.url"),
        ("[http]\nport = 70000", "http.port"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("this is no toml", "syncd.toml"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(toml: str, names: str) -> None:
    write(toml)
    with pytest.raises(UsageError) as caught:
        load()
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_DATABSE__URL", "x")
    with pytest.raises(UsageError, match="SYNCD_DATABSE__URL"):
        load()


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        load("nowhere.toml")


def test_a_bad_password_is_not_repeated() -> None:
    write("[database]\nurl = 'postgres://syncd:hunter2@db/x'")
    with pytest.raises(UsageError) as caught:
        load()
    assert "hunter2" not in str(caught.value)


def test_secrets_are_masked_when_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    key = generate_key()
    monkeypatch.setenv("SYNCD_SECRET_KEYS", key)
    monkeypatch.setenv("SYNCD_DATABASE__URL", "postgresql+asyncpg://syncd:hunter2@db/syncd")
    shown = str(masked(load())) + repr(load())
    assert key not in shown
    assert "hunter2" not in shown


def test_keys_come_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = generate_key(), generate_key()
    monkeypatch.setenv("SYNCD_SECRET_KEYS", f"{one}, {two}")
    assert load().keys() == [one, two]
    monkeypatch.delenv("SYNCD_SECRET_KEYS")
    Path("keys").write_text(f"{two}\n{one}\n")
    monkeypatch.setenv("SYNCD_SECRET_KEYS_FILE", "keys")
    assert load().keys() == [two, one]


def test_a_key_that_is_none_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_SECRET_KEYS", f"{generate_key()},geheim")
    with pytest.raises(UsageError, match="key 2") as caught:
        load()
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
    ],
)
def test_durations_are_read_and_written(text: object, value: timedelta) -> None:
    assert parse_duration(text) == value
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("source", "minutes"),
    [("slack", [0, 15, 30, 45]), ("gong", [5, 20, 35, 50]), ("fathom", [10, 25, 40, 55]), ("gmail", [12, 27, 42, 57])],
)
def test_the_four_phases_of_an_hour(source: str, minutes: list[int]) -> None:
    at = datetime(2026, 1, 5, 11, 59, 59, tzinfo=UTC)
    next_turn = plan(load(), source).next_turn
    turns = []
    for _ in range(4):
        at = next_turn(at)
        turns.append(at.minute)
    assert turns == minutes


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", "Sun"),
        ("7", "Sun"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("0-6", "Mon Tue Wed Thu Fri Sat Sun"),
        ("5-7", "Fri Sat Sun"),
        ("*/2", "Tue Thu Sat Sun"),
        ("1,3", "Mon Wed"),
        ("mon-wed", "Mon Tue Wed"),
        ("1-5/2", "Mon Wed Fri"),
    ],
)
def test_weekdays_are_those_of_crontab(field: str, days: str) -> None:
    trigger, at, fired = cron_trigger(f"0 0 * * {field}"), datetime(2026, 1, 5, tzinfo=UTC), []  # a Monday
    while (at := trigger.get_next_fire_time(None, at)) < datetime(2026, 1, 12, tzinfo=UTC):
        fired.append(f"{at:%a}")
        at += timedelta(days=1)
    assert " ".join(fired) == days


def test_a_password_in_the_query_of_an_address_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_DATABASE__URL", "postgresql+asyncpg://db/syncd?user=me&password=hunter2")
    assert "hunter2" not in str(masked(load()))


def test_the_next_turn_is_the_same_in_whatever_order_moments_are_asked_for() -> None:
    at = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
    minutes = [7, 0, 14, 15, 1, 200, 16, 29, 30, 7, 44, 46, 61, 14]
    one = plan(load(), "slack").next_turn
    for minute in minutes:
        asked = at + timedelta(minutes=minute)
        assert one(asked) == plan(load(), "slack").next_turn(asked) == at + timedelta(minutes=minute // 15 * 15 + 15)
