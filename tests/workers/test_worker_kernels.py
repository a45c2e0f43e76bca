"""What a worker computes with, as it tells it and as operators see it."""

from pathlib import Path

import pytest
import torch
from scrapes import scrape
from servers import serving, settings_in
from stand_ins import stand_in

from pipeline.network.kernels.proof import KernelChoice
from server.workers.gpu import GpuWorker
from server.workers.loop import WorkerOptions
from server.workers.process import worker_environment

PROBLEM = "The fused kernels do not work here."


async def test_kernels_that_do_not_work_are_shown_and_the_server_is_ready(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, worker="workers:PlainKernels")) as client:
        while (ready := await client.get("/health/ready")).status_code == 503:
            pass
        (slot,) = ready.json()["slots"]
        assert (slot["kernels"], slot["kernels_problem"]) == ("plain", "There is no compiler.")
        info = {"slot": "cpu", "device": "cpu", "device_name": "scripted cpu"}
        info |= {"attention": "scripted", "memory": "resident", "kernels": "plain"}
        assert (await scrape(client)).number("cosmos_slot_info", info) == 1


def test_a_worker_tells_what_it_computes_with_and_logs_a_problem_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = KernelChoice("plain", PROBLEM)
    monkeypatch.setattr("pipeline.load.choose_kernels", lambda *_, **__: choice)
    ready = GpuWorker("cpu", WorkerOptions(weights=str(stand_in()))).load(lambda _: None)
    assert (ready.attention, ready.kernels, ready.kernels_problem) == ("native", "plain", PROBLEM)
    assert ready.versions["torch"] == torch.__version__
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count(PROBLEM) == 1


@pytest.mark.parametrize(("ours", "theirs"), [({}, "1"), ({"TRITON_DEFAULT_FP_FUSION": "0"}, "0")])
def test_a_later_triton_does_not_change_how_kernels_round(
    ours: dict[str, str], theirs: str
) -> None:
    environment = worker_environment("cuda", "0", None, ours)
    assert environment["TRITON_DEFAULT_FP_FUSION"] == theirs


def test_what_a_worker_compiles_lies_in_the_data_folder() -> None:
    environment = worker_environment("cuda", "0", "data/compiled", {"HOME": "/root"})
    assert environment["TRITON_CACHE_DIR"] == "data/compiled/triton"
    assert environment["HOME"] == "/root"


@pytest.mark.parametrize(
    ("ours", "theirs"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_that_wait_do_not_spin_on_a_cpu(ours: dict[str, str], theirs: str) -> None:
    assert worker_environment("cpu", "0", None, ours)["OMP_WAIT_POLICY"] == theirs


def test_a_worker_gets_no_secrets() -> None:
    ours = {"COSMOS_KEY": "me:s3cret", "cosmos_key": "me:s3cret", "HF_TOKEN": "hf_s3cret"}
    assert "s3cret" not in str(worker_environment("cpu", "0", None, ours))


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("cuda", {}, "expandable_segments:True"),
        ("cuda", {"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native"),
        ("cuda", {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, None),
        ("cpu", {}, None),
    ],
)
def test_the_allocator_is_set_unless_the_operator_has_set_it(
    kind: str, ours: dict[str, str], theirs: str | None
) -> None:
    environment = worker_environment(kind, "0", None, ours)
    assert environment.get("PYTORCH_ALLOC_CONF") == theirs
    assert ours.items() <= environment.items()
