"""What the pool of a Ray cluster does beside the contract of every pool (`test_pool.py`)."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import Watched, order, running, step
from ray_clusters import NodesOfRay, nodes_of_ray, pool_on_ray, ray_pool
from workers import DIGEST

from server.config.errors import SettingsError
from server.config.settings import Settings
from server.workers import ray_cluster
from server.workers import ray_pool as ray_pool_module
from server.workers.messages import Done
from server.workers.pool import SlotDown, SlotState, SlotUp, WorkerDied, WorkerTaken
from server.workers.ray_node import node_environment, start_command
from server.workers.ray_pool import RayPool


@pytest.fixture
def nodes() -> Iterator[NodesOfRay]:
    """A cluster without a node that has slots, for a test that starts some."""
    cluster = nodes_of_ray()
    cluster.clear()
    yield cluster
    cluster.clear()


async def up(watched: Watched, slot: str) -> None:
    while (await watched.until(SlotUp)).slot != slot:
        pass


async def until_slots(watched: Watched, names: list[str]) -> None:
    while [view.name for view in watched.pool.slots()] != names:
        await asyncio.sleep(0.05)


@pytest.mark.cluster
async def test_slots_come_and_go_with_their_nodes(nodes: NodesOfRay) -> None:
    nodes.add("one")
    async with running(pool_on_ray()) as watched:
        await up(watched, "one/0")
        other = nodes.add("other")
        await up(watched, "other/0")
        with pytest.raises(WorkerDied):
            async with watched.pool.run("other/0", order("wait")) as events:
                await step(events)
                nodes.remove(other)
                [_ async for _ in events]
        await until_slots(watched, ["one/0"])
        async with watched.pool.run("one/0", order()) as events:
            assert isinstance([event async for event in events][-1], Done)


@pytest.mark.cluster
async def test_a_run_is_not_to_blame_for_a_node_that_is_told_to_end(nodes: NodesOfRay) -> None:
    node = nodes.add("one")
    async with running(pool_on_ray()) as watched:
        await up(watched, "one/0")
        with pytest.raises(WorkerTaken, match="has left the cluster of Ray"):
            async with watched.pool.run("one/0", order("wait")) as events:
                await step(events)
                nodes.remove(node, in_order=True)
                [_ async for _ in events]


@pytest.mark.cluster
async def test_a_slot_of_several_gpus_has_them_on_one_node(nodes: NodesOfRay) -> None:
    nodes.add("gang", num_slots=2, num_gpus=4)
    async with running(pool_on_ray("workers:GpusSeen")) as watched:
        for _ in range(2):
            await watched.until(SlotUp)
        views = watched.pool.slots()
    assert [view.device for view in views] == ["cuda+cuda", "cuda+cuda"]
    assert {view.device_name for view in views} == {"2 on 0,1", "2 on 2,3"}


@pytest.mark.cluster
async def test_a_node_with_another_checkpoint_is_refused_by_name() -> None:
    ray_pool()
    async with running(pool_on_ray(digest="ff" * 32)) as watched:
        assert (await watched.until(SlotDown)).reason == (
            "The node node0 has another checkpoint, of the digest d1d1d1d1d1d1; the server's is "
            "ffffffffffff."
        )


@pytest.mark.cluster
async def test_a_node_of_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "version", lambda _: "9.9")
    async with running(ray_pool()) as watched:
        reason = (await watched.until(SlotDown)).reason
    assert "is installed on the node, and 9.9 at the server." in reason


@pytest.mark.cluster
async def test_a_server_that_leads_no_more_lets_go_of_the_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_pool_module, "LEAD_S", 0.1)
    leads = True
    ray_pool()
    async with running(pool_on_ray(leads=lambda: leads)) as former:
        slot = (await former.until(SlotUp)).slot
        async with former.pool.run(slot, order("wait")) as events:
            await step(events)
            leads = False
            with pytest.raises(WorkerTaken, match="no longer leads"):
                [_ async for _ in events]
            assert former.pool.slots() == [], "another order could be given to it"
        await former.until(SlotDown)
        await until_slots(former, [])
        leads = True
        assert await former.until(SlotUp) == SlotUp(slot, DIGEST)
        assert former.pool.slots()[0].state is SlotState.IDLE


def test_what_is_missing_without_the_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "set_ray_environment", lambda: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'cosmos-serve\[ray\]'"):
        RayPool.from_settings(
            Settings(weights=Path("checkpoint"), pool="ray"), lambda: True, lambda: 0
        )


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("0+1,2+3", ["--num-gpus=4", '--resources={"cosmos_slot": 2}']),
        ("0,2", ["--num-gpus=2", '--resources={"cosmos_slot": 2}']),
        ("cpu", ["--num-gpus=0", '--resources={"cosmos_slot": 1}']),
    ],
)
def test_a_node_offers_the_devices_that_it_is_told(devices: str, said: list[str]) -> None:
    command = start_command(node_settings(devices), ["--head"])
    assert [part for part in command if part.startswith(("--num-gpus", "--resources"))] == said


@pytest.mark.parametrize("devices", ["0+1,2", "0,cpu", "cpu+cpu"])
def test_the_slots_of_a_node_are_alike(devices: str) -> None:
    with pytest.raises(SettingsError, match="the same number of GPUs each"):
        start_command(node_settings(devices), ["--head"])


def test_workers_of_a_node_see_its_gpus_and_know_its_own_folders(tmp_path: Path) -> None:
    environment = node_environment(node_settings("1,2"))
    assert environment["CUDA_VISIBLE_DEVICES"] == "5,6"
    assert environment["COSMOS_WEIGHTS"] == str(Path("checkpoint").absolute())
    assert environment["RAY_AUTH_MODE"] == "token"


def node_settings(devices: str) -> Settings:
    given = {"devices": devices, "CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    return Settings.model_validate({"weights": "checkpoint", **given})
