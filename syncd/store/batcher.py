"""What many runs ask of the database at the same moment, asked at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Q = TypeVar("Q")
A = TypeVar("A")
Turn = tuple[Q, "asyncio.Future[A]"]

_MOST = 50  # of one batch
_SLOW_S = 0.25  # a batch that takes longer, such as one that waits for a locked row, holds up nobody


class Batcher(Generic[Q, A]):
    """Asks together what is asked in one turn of the event loop, or while the batch before is being answered.

    ``answer``: answers a batch, in its order, all or none. Where it fails and the database is there, each is asked by
    itself: what is wrong with one is not the others' matter. ``gather_s``: how long the first waits for others.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], gather_s: float = 0.0) -> None:
        self._answer, self._gather_s = answer, gather_s
        self._waiting: list[Turn[Q, A]] = []
        self._batches: set[asyncio.Task[None]] = set()
        self._newest: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """Its answer; raises what asking raised. A batch that nobody waits for any more is cut."""
        turn: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, turn))
        if self._newest is None:
            self._start()
        return await turn

    def _start(self) -> None:
        task = self._newest = asyncio.create_task(self._batch())
        self._batches.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._follow(task)  # also where it was cut before it began

    async def _batch(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - `_start` made it
        await asyncio.sleep(self._gather_s)
        batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        slow = asyncio.get_running_loop().call_later(_SLOW_S, self._follow, task)

        def left(_: object) -> None:
            if all(turn.cancelled() for _, turn in batch):
                task.cancel()

        for _, turn in batch:
            turn.add_done_callback(left)
        try:
            await self._answered(batch)
        finally:
            slow.cancel()
            for _, turn in batch:
                turn.cancel()  # where it is not done: we were cut

    async def _answered(self, batch: Sequence[Turn[Q, A]]) -> None:
        batch = [one for one in batch if not one[1].done()]
        if not batch:
            return
        try:
            answers = await self._answer([question for question, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked
            if len(batch) > 1 and not _is_away(error):
                await asyncio.gather(*(self._answered([one]) for one in batch))
                return
            for _, turn in batch:
                if not turn.done():
                    turn.set_exception(error)
        else:
            for (_, turn), answer in zip(batch, answers, strict=True):
                if not turn.done():
                    turn.set_result(answer)

    def _follow(self, task: asyncio.Task[None]) -> None:
        """Let the next batch begin, unless one that came after ``task`` has begun already."""
        if self._newest is task:
            self._newest = None
            if any(not turn.done() for _, turn in self._waiting):
                self._start()


def _is_away(error: Exception) -> bool:
    """Whether nobody knows what the database made of it, or it is not there: to ask each by itself helps nobody."""
    return isinstance(error, OSError | PoolTimeout) or (isinstance(error, DBAPIError) and error.connection_invalidated)
