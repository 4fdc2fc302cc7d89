"""The part of the settings by which people are told of trouble: to whom, and after how long."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator, model_validator

from syncd.durations import Duration
from syncd.settings_oauth import HttpUrl, Model, http_url

_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\[\]\\]+")


def _address(text: str) -> str:
    if text and not _ADDRESS.fullmatch(text):
        raise ValueError("write a mail address such as syncd@example.com")
    return text


def _addresses(text: str) -> str:
    for one in text.split(","):
        _address(one.strip())
    return text


def _joined(value: Any) -> Any:
    return ", ".join(str(one) for one in value) if isinstance(value, list) else value


Address = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[str, BeforeValidator(_joined), AfterValidator(_addresses)]


class _Hook(Model):
    """A receiver at an address that is a secret: whoever knows it can write there."""

    url: SecretStr = SecretStr("")
    url_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            http_url(value.get_secret_value())
        return value


class SlackAlerts(_Hook):
    """An incoming webhook of Slack."""


class WebhookAlerts(_Hook):
    """``secret``: signs each message, so that the receiver knows whose it is."""

    secret: SecretStr = SecretStr("")
    secret_file: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.url.get_secret_value()) != bool(self.secret.get_secret_value()):
            raise ValueError("give both url and secret (or url_file, secret_file), or neither")
        return self


class MailAlerts(Model):
    """``to``: addresses, by commas. ``security``: ``starttls``, ``tls`` from the first byte on, or ``none``."""

    host: str = ""
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: Address = Field(default="", alias="from")
    to: Addresses = ""
    user: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.host and not (self.sender and self.to):
            raise ValueError("give from and to as well")
        if bool(self.user) != bool(self.password.get_secret_value()):
            raise ValueError("give both user and password (or password_file), or neither")
        if self.user and self.security == "none" and not _is_here(self.host):
            raise ValueError("a password goes to another machine by starttls or tls only")
        return self

    def recipients(self) -> list[str]:
        return [one.strip() for one in self.to.split(",") if one.strip()]


class AlertSettings(Model):
    """``wait``: a trouble, and its end, must have lasted so long before it is told.

    ``link``: where people reach the status page; by default ``http.public_url`` or the listening address.
    """

    wait: Duration = timedelta(minutes=5)
    link: HttpUrl | None = None
    webhook: WebhookAlerts = Field(default_factory=WebhookAlerts)
    slack: SlackAlerts = Field(default_factory=SlackAlerts)
    mail: MailAlerts = Field(default_factory=MailAlerts)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
