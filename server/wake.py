"""Hints between tasks of this process that something in the tables has changed."""

import asyncio

LOOK_AGAIN_S = 1.0
"""Hints may be lost, and other processes send none: waiters look at the tables this often."""


class Wake:
    """A hint that any number of tasks wait for. It carries no news: those are in the tables."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Wake every task that waits, and every one that holds a ticket."""
        self._next.set()
        self._next = asyncio.Event()

    def ticket(self) -> "Ticket":
        """Take one before looking at the tables, so that no hint from then on is missed."""
        return Ticket(self._next)


class Ticket:
    """One task's place among those that wait."""

    def __init__(self, hint: asyncio.Event) -> None:
        self._hint = hint

    async def wait(self, at_most_s: float = LOOK_AGAIN_S) -> None:
        """Return at the first hint since the ticket was taken, or after a second without one."""
        try:
            async with asyncio.timeout(min(at_most_s, LOOK_AGAIN_S)):
                await self._hint.wait()
        except TimeoutError:
            return


class Wakes:
    """The hints of one server: each is for the tasks that wait for such a change."""

    def __init__(self) -> None:
        self.submitted = Wake()
        """A job needs its inputs."""
        self.claimable = Wake()
        """A job may be claimed, or a slot is free."""
        self.cancelled = Wake()
        """A running job should stop."""
        self.finished = Wake()
        """A job is done."""
