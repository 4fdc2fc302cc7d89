"""The part of the settings that says where HTTP listens, and who may do what there."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator

from syncd.settings_oauth import HttpUrl
from syncd.settings_oauth import Model as _Model

SHORTEST_TOKEN = 16  # characters; nobody guesses so many over HTTP


def _listed(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _networks(text: str) -> str:
    for part in re.split(r"[,\s]+", text.strip(", ")):
        try:
            ip_network(part or "::1")
        except ValueError:
            raise ValueError("write addresses or networks, by commas, such as 10.0.0.5, 10.1.0.0/16") from None
    return text


def _header(name: str) -> str:
    if name and not re.fullmatch(r"[A-Za-z0-9-]{1,100}", name):
        raise ValueError("write the name of a header, such as X-Forwarded-User")
    if name.lower() in {"authorization", "cookie", "host", "origin", "connection", "content-length", "content-type"}:
        raise ValueError(f"{name} has a meaning of its own; a proxy tells who it is in one such as X-Forwarded-User")
    return name


class HttpSettings(_Model):
    """``public_url``: where a browser reaches us, by default the listening address.

    ``token``: what programs send as ``Authorization: Bearer …`` and people type once. ``proxy_header``: in which a
    proxy that knows its users says who it is, believed of the addresses of ``proxy_from`` alone. ``access``: ``probes``
    leaves out the page and the API. ``metrics``: who may read ``/metrics``; ``auto``: all on loopback, else those who
    may read the page.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    public_url: HttpUrl | None = None
    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    proxy_header: Annotated[str, AfterValidator(_header)] = ""
    proxy_from: Annotated[str, BeforeValidator(_listed), AfterValidator(_networks)] = ""
    access: Literal["auto", "probes"] = "auto"
    metrics: Literal["auto", "open", "token", "off"] = "auto"

    @field_validator("token")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text and len(text) < SHORTEST_TOKEN:
            raise ValueError(f"{SHORTEST_TOKEN} characters at least; `syncd keys generate` makes a good one")
        if not re.fullmatch(r"[!-~]*", text):
            raise ValueError("only ASCII without blanks, which is all that a header carries unchanged")
        return value

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches us."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name may mean any address

    @property
    def proxies(self) -> list[IPv4Network | IPv6Network]:
        """The addresses from which ``proxy_header`` is believed: on loopback, where nothing is said, this machine's."""
        said = [ip_network(part) for part in re.split(r"[,\s]+", self.proxy_from) if part]
        return said or ([ip_network("127.0.0.0/8"), ip_network("::1")] if self.on_loopback else [])

    def unsafe(self) -> str | None:
        """Why HTTP must not be served with these settings, with the ways out; None where it may."""
        guarded = bool(self.token.get_secret_value()) or bool(self.proxy_header)
        if self.proxy_header and not self.proxy_from and not self.on_loopback:
            return (
                f"http.proxy_header {self.proxy_header} would be believed of everybody: set http.proxy_from to the "
                "addresses of your proxy"
            )
        if self.metrics == "token" and not guarded:
            return 'http.metrics = "token" needs http.token, http.token_file or http.proxy_header'
        if guarded or self.on_loopback or self.access == "probes":
            return None
        return (
            f"http.host {self.host} lets others in than this machine, and nothing asks who they are: set http.token "
            "(or http.token_file; `syncd keys generate` makes one), or http.proxy_header with http.proxy_from behind a "
            'proxy that knows its users, or http.access = "probes" (neither page nor API), or http.host = 127.0.0.1'
        )
