"""Keep the server's own tasks alive when one piece of their work fails unforeseen."""

import asyncio
import contextlib
import contextvars
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import structlog

from server.disk import WRITES_WAIT, shortage_of, was_rolled_back
from server.errors import DatabaseDamaged, RequestError, Shortage

Params = ParamSpec("Params")
Result = TypeVar("Result")

TRY_AGAIN_S = 1.0
"""How long what met a shortage waits before it is tried again; twice that the next time, …"""
TRY_AGAIN_MAX_S = 10.0
"""… and so on, up to this."""

WRITERS = 8
WRITE_TRIES = 5
"""How often a transaction is done that others of the same database roll back."""

WRITER_WAIT_S = 15.0
"""How long a write may wait for a thread. Those of the callers before it wait for the tables."""

_writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="writer")

_log = structlog.get_logger("server")


async def log_errors(what: str, work: Awaitable[object]) -> bool:
    """Await `work` and say whether it came to its end.

    Without it a full disk, or a bug, on one job would stop the loop that serves all of them. The
    traceback goes to the log; of a shortage or a damaged database, a sentence does. A cancellation
    is an error, too, unless it is this task that was cancelled.
    """
    try:
        await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        _log.exception("Unexpected cancellation", during=what)
        return False
    except Exception as error:
        trouble = trouble_of(error)
        if trouble is None:
            _log.exception("Unexpected error", during=what)
        else:
            _log.error(str(trouble), during=what)
        return False
    return True


def trouble_of(error: Exception) -> RequestError | None:
    """What the operator has to be told of an error that is no bug; None if it may be one."""
    return error if isinstance(error, DatabaseDamaged) else shortage_of(error)


async def to_writer_thread(
    work: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
) -> Result:
    """Do what may wait for the tables to be written, in one of `WRITERS` threads.

    It is `asyncio.to_thread` with threads of its own: however many writes wait, reads go on.

    Raises:
        Shortage: no thread was free for `WRITER_WAIT_S`, and nothing was done.
    """
    context = contextvars.copy_context()
    begin_by = time.monotonic() + WRITER_WAIT_S

    def begin() -> Result:
        if time.monotonic() > begin_by:
            raise Shortage(WRITES_WAIT)
        for tries_left in reversed(range(WRITE_TRIES)):
            try:
                return context.run(work, *args, **kwargs)
            except Exception as error:
                if tries_left == 0 or not was_rolled_back(error):
                    raise
        raise AssertionError("there was no last try")

    try:
        return await asyncio.get_running_loop().run_in_executor(_writers, begin)
    except RuntimeError:
        # If no thread could be started, the executor keeps the work for later: it must not be done
        # once its caller was told that it failed.
        begin_by = -math.inf
        raise


async def retry_until_written(what: str, write: Callable[[], Result]) -> Result:
    """Write in a thread; again and again, while the machine is short of what that needs."""
    failures = 0
    while True:
        try:
            return await to_writer_thread(write)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            failures += 1
            if failures == 1:
                _log.error(
                    "The tables cannot be written; it is tried again", what=what, why=str(shortage)
                )
        await asyncio.sleep(backoff_s(failures, TRY_AGAIN_S, TRY_AGAIN_MAX_S))


