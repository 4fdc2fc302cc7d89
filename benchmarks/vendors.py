"""The vendors as a process of their own: ``python -m benchmarks.vendors '{"options": {…}, "slack": {…}}'``.

It is the sandbox. Where ``slack`` is given its Slack is filled with that many messages in threads; all the rest of
it, pages, page tokens, windows and ``/control`` as well, is the sandbox's own. Prints its address, ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROOT
from syncd.sandbox.app import Sandbox
from syncd.sandbox.dataset.slack import rich_text
from syncd.sandbox.world import Options, World

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from syncd.sandbox.dataset.slack import Office, Room

SAID = (
    "the customer asks whether the export can run at night and who answers for the numbers in it please look at this "
    "before Thursday as they decide then thanks I will and tell you what I find it is the old index again"
)
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Talk:
    """How much is said in each conversation: ``threads`` of ``replies`` and ``singles`` without, over ``days``.

    None of it is younger than a day but ``fresh`` of the singles.
    """

    channels: int
    threads: int
    replies: int
    singles: int
    days: int = 25
    fresh: int = 2

    @property
    def messages(self) -> int:
        return self.channels * (self.threads * (1 + self.replies) + self.singles)


def fill(office: Office, talk: Talk, rng: random.Random, world: World) -> None:
    """Put that into the first conversations that the app is in, and take the others away."""
    rooms = [room for room in office.rooms.values() if room.member and room.plan.kind in {"public", "private"}]
    office.rooms.clear()
    for room in rooms[: talk.channels]:
        room.messages.clear()
        room.threads.clear()
        office.rooms[room.id] = room
        _say(office, room, talk, rng, world)


def _say(office: Office, room: Room, talk: Talk, rng: random.Random, world: World) -> None:
    def said() -> dict[str, Any]:
        words = " ".join(rng.choices(SAID.split(), k=rng.randrange(4, 30)))
        user, blocks = rng.choice(office.ids[:-3]), [rich_text(words)]
        return {"user": user, "text": words, "team": office.id, "blocks": blocks}

    for number in range(talk.singles):
        ago_s = rng.uniform(100, DAY_S / 2) if number < talk.fresh else rng.uniform(DAY_S, talk.days * DAY_S)
        room.post(world.born - timedelta(seconds=ago_s), said())
    for number in range(talk.threads):
        share = (number + rng.random()) / talk.threads
        at = world.born - timedelta(seconds=DAY_S * 1.3 + share * (talk.days - 1.3) * DAY_S)
        ts = room.post(at, said())
        for _ in range(talk.replies):
            at += timedelta(seconds=rng.uniform(1, 20_000 / max(talk.replies, 1)))
            room.post(at, said(), ts)


@dataclass(frozen=True, slots=True)
class Running:
    """The vendors' process, seen from outside."""

    base: str

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """A request to ``/control``, which has no say in any measurement."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/control/{path}", data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def lines(self, *sources: str) -> list[dict[str, Any]]:
        """The lines of ``syncd connections import``, of these sources."""
        lines = [json.loads(line) for line in self.ask("connections").splitlines()]
        return [line for line in lines if line["source"] in sources]

    def calls(self) -> dict[str, int]:
        """``vendor method`` → how often it was called until now."""
        return dict(json.loads(self.ask("calls")))


@contextmanager
def vendors(talk: Talk | None = None, **options: Any) -> Iterator[Running]:
    """The process, its limits off. ``options`` are the sandbox's."""
    spec = {"options": {"limits": False, **options}, "slack": talk and asdict(talk)}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.vendors", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018 - asked for above
    try:
        base = process.stdout.readline().decode().strip()
        if not base:
            raise RuntimeError("the vendors did not start")
        yield Running(base)
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


async def main(spec: dict[str, Any]) -> None:
    options = Options(**spec["options"])
    world = World(options)
    sandbox = Sandbox(options, world=world)
    if spec["slack"]:
        for workspace, install in sandbox.slack._installs.items():
            fill(install.office, Talk(**spec["slack"]), world.random("talk", workspace), world)
    async with sandbox:
        print(sandbox.base, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
