"""The registry: a source is one file and one name here.

Where a source says "contract", it means what its vendor documents or was seen to do and we rely on; where that is not
known for sure, both ways are handled.
"""

from syncd.source import Source
from syncd.sources import fathom, gmail, gong, slack

SOURCES: dict[str, Source] = {module.SOURCE.name: module.SOURCE for module in (slack, gong, fathom, gmail)}
