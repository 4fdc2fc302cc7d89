"""``syncd.toml``, then ``SYNCD_…`` in the environment, as one typed value. Read by the composition root alone."""

from __future__ import annotations

import os
import re
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from apscheduler.triggers.cron import CronTrigger
from cryptography.fernet import Fernet
from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from syncd.durations import Duration
from syncd.errors import UsageError
from syncd.secret_files import drop_overridden, located, with_files_read
from syncd.settings_alerts import AlertSettings
from syncd.settings_engine import EngineSettings
from syncd.settings_http import HttpSettings
from syncd.settings_limits import Limits, LowLimits, Prices
from syncd.settings_oauth import FathomOAuth, GmailOAuth, GongOAuth, HttpUrl, SlackOAuth
from syncd.settings_oauth import Model as _Model

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_OF_TESTS = {"SYNCD_TEST_DATABASE_URL", "SYNCD_MONTHS", "SYNCD_CHAOS", "SYNCD_CHAOS_SEED"}
_NOT_SETTINGS = {"SYNCD_CONFIG", "SYNCD_EXPORT_KEY", *_OF_TESTS}
_OF_A_SERVICE = re.compile(r"SYNCD_(SERVICE_|PORT\b|PORT_)")


def cron_trigger(text: str) -> CronTrigger:
    """A five-field crontab line in UTC. Raises ValueError.

    APScheduler counts weekdays from Monday, crontab from Sunday: numbers are turned into names. It also wants both a
    day of the month and a weekday to match where crontab wants either, so a line with both is refused.
    """
    fields = str(text).split()
    if len(fields) != 5:
        raise ValueError("write a crontab line of five fields, such as 0-59/15 * * * *")
    minute, hour, day, month, weekday = fields
    if day != "*" and weekday != "*":
        raise ValueError("give a day of the month or a weekday, not both")
    return CronTrigger(
        minute=minute, hour=hour, day=day, month=month, day_of_week=_weekday_names(weekday), timezone="UTC"
    )


def _weekday_names(field: str) -> str:
    """Crontab's weekdays (0 and 7 are Sunday; ranges, lists, steps) as the names that APScheduler takes."""
    if field == "*":
        return field
    named: list[str] = []
    for part in field.lower().split(","):
        match = re.fullmatch(r"(\*|[0-7]|[a-z]{3})(?:-([0-7]|[a-z]{3}))?(?:/([1-7]))?", part)
        if not match:
            raise ValueError(f"{part!r} is no weekday; write 0-7, names such as mon, ranges or lists")
        first, last = (0, 6) if match[1] == "*" else (_weekday(match[1]), _weekday(match[2] or match[1]))
        if match[3] and not match[2]:
            last = 6
        if first > last:
            raise ValueError(f"{part!r}: the range ends before it begins (the week begins on Sunday, 0)")
        named += [_WEEKDAYS[day] for day in range(first, last + 1, int(match[3] or 1))]
    return ",".join(dict.fromkeys(named))


def _weekday(text: str) -> int:
    if text.isdigit():
        return int(text)
    if text not in _WEEKDAYS:
        raise ValueError(f"{text!r} is no weekday; write sun, mon, tue, wed, thu, fri or sat")
    return _WEEKDAYS.index(text)


def _checked_cron(text: str) -> str:
    if cron_trigger(text).get_next_fire_time(None, datetime.now(UTC)) is None:
        raise ValueError("it never fires")
    return text


Cron = Annotated[str, AfterValidator(_checked_cron)]


class SourceSettings(Limits):
    """What every source has."""

    enabled: bool = True
    cron: Cron
    concurrency: int = Field(default=20, ge=1, le=1000)
    lookback: Duration = Field(default=timedelta(hours=24), gt=timedelta(0))
    sweep_every: Duration | None = Field(default=timedelta(hours=6), gt=timedelta(0))
    sweep_lookback: Duration = Field(default=timedelta(days=14), gt=timedelta(0))
    run_timeout: Duration = Field(default=timedelta(minutes=10), gt=timedelta(0))
    patience: Duration = timedelta(seconds=60)
    base_url: HttpUrl


