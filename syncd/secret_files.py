"""Secrets in files of their own: systemd's credentials, Docker's secrets, a file that only the daemon may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

_FILE = "_file"
_SMALL = 2**20  # bytes; what is larger is no secret but a wrong name
_GUARDED = "/run/secrets/"  # Docker's: readable by all in the container, which is all there is in it


def located(path: Path) -> Path:
    """A relative name is looked up among systemd's credentials where it hands some over, else in this folder."""
    handed_over = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(handed_over) / path if handed_over else path


def read_secret(path: Path, key: str) -> str:
    """The file's text without white space around it. ``key``: names it in what is said.

    Raises ValueError with one line when it cannot be read or is empty.
    """
    where = f"{key} {located(path)}"
    try:
        with located(path).open("rb") as file:
            content = file.read(_SMALL + 1)
        text = content.decode().strip()
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{where} cannot be read: it is not UTF-8 text") from None
    if not text:
        raise ValueError(f"{where} is empty")
    if len(content) > _SMALL:
        raise ValueError(f"{where} is larger than any secret")
    return text


def with_files_read(model: type[BaseModel], given: Any) -> Any:
    """``given`` with each ``X`` read from ``X_file``, where the model has both. Raises ValueError."""
    if not isinstance(given, dict):
        return given
    read = dict(given)
    for value, file in _pairs(model):
        name = read.get(file)
        if name in {None, ""}:
            read.pop(file, None)
        elif read.get(value) in {None, ""}:
            read[value] = read_secret(Path(name), file)
        else:
            raise ValueError(f"{value} and {file} are both given: keep one")
    return read


def drop_overridden(content: MutableMapping[str, Any]) -> None:
    """Take out of a file's content each ``X`` whose ``X_file`` the environment gives, and the other way round."""
    for name, value in os.environ.items():
        if value and name.upper().startswith("SYNCD_"):
            *above, last = name.lower().removeprefix("syncd_").split("__")
            part: Any = content
            for step in above:
                part = part.get(step) if isinstance(part, dict) else None
            if isinstance(part, dict):
                part.pop(last.removesuffix(_FILE) if last.endswith(_FILE) else last + _FILE, None)


def exposed(settings: BaseModel, above: str = "") -> Iterator[tuple[str, Path]]:
    """(key, file) of the files that every user of the machine may read."""
    for _, file in _pairs(type(settings)):
        if (path := getattr(settings, file)) is not None and _is_exposed(located(path)):
            yield above + file, located(path)
    for name in type(settings).model_fields:
        if isinstance(part := getattr(settings, name), BaseModel):
            yield from exposed(part, f"{above}{name}.")


def _pairs(model: type[BaseModel]) -> list[tuple[str, str]]:
    names = model.model_fields
    return [(name.removesuffix(_FILE), name) for name in names if name.endswith(_FILE) and name[: -len(_FILE)] in names]


def _is_exposed(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH) and not str(path).startswith(_GUARDED)
    except OSError:
        return False
