"""The registry: a source is one file and one line here."""

from importlib import import_module
from importlib.util import find_spec

SOURCES = {
    name: import_module(f"syncd.sources.{name}").SOURCE
    for name in ("slack", "gong", "fathom", "gmail")
    if find_spec(f"syncd.sources.{name}")
}