class SlackSettings(LowLimits, SourceSettings):
    """Limits by method: Slack's tiers of 20, 50 and 100 a minute. ``app_kind``: whether Slack restricts the app, as one
    that is sold outside its Marketplace; ``auto`` finds out by itself.

    ``thread_watch``: for how long after its last reply a thread older than the sweep is asked for further ones.
    """

    vendor_limits = {
        "auth.test": "100/1m",
        "users.list": "20/1m",
        "users.conversations": "50/1m",
        "conversations.info": "50/1m",
        "conversations.join": "50/1m",
        "conversations.history": "50/1m",
        "conversations.replies": "50/1m",
    }
    vendor_low_limits = {"conversations.history": "1/1m", "conversations.replies": "1/1m"}
    cron: Cron = "0-59/15 * * * *"
    sweep_lookback: Duration = Field(default=timedelta(days=7), gt=timedelta(0))
    thread_watch: Duration = timedelta(days=30)
    app_kind: Literal["auto", "restricted", "full"] = "auto"
    low_for: Duration = Field(default=timedelta(hours=6), gt=timedelta(0))
    base_url: HttpUrl = "https://slack.com/api/"
    oauth: SlackOAuth = Field(default_factory=SlackOAuth)


class GongSettings(SourceSettings):
    """``calls``: each second; ``day``: each day; both per company.

    ``content_wait``: for how long a transcript or AI content that does not come is asked for.
    """

    vendor_limits = {"calls": "3/1s", "day": "10000/1d"}
    cron: Cron = "5-59/15 * * * *"
    base_url: HttpUrl = "https://api.gong.io"
    token_url: HttpUrl = "https://app.gong.io/oauth2/generate-customer-token"
    oauth: GongOAuth = Field(default_factory=GongOAuth)
    max_new_per_run: int = Field(default=50, ge=1)
    content_wait: Duration = Field(default=timedelta(days=30), gt=timedelta(0))


class FathomSettings(LowLimits, SourceSettings):
    """``calls``: all; ``heavy``: transcripts and summaries, fewer when Fathom is busy; ``token``: the token endpoint.

    ``content_wait``: for how long a transcript, summary or action items that do not come are asked for.
    """

    vendor_limits = {"calls": "60/1m", "heavy": "30/1m", "token": "60/1m"}
    vendor_low_limits = {"heavy": "5/1m"}
    low_for: Duration = Field(default=timedelta(minutes=10), gt=timedelta(0))
    cron: Cron = "10-59/15 * * * *"
    base_url: HttpUrl = "https://api.fathom.ai/external/v1"
    token_url: HttpUrl = "https://fathom.video/external/v1/oauth2/token"
    oauth: FathomOAuth = Field(default_factory=FathomOAuth)
    max_new_per_run: int = Field(default=50, ge=1)
    content_wait: Duration = Field(default=timedelta(days=30), gt=timedelta(0))


class GmailSettings(Prices, SourceSettings):
    """``threads_per_label``: with how many of a label's newest threads we begin; from then on every change comes."""

    cron: Cron = "12-59/15 * * * *"
    sweep_every: Duration | None = None
    base_url: HttpUrl = "https://gmail.googleapis.com"
    token_url: HttpUrl = "https://oauth2.googleapis.com/token"
    oauth: GmailOAuth = Field(default_factory=GmailOAuth)
    threads_per_label: int = Field(default=5, ge=1)


class Sources(_Model):
    slack: SlackSettings = Field(default_factory=SlackSettings)
    gong: GongSettings = Field(default_factory=GongSettings)
    fathom: FathomSettings = Field(default_factory=FathomSettings)
    gmail: GmailSettings = Field(default_factory=GmailSettings)


class DatabaseSettings(_Model):
    url: SecretStr = SecretStr("sqlite+aiosqlite:///syncd.db")
    url_file: Path | None = None
    pool_size: int = Field(default=10, ge=1, le=200)

    @field_validator("url")
    @classmethod
    def _known_driver(cls, value: SecretStr) -> SecretStr:
        form = "write sqlite+aiosqlite:///FILE or postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
        try:
            url = make_url(value.get_secret_value())
        except (ArgumentError, ValueError):
            raise ValueError(form) from None
        if url.drivername not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
            raise ValueError(f"driver {url.drivername!r} is not known; {form}")
        if url.drivername.startswith("sqlite") and url.database in {None, "", ":memory:"}:
            raise ValueError("SQLite needs a file, such as sqlite+aiosqlite:///syncd.db")
        return value


