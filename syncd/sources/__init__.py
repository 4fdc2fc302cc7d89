"""The registry: a source is one file and one name here."""

from syncd.source import Source
from syncd.sources import fathom, gmail, gong, slack

SOURCES: dict[str, Source] = {module.SOURCE.name: module.SOURCE for module in (slack, gong, fathom, gmail)}
