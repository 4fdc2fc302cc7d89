"""What users would pick instead: each from PyPI, in an environment and a process of its own, at the same vendors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Cost, Failed, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.measure import Server
    from benchmarks.vendors import Running

HERE = Path(__file__).parent
DAYS = 30


@dataclass(slots=True)
class Read:
    """One reading. ``records`` by stream, as written or stored; ``found``: of the ids that were asked for, how many."""

    cost: Cost
    records: Counter[str] = field(default_factory=Counter)
    found: int = 0

    @property
    def total(self) -> int:
        return sum(self.records.values())


class Peer:
    """``packages``: what pip is asked for, the first is its name. ``program``: what is run of it."""

    def __init__(self, name: str, *packages: str, program: str, source: str = "slack") -> None:
        self.name, self.packages, self.program, self.source = name, packages, program, source
        self.version = ""
        self.folder = Path()

    def prepare(self, keep: Path) -> None:
        """Its environment, made where it is not there yet. Raises `Failed` with pip's words."""
        self.folder = keep / self.name
        python = self.folder / "venv" / "bin" / "python"
        if not (self.folder / "ready").exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            venv.create(self.folder / "venv", with_pip=True)
            _ = _said([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *self.packages])
            (self.folder / "ready").touch()
        show = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
        self.version = _said([python, "-c", show, self.packages[0].partition("[")[0]]).strip()

    @property
    def bin(self) -> Path:
        return self.folder / "venv" / "bin"

    def first(self, vendor: Running, server: Server, number: int) -> Read:
        """A first reading of the vendor's first connection, with nothing held. Raises `Failed`."""
        raise NotImplementedError

    def second(self, vendor: Running, server: Server, number: int, wanted: Sequence[str]) -> Read:
        """The next one after it, and which of the wanted ts it brought. Raises `Failed`."""
        raise NotImplementedError

    def _env(self, vendor: Running) -> dict[str, str]:
        return {"PYTHONPATH": str(HERE / "moved"), "MOVED_TO": vendor.base, "PYTHONUNBUFFERED": ""}


class Lines(Peer):
    """One that writes JSON lines, and stores nothing: a target of the user's choice would, at a cost of its own."""

    def first(self, vendor: Running, server: Server, number: int) -> Read:
        return self._read(vendor, number, None, ())

    def second(self, vendor: Running, server: Server, number: int, wanted: Sequence[str]) -> Read:
        return self._read(vendor, number, self.folder / f"state{number}.json", wanted)

    def _read(self, vendor: Running, number: int, state: Path | None, wanted: Sequence[str]) -> Read:
        out = self.folder / "out.jsonl"
        config, catalog = self.folder / "config.json", self.folder / "catalog.json"
        config.write_text(json.dumps(self._config(vendor.lines(self.source)[0]["credentials"])))
        if not catalog.exists():
            catalog.write_text(json.dumps(self._catalog(vendor)))
        command = [self.bin / self.program, *self._verbs, "--config", config, "--catalog", catalog]
        command += ["--state", state] if state else []
        cost = run([str(one) for one in command], env=self._env(vendor), keep=out, timeout_s=600)
        read = Read(cost)
        held = dict[str, Any]()
        ids = set(wanted)
        for kind, stream, told in self._told(out):
            if kind == "state":
                held[stream] = told
            else:
                read.records[stream] += 1
                read.found += len(ids & {str(told.get("ts")), str(told.get("thread_ts"))} - {""})
                ids -= {str(told.get("ts"))}
        (self.folder / f"state{number}.json").write_text(json.dumps(self._state(held)))
        out.unlink()
        if not read.total:
            raise Failed("it ended well and gave no record")
        return read

    _verbs: tuple[str, ...] = ()

    def _config(self, credentials: Mapping[str, str]) -> dict[str, Any]:
        raise NotImplementedError

    def _catalog(self, vendor: Running) -> Any:
        raise NotImplementedError

    def _told(self, out: Path) -> Iterator[tuple[str, str, Any]]:
        raise NotImplementedError

    def _state(self, held: dict[str, Any]) -> Any:
        raise NotImplementedError


