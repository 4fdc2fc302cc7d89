"""The vendors' limits and prices as settings: which there are, and what holds where a person gives none."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from syncd.limits import Rate
from syncd.settings_oauth import Model


def _rate(value: object) -> Rate:
    return value if isinstance(value, Rate) else Rate.parse(str(value))


Limit = Annotated[Rate, BeforeValidator(_rate), PlainSerializer(str, return_type=str)]


class Limits(Model):
    """``limits``: name → rate; a name left out keeps the vendor's figure."""

    vendor_limits: ClassVar[dict[str, str]] = {}

    limits: dict[str, Limit] = Field(default_factory=dict)

    @field_validator("limits")
    @classmethod
    def _over_the_vendors(cls, given: dict[str, Rate]) -> dict[str, Rate]:
        return _over(cls.vendor_limits, given, cls.vendor_limits)


class LowLimits(Limits):
    """``low_limits``: what the vendor may lower some of its limits to."""

    vendor_low_limits: ClassVar[dict[str, str]] = {}

    low_limits: dict[str, Limit] = Field(default_factory=dict)

    @field_validator("low_limits")
    @classmethod
    def _over_the_vendors_low(cls, given: dict[str, Rate]) -> dict[str, Rate]:
        return _over(cls.vendor_low_limits, given, cls.vendor_limits)


class Prices(Limits):
    """Gmail's: ``units``: quota units per user; ``prices``: units per call. ``price_list``: which of Google's two lists
    both come from, ``new`` for projects from May 2026 on, ``old`` for older ones.
    """

    vendor_limits: ClassVar[dict[str, str]] = {"units": "6000/1m"}
    vendor_prices: ClassVar[dict[str, int]] = {
        "getProfile": 1,
        "labels.list": 1,
        "labels.get": 1,
        "threads.list": 10,
        "threads.get": 40,
        "messages.list": 5,
        "messages.get": 20,
        "messages.attachments.get": 20,
        "history.list": 2,
    }
    old_limits: ClassVar[dict[str, str]] = {"units": "15000/1m"}
    old_prices: ClassVar[dict[str, int]] = {"threads.get": 10, "messages.get": 5, "messages.attachments.get": 5}

    price_list: Literal["new", "old"] = "new"
    prices: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _of_the_old_list(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("price_list") != "old":
            return given
        old: dict[str, dict[str, Any]] = {"limits": cls.old_limits, "prices": cls.old_prices}
        return given | {name: old[name] | mine for name in old if isinstance(mine := given.get(name, {}), dict)}

    @field_validator("prices")
    @classmethod
    def _over_the_list(cls, given: dict[str, int]) -> dict[str, int]:
        if unknown := set(given) - set(cls.vendor_prices):
            raise ValueError(f"no such call: {', '.join(sorted(unknown))}; known: {', '.join(cls.vendor_prices)}")
        return cls.vendor_prices | given


def _over(vendors: dict[str, str], given: dict[str, Rate], known: dict[str, str]) -> dict[str, Rate]:
    if unknown := set(given) - set(known):
        raise ValueError(f"no such limit: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return {name: Rate.parse(rate) for name, rate in vendors.items()} | given
