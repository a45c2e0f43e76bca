"""The number of workers of a Ray cluster where it follows the jobs that wait."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from pools import Watched, order, running, step
from ray_autoscaler import scaled_cluster
from ray_clusters import nodes_of_ray, pool_on_ray

from server.workers.pool import SlotDown, SlotGone, SlotState, SlotUp, SlotView
from server.workers.ray_cluster import SLOT, import_ray
from server.workers.ray_scaling import Scaling


def view(state: SlotState, *, is_unstable: bool = False) -> SlotView:
    return SlotView(name="a", device="cpu", state=state, is_unstable=is_unstable)


IDLE, BUSY, LOADING = view(SlotState.IDLE), view(SlotState.BUSY), view(SlotState.LOADING)
BROKEN = view(SlotState.DOWN, is_unstable=True)


@pytest.mark.parametrize(
    ("slots", "waiting", "wanted"),
    [
        ([], 0, 1),
        ([], 3, 3),
        ([], 9, 4),
        ([IDLE, IDLE], 0, 1),
        ([BUSY, IDLE], 0, 1),
        ([BUSY, LOADING], 1, 2),
        ([BROKEN], 1, 2),
        ([BROKEN, *[BUSY] * 3], 5, 4),
    ],
)
def test_workers_are_wanted_for_the_jobs_that_run_and_that_wait(
    slots: Sequence[SlotView], waiting: int, wanted: int
) -> None:
    scaling = Scaling(waiting=lambda: 0, min_slots=1, max_slots=4, idle_s=1)
    assert scaling.wanted(slots, waiting) == wanted


async def until_nodes(number: int) -> None:
    """Wait until so many nodes are there that have slots."""
    nodes = import_ray().nodes
    while sum(node["Alive"] and SLOT in node["Resources"] for node in nodes()) != number:
        await asyncio.sleep(0.2)


async def gone(watched: Watched) -> str:
    """The slot whose worker is ended next. That is no fault."""
    async for change in watched.changes:
        assert not isinstance(change, SlotDown)
        if isinstance(change, SlotGone):
            return change.slot
    raise AssertionError("the pool was closed")


@pytest.mark.cluster
async def test_workers_start_for_jobs_that_wait_and_end_when_none_does() -> None:
    cluster = nodes_of_ray()
    cluster.clear()
    cluster.add("pair", num_slots=2)
    waiting = 1
    scaling = Scaling(waiting=lambda: waiting, min_slots=0, max_slots=2, idle_s=0.1)
    async with running(pool_on_ray(scaling=scaling)) as watched:
        first = (await watched.until(SlotUp)).slot
        cluster.add("other")
        async with watched.pool.run(first, order("wait")) as events:
            await step(events)
            second = (await watched.until(SlotUp)).slot
            assert second.startswith("pair"), "two workers hold two nodes"
            waiting = 9
            await asyncio.sleep(2.5)
            assert len(watched.pool.slots()) == 2, "there are more than may be"
            waiting = 0
            assert await gone(watched) == second
            assert [view.name for view in watched.pool.slots()] == [first]
        assert await gone(watched) == first
        while import_ray().available_resources().get(SLOT) != 3:
            await asyncio.sleep(0.1)
    cluster.clear()


@pytest.mark.cluster
async def test_nodes_come_for_jobs_that_wait_and_go_when_none_does(tmp_path: Path) -> None:
    waiting = 2
    scaling = Scaling(waiting=lambda: waiting, min_slots=0, max_slots=2, idle_s=0.1)
    with scaled_cluster(tmp_path, max_nodes=2) as address:
        async with running(pool_on_ray(scaling=scaling, address=address)) as watched:
            first = (await watched.until(SlotUp)).slot
            second = (await watched.until(SlotUp)).slot
            async with watched.pool.run(first, order("wait")) as events:
                await step(events)
                waiting = 0
                assert await gone(watched) == second
                await until_nodes(1)
                assert watched.pool.slots()[0].state is SlotState.BUSY
            assert await gone(watched) == first
            await until_nodes(0)
