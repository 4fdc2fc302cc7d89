"""The part of the settings by which a person signs in at a vendor: the product's OAuth app there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, model_validator

from syncd.secret_files import with_files_read


def http_url(text: str) -> str:
    """The text, if it is such an address. Raises ValueError."""
    if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", text):
        raise ValueError("write an address such as https://api.example.com, without a user name")
    return text


HttpUrl = Annotated[str, AfterValidator(http_url)]


class Model(BaseModel):
    """What every part of the settings is."""

    model_config = ConfigDict(extra="forbid", validate_default=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _files_read(cls, given: Any) -> Any:
        """A member ``X`` that has an ``X_file`` beside it is read from there."""
        return with_files_read(cls, given)


class OAuthSettings(Model):
    """The app registered at the vendor; without ``client_id`` nobody signs in there with a browser.

    ``scopes``: instead of the source's own, as the vendor's address has them.
    """

    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    client_secret_file: Path | None = None
    authorize_url: HttpUrl
    scopes: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.client_id) != bool(self.secret()):
            raise ValueError("give both client_id and client_secret (or client_secret_file), or neither")
        return self

    def secret(self) -> str:
        return self.client_secret.get_secret_value()


class SlackOAuth(OAuthSettings):
    authorize_url: HttpUrl = "https://slack.com/oauth/v2/authorize"


class GongOAuth(OAuthSettings):
    authorize_url: HttpUrl = "https://app.gong.io/oauth2/authorize"


class FathomOAuth(OAuthSettings):
    authorize_url: HttpUrl = "https://fathom.video/external/v1/oauth2/authorize"


class GmailOAuth(OAuthSettings):
    authorize_url: HttpUrl = "https://accounts.google.com/o/oauth2/v2/auth"
