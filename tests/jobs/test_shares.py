"""What keys share: no key has all of it, and those who wait take turns."""

import asyncio

import pytest

from server.tasks import FairSemaphore


class Places:
    """Callers of one semaphore, each with its key and a number, and who has had a place so far."""

    def __init__(self, count: int) -> None:
        self.semaphore = FairSemaphore(count)
        self.had: list[str | None] = []

    async def ask(self, *keys: str | None) -> list[asyncio.Task[None]]:
        """Ask for a place for each of these keys, in this order."""
        tasks = [asyncio.create_task(self._take(key)) for key in keys]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return tasks

    async def _take(self, key: str | None) -> None:
        await self.semaphore.acquire(key)
        self.had.append(key)


async def test_no_key_has_all_places() -> None:
    places = Places(3)

    await places.ask("a", "a", "a", "b", "b")

    assert places.had == ["a", "a", "b"]


async def test_keys_that_wait_take_turns() -> None:
    places = Places(2)
    await places.ask("x", "y")
    await places.ask("a", "a", "a", "b", "c", "c")
    for key in ("x", "y", "a", "b", "c", "a"):
        places.semaphore.release(key)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert places.had == ["x", "y", "a", "b", "c", "a", "c", "a"]


async def test_where_there_is_one_place_a_key_may_have_it() -> None:
    places = Places(1)

    await places.ask("a", "b")

    assert places.had == ["a"]


async def test_where_no_key_is_asked_for_callers_have_every_place() -> None:
    places = Places(3)

    await places.ask(None, None, None, None)

    assert places.had == [None] * 3


@pytest.mark.parametrize("is_given", [False, True])
async def test_who_leaves_while_it_waits_takes_no_place_along(is_given: bool) -> None:
    places = Places(1)
    await places.ask("a")
    [leaving] = await places.ask("b")
    if is_given:
        places.semaphore.release("a")
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    if not is_given:
        places.semaphore.release("a")
    await places.ask("c")

    assert places.had == ["a", "c"]