class Airbyte(Lines):
    """A source of Airbyte's, as its platform runs it."""

    _verbs = ("read",)
    streams: tuple[tuple[str, str], ...] = ()

    def _config(self, credentials: Mapping[str, str]) -> dict[str, Any]:
        begins = f"{datetime.now(UTC) - timedelta(days=DAYS):%Y-%m-%dT%H:%M:%SZ}"
        if self.source == "gong":
            return {**{key: credentials[key] for key in ("access_key", "access_key_secret")}, "start_date": begins}
        login = {"option_title": "API Token Credentials", "api_token": credentials["token"]}
        return {
            "start_date": begins,
            "lookback_window": 1,
            "join_channels": False,
            "include_private_channels": True,
            "channel_filter": [],
            "credentials": login,
        }

    def _catalog(self, vendor: Running) -> Any:
        def one(name: str, mode: str) -> dict[str, Any]:
            stream = {"name": name, "json_schema": {}, "supported_sync_modes": ["full_refresh", "incremental"]}
            more = {"cursor_field": ["float_ts"]} if mode == "incremental" else {}
            return {"stream": stream, "sync_mode": mode, "destination_sync_mode": "append", **more}

        return {"streams": [one(*given) for given in self.streams]}

    def _told(self, out: Path) -> Iterator[tuple[str, str, Any]]:
        with out.open("rb") as lines:
            for line in lines:
                if line.startswith(b'{"type":"RECORD"') or b'"RECORD"' in line[:30]:
                    record = json.loads(line)["record"]
                    yield "record", record["stream"], record["data"]
                elif b'"STATE"' in line[:30]:
                    state = json.loads(line)["state"]
                    yield "state", state.get("stream", {}).get("stream_descriptor", {}).get("name", ""), state

    def _state(self, held: dict[str, Any]) -> Any:
        return list(held.values())


class AirbyteSlack(Airbyte):
    streams = (
        ("users", "full_refresh"),
        ("channels", "full_refresh"),
        ("channel_messages", "incremental"),
        ("threads", "incremental"),
    )


class AirbyteGong(Airbyte):
    streams = (("users", "full_refresh"), ("calls", "full_refresh"))


class TapSlack(Lines):
    """The Singer tap."""

    def _config(self, credentials: Mapping[str, str]) -> dict[str, Any]:
        begins = f"{datetime.now(UTC) - timedelta(days=DAYS):%Y-%m-%dT%H:%M:%S}"
        return {"token": credentials["token"], "start_date": begins, "private_channels": "true"}

    def _catalog(self, vendor: Running) -> Any:
        command = [self.bin / self.program, "--config", self.folder / "config.json", "--discover"]
        catalog = json.loads(_said(command, self._env(vendor)))
        for stream in catalog["streams"]:
            # not users: one without "updated", as some are, ends it with a TypeError
            chosen = stream["stream"] in {"channels", "messages", "threads"}
            for one in stream["metadata"]:
                one["metadata"]["selected"] = chosen
        return catalog

    def _told(self, out: Path) -> Iterator[tuple[str, str, Any]]:
        with out.open("rb") as lines:
            for line in lines:
                told = json.loads(line)
                if told["type"] == "RECORD":
                    yield "record", told["stream"], told["record"]
                elif told["type"] == "STATE":
                    yield "state", "", told["value"]

    def _state(self, held: dict[str, Any]) -> Any:
        return held.get("", {})


class Dlt(Peer):
    """dlt's REST source, configured as its documentation says, into PostgreSQL by merge."""

    def first(self, vendor: Running, server: Server, number: int) -> Read:
        self.url = server.url("postgresql").replace("syncd@", "syncd:any@")  # it insists on a password
        shutil.rmtree(self.folder / "pipelines", ignore_errors=True)
        return self._read(vendor, server, ())

    def second(self, vendor: Running, server: Server, number: int, wanted: Sequence[str]) -> Read:
        return self._read(vendor, server, wanted)

    def _read(self, vendor: Running, server: Server, wanted: Sequence[str]) -> Read:
        spec = {"url": self.url, "base": vendor.base, "line": vendor.lines("slack")[0], "days": DAYS}
        command = [self.bin / "python", HERE / "dlt_slack.py", json.dumps(spec)]
        env = {"DLT_DATA_DIR": str(self.folder / "pipelines"), "RUNTIME__DLTHUB_TELEMETRY": "false"}
        cost = run([str(one) for one in command], env=env, server=server, timeout_s=600)
        read = Read(cost, Counter(cost.told.get("rows", {})))
        names = ",".join(f"'{ts}'" for ts in wanted) or "''"
        read.found = int(server.ask(self.url, f"SELECT count(*) FROM slack.replies WHERE ts IN ({names})")[0][0])
        return read


PEERS: tuple[Peer, ...] = (
    TapSlack("tap-slack", "tap-slack", "setuptools<81", program="tap-slack"),
    Dlt("dlt", "dlt[postgres]", program="python"),
    AirbyteSlack("airbyte-source-slack", "airbyte-source-slack", "airbyte-cdk==6.60.0", program="source-slack"),
    AirbyteGong("airbyte-source-gong", "airbyte-source-gong", "setuptools<81", program="source-gong", source="gong"),
)


def _said(command: Sequence[object], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, check=False, env={**os.environ, **(env or {})}
    )
    if done.returncode:
        raise Failed(done.stderr.decode(errors="replace").strip()[-400:])
    return done.stdout.decode()


if __name__ == "__main__":
    sys.exit("python -m benchmarks --only peers")
