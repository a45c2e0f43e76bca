"""Two pieces of work in two threads, of which one goes at a time: every order of their steps, as
far as there are two changes from one to the other before either has ended."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, event

from server.db.database import Database
from server.files.store import ArtifactStore, IncomingFile
from server.models import StoredArtifact

Work = Callable[[], None]
REPORTS_WITHIN_S = 30.0


class _Task:
    """One of the threads. It stands still at each step until it is let go on."""

    def __init__(self, turns: "Turns", work: Work) -> None:
        self._go = threading.Semaphore(0)
        self._reported = threading.Semaphore(0)
        self.steps = 0
        self.is_blocked = False
        self.is_over = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(turns, work))
        self._thread.start()

    def go_on(self) -> None:
        """Let it go as far as its next step."""
        self._go.release()
        assert self._reported.acquire(timeout=REPORTS_WITHIN_S), "a step waits for the other thread"
        self.steps += not self.is_blocked
        if self.is_over:
            self._thread.join()

    def stand(self, *, is_blocked: bool) -> None:
        self.is_blocked = is_blocked
        self._reported.release()
        self._go.acquire()

    def _run(self, turns: "Turns", work: Work) -> None:
        self._go.acquire()
        turns.here.task = self
        try:
            work()
        except BaseException as error:
            self.error = error
        self.is_over, self.is_blocked = True, False
        self._reported.release()


class Turns:
    """Knows which thread is a task. Others, such as the test's own, go as they like."""

    def __init__(self) -> None:
        self.here = threading.local()

    def step(self, *, is_blocked: bool = False) -> None:
        """Here the other task may get its turn."""
        task: _Task | None = getattr(self.here, "task", None)
        if task is not None:
            task.stand(is_blocked=is_blocked)

    def run(self, first: Work, second: Work, before: int, between: int) -> tuple[bool, bool]:
        """Let `first` go so many steps, then `second`, then `first` to its end, then `second`.

        Returns whether each had ended before its turn was over.
        """
        tasks = _Task(self, first), _Task(self, second)
        ended = [self._go(tasks, 0, before), self._go(tasks, 1, between)]
        for number in (0, 1):
            while not tasks[number].is_over:
                self._go(tasks, number, 1)
        for task in tasks:
            if task.error is not None:
                raise task.error
        return ended[0], ended[1]

    def _go(self, tasks: tuple[_Task, _Task], number: int, steps: int) -> bool:
        task, other = tasks[number], tasks[1 - number]
        until = task.steps + steps
        while not task.is_over and task.steps < until:
            task.go_on()
            if task.is_blocked:
                assert not other.is_over, "a lock was never given back"
                other.go_on()
                assert not other.is_blocked, "each waits for the other"
        return task.is_over


def every_order(turns: Turns, prepared: Callable[[], tuple[Work, Work, Work]]) -> int:
    """Try the orders, either task first; how many there were.

    `prepared` gives the two, on things that no earlier try has touched, and the check of what
    became of them.
    """
    tried = 0
    for swapped in (False, True):
        before, first_ended = 0, False
        while not first_ended:
            between, second_ended = 1, False
            while not second_ended:
                first, second, check = prepared()
                pair = (second, first) if swapped else (first, second)
                first_ended, second_ended = turns.run(*pair, before, between)
                check()
                tried += 1
                between += 1
            before += 1
    return tried


class SteppedLock:
    """A lock to be waited for step by step."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._turns.step()
        while not self._lock.acquire(blocking=False):
            self._turns.step(is_blocked=True)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class SteppedDatabase(Database):
    """The real one, with a step before each transaction."""

    def __init__(self, path: Path, turns: Turns) -> None:
        super().__init__(path)
        self._turns = turns
        # Orders are tried here, and no loss of power: hundreds of commits need not wait for it.
        self._engine.dispose()
        event.listen(self._engine, "connect", _without_waiting)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        self._turns.step()
        with super().read() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self._turns.step()
        with super().write() as connection:
            yield connection


def _without_waiting(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


class SteppedFiles(ArtifactStore):
    """The real one, with a step before whatever it does to a file."""

    def __init__(self, root: Path, turns: Turns) -> None:
        super().__init__(root)
        self._turns = turns

    def keep_shared(self, artifact: StoredArtifact, data: bytes) -> None:
        self._turns.step()
        super().keep_shared(artifact, data)

    def receive(self) -> IncomingFile:
        # Between the look for a file and its writing.
        self._turns.step()
        return super().receive()

    def remove(self, artifact_id: str) -> None:
        self._turns.step()
        super().remove(artifact_id)