async def every(seconds: float, what: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` now, and again after so many seconds each time, until cancelled."""
    while True:
        await log_errors(what, work())
        await asyncio.sleep(seconds)


async def on(signal: "Signal", what: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` now, and again after each hint or a second without one, until cancelled."""
    while True:
        seen = signal.count
        await log_errors(what, work())
        await signal.wait(seen)


async def in_thread(work: Callable[..., Result], *args: Any) -> Result:
    """`asyncio.to_thread`, but a cancel waits until the thread is done.

    What the thread opens or writes is then there for the caller's `finally` to give up. Nobody
    waits for its error any more, so that goes to the log.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        error = None if thread.cancelled() else thread.exception()
        if error is not None:
            _log.info("Work that was cancelled has failed", why=f"{type(error).__name__}: {error}")
        raise


LATE_S = 5.0
"""A time limit that ends so much too late was passed while this process was stopped."""


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout` for what others have to do in time.

    Raises:
        TimeoutError: they did not.
        Shortage: this process was stopped meanwhile, as by `docker pause`, so nothing is known.
    """
    clock = asyncio.get_running_loop().time
    ends_at = clock() + seconds
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        if clock() - ends_at > LATE_S:
            raise Shortage("The server was stopped for a while.") from error
        raise


LOOK_AGAIN_S = 1.0
"""Hints may be lost, and other processes send none: waiters look at the tables this often."""

MAX_WAIT_S = 60.0
"""The longest wait before a loop of the server that keeps failing is begun again."""


def backoff_s(failures: int, first_s: float, max_s: float = math.inf) -> float:
    """Seconds to wait after so many failures in a row: `first_s`, then twice that, and so on."""
    return min(first_s * 2.0 ** min(failures - 1, 64), max_s)


class Loops:
    """The loops of one server, which never end by themselves.

    One that does is begun again, ever more slowly up to a minute, and `problem` names it meanwhile.
    """

    def __init__(self, first_wait_s: float = 1.0) -> None:
        self._first_wait_s = first_wait_s
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: set[str] = set()

    def start(self, what: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop until `close`."""
        self._tasks.append(asyncio.create_task(self._keep(what, loop), name=what))

    def problem(self) -> str | None:
        """Which loops do not run now, as a sentence; None if all do."""
        gone = {task.get_name() for task in self._tasks if task.done()}
        stopped = sorted(self._waiting | gone)
        if not stopped:
            return None
        return f"Parts of the server do not run, and the log says why: {', '.join(stopped)}."

    async def close(self) -> None:
        """End every loop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, what: str, loop: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            begun = time.monotonic()
            if await log_errors(what, loop()):
                _log.error("A loop of the server ended", during=what)
            failures = failures + 1 if time.monotonic() - begun < MAX_WAIT_S else 1
            self._waiting.add(what)
            await asyncio.sleep(backoff_s(failures, self._first_wait_s, MAX_WAIT_S))
            self._waiting.remove(what)


class Signal:
    """A hint that any number of tasks wait for. It carries no news: those are in the tables."""

    def __init__(self) -> None:
        self.count = 0
        """The hints so far: read it before looking at the tables, and give it to `wait`."""
        self._next = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def on_notify(self, listener: Callable[[], None]) -> None:
        """Have every hint of this process told from now on."""
        self._listeners.append(listener)

    def notify(self) -> None:
        """Wake every task that waits, and tell the listeners."""
        self.wake()
        for listener in self._listeners:
            listener()

    def wake(self) -> None:
        """Wake every task that waits, and every one that has yet to wait for this hint."""
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, seen: int, at_most_s: float = LOOK_AGAIN_S) -> None:
        """Return when there are more hints than were `seen`, or after a second without one."""
        if self.count == seen:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(at_most_s, LOOK_AGAIN_S)):
                    await self._next.wait()


class Signals:
    """The hints of one server: each is for the tasks that wait for such a change."""

    def __init__(self) -> None:
        self.submitted = Signal()
        """A job needs its inputs."""
        self.claimable = Signal()
        """A job may be claimed, or a slot is free."""
        self.cancelled = Signal()
        """A running job should stop."""
        self.finished = Signal()
        """A job is done."""


def share_of(places: int) -> int:
    """How many of the places of something shared one key may have: all but one."""
    return max(1, places - 1)


class FairSemaphore:
    """Places that keys share: no key has all of them, and the keys that wait take turns.

    Where no key is asked for, all callers are one, whose key is None and who may have every place.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._share = share_of(places)
        self._held: Counter[str | None] = Counter()
        # Keys in the order of their turns, and for each those who wait with it.
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def place(self, key_id: str | None) -> AsyncIterator[None]:
        """Have a place during the block; wait for it first."""
        await self.acquire(key_id)
        try:
            yield
        finally:
            self.release(key_id)

    async def acquire(self, key_id: str | None) -> None:
        """Wait for a place and take it, until `release`."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key_id, deque()).append(turn)
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(key_id)
            raise

    def release(self, key_id: str | None) -> None:
        """Give back a place of this key."""
        self._free += 1
        self._held[key_id] -= 1
        self._give()

    def _give(self) -> None:
        while self._free and (turn := self._next_turn()) is not None:
            turn.set_result(None)

    def _next_turn(self) -> asyncio.Future[None] | None:
        """The turn of the first key in line that has less than its share; it has a place now."""
        for key_id in list(self._waiting):
            if key_id is not None and self._held[key_id] >= self._share:
                continue
            turns = self._waiting.pop(key_id)
            while turns:
                turn = turns.popleft()
                if turn.cancelled():
                    continue
                if turns:
                    # Behind the other keys.
                    self._waiting[key_id] = turns
                self._held[key_id] += 1
                self._free -= 1
                return turn
        return None
