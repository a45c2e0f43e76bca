"""A device that fails: its worker ends, its job is run again, and failing again and again shows."""

import subprocess
from pathlib import Path

import pytest
from pools import Watched, local_pool, order, running
from queue_calls import RUN
from servers import request_of, serving, settings_in

from server.workers.loop import is_device_fault
from server.workers.messages import Done
from server.workers.pool import SlotUp
from server.workers.slot import TOO_MANY, WITHIN_S, CrashCounter


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"),
        OSError("NVML: Driver/library version mismatch"),
    ],
)
def test_errors_of_the_device_are_known_by_their_words(error: Exception) -> None:
    assert is_device_fault(error)
    wrapped = ValueError("The step failed.")
    wrapped.__cause__ = error
    assert is_device_fault(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        subprocess.CalledProcessError(1, ["gcc", "/tmp/cuda_utils.c", "-lcuda"]),
    ],
)
def test_other_errors_are_none_of_the_device(error: Exception) -> None:
    assert not is_device_fault(error)


async def test_a_device_that_fails_once_costs_a_worker_and_no_job(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path), worker_process=True) as client:
        again = await client.post(RUN, json=request_of("cuda 1 once"))
        lost = await client.post(RUN, json=request_of("cuda 1"))

    assert again.status_code == 200, again.text
    assert lost.status_code == 500
    assert lost.json() == {
        "detail": (
            "The GPU reported an error, which the worker's log describes: the worker was ended."
        ),
        "error_type": "runner_server_error",
    }


async def can_work(watched: Watched) -> bool:
    await watched.until(SlotUp)
    [slot] = watched.pool.slots()
    return slot.can_work


async def test_a_slot_whose_workers_keep_ending_cannot_work_until_one_does() -> None:
    async with running(local_pool()) as watched:
        for _ in range(TOO_MANY):
            assert await can_work(watched)
            await watched.fails(order("cuda"))
        assert not await can_work(watched)

        assert isinstance((await watched.run(order()))[-1], Done)

        assert watched.pool.slots()[0].can_work


@pytest.mark.parametrize(
    ("times", "now", "is_crash_looping"),
    [
        ([0.0] * (TOO_MANY - 1), 1.0, False),
        ([0.0] * TOO_MANY, WITHIN_S - 1, True),
        ([0.0] * TOO_MANY, WITHIN_S, False),
        ([0.0] + [500.0] * (TOO_MANY - 1) + [WITHIN_S], WITHIN_S, True),
        ([0.0, 0.0] + [500.0] * (TOO_MANY - 2) + [WITHIN_S], WITHIN_S, False),
    ],
)
def test_deaths_count_for_ten_minutes(
    times: list[float], now: float, is_crash_looping: bool
) -> None:
    clock = iter([*times, now])
    deaths = CrashCounter(lambda: next(clock))
    for _ in times:
        deaths.add()

    assert deaths.is_crash_looping is is_crash_looping