class LogSettings(_Model):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class MetricsSettings(_Model):
    """``per_connection``: also tell of each connection, with its workspace as a label: two rows each."""

    per_connection: bool = False


class Settings(BaseSettings):
    """All settings in force. `load` is the way to get one."""

    reads_environment: ClassVar[bool] = True

    model_config = SettingsConfigDict(
        env_prefix="SYNCD_", env_nested_delimiter="__", extra="forbid", validate_default=True
    )

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    secret_keys: SecretStr = SecretStr("")
    secret_keys_file: Path | None = None
    http: HttpSettings = Field(default_factory=HttpSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    grace: Duration = timedelta(seconds=20)
    lease: Duration = Field(default=timedelta(minutes=5), ge=timedelta(seconds=1))
    history: Duration = Field(default=timedelta(days=30), ge=timedelta(days=1))
    sources: Sources = Field(default_factory=Sources)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose content `load` hands in."""
        return (env_settings, init_settings) if cls.reads_environment else (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _files_read(cls, given: Any) -> Any:
        return with_files_read(cls, given)

    @model_validator(mode="after")
    def _queue_has_its_database(self) -> Self:
        if self.engine.kind == "pgqueuer" and not self.database.url.get_secret_value().startswith("postgresql"):
            raise ValueError("engine.kind pgqueuer needs PostgreSQL: set database.url, or engine.kind to local")
        return self

    def keys(self) -> list[str]:
        """The Fernet keys, the first seals. Raises UsageError on one that is none."""
        file = self.secret_keys_file
        where = f"secret_keys_file {located(file)}" if file else "secret_keys"
        keys = [key for key in re.split(r"[,\s]+", self.secret_keys.get_secret_value()) if key]
        for number, key in enumerate(keys, 1):
            try:
                Fernet(key)
            except ValueError:
                raise UsageError(
                    f"{where}: key {number} is not a Fernet key; `syncd keys generate` makes one"
                ) from None
        return keys


def load(path: str | os.PathLike[str] | None = None) -> Settings:
    """The settings in force: file, then environment. Raises UsageError with one line that names the key."""
    found = _file(path)
    content: dict[str, Any] = {}
    if found:
        try:
            content = tomllib.loads(found.read_text())
        except OSError as error:
            raise UsageError(f"configuration {found} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"configuration {found}: {error}") from None
    known = {f"SYNCD_{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        stem = name.upper().split("__")[0]
        if stem.startswith("SYNCD_") and stem not in known | _NOT_SETTINGS:
            why = f"{name} in the environment is no setting; "
            if _OF_A_SERVICE.match(stem):
                raise UsageError(f"{why}Kubernetes made it of a Service called syncd: set enableServiceLinks: false")
            raise UsageError(f"{why}known: {', '.join(sorted(known))}")
    drop_overridden(content)
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise UsageError(_first_line(error)) from None
    except ValueError as error:  # pydantic-settings: a nested value that is not JSON
        raise UsageError(f"the environment: {error}") from None
    settings.keys()  # a key that is none is told here, not when it is needed
    return settings


def masked(settings: Settings) -> dict[str, Any]:
    """The settings in force as plain values, secrets masked."""
    plain = settings.model_dump(mode="json", by_alias=True)
    plain["database"]["url"] = shown_url(settings)
    plain["secret_keys"] = "**********" if settings.secret_keys.get_secret_value() else ""
    return plain


def shown_url(settings: Settings) -> str:
    """The database's address without its password."""
    url = make_url(settings.database.url.get_secret_value())
    return url.set(query=dict.fromkeys(url.query, "***")).render_as_string(hide_password=True)


def http_address(host: str, port: int) -> str:
    """``http://HOST:PORT``, an IPv6 host in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _file(path: str | os.PathLike[str] | None) -> Path | None:
    named = path or os.environ.get("SYNCD_CONFIG")
    if named:
        if not Path(named).is_file():
            raise UsageError(f"configuration {named} is not there; name another with --config or SYNCD_CONFIG")
        return Path(named)
    default = Path("syncd.toml")
    return default if default.is_file() else None


def _first_line(error: ValidationError) -> str:
    """``sources.slack.cron: what is wrong`` - never the value, which may be a secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key} is not a setting; `syncd config` prints all that are"
    words: str = first["msg"].removeprefix("Value error, ")
    return f"{key}: {words}" if key else words
