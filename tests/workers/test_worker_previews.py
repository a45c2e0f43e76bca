"""Which previews the real worker makes, by its options."""

import pytest
from pools import order
from stand_ins import stand_in

from pipeline import preview
from server.config.setting_types import PreviewChoice
from server.workers.gpu import GpuWorker
from server.workers.loop import CannotLoad, WorkerOptions
from server.workers.messages import Preview, RunEvent


def worker_with(choice: PreviewChoice, guardrail: str = "off") -> GpuWorker:
    options = WorkerOptions(weights=str(stand_in()), preview=choice, guardrail=guardrail)
    return GpuWorker("cpu", options)


@pytest.mark.parametrize(
    ("choice", "guardrail", "has_previews"),
    [("rgb", "off", True), ("off", "off", False), ("rgb", "http://localhost:1/judge", False)],
)
def test_a_worker_sends_previews_where_they_are_wanted_and_can_be_judged(
    monkeypatch: pytest.MonkeyPatch, choice: PreviewChoice, guardrail: str, has_previews: bool
) -> None:
    monkeypatch.setattr(preview, "EVERY_S", 0.0)
    sent: list[RunEvent] = []
    worker = worker_with(choice, guardrail)
    worker.load(lambda _: None)

    def passes(_index: int, _jpeg: bytes) -> None:
        return None

    worker.run(order(steps=3), sent.append, lambda: False, passes)

    previews = [event.data for event in sent if isinstance(event, Preview)]
    assert bool(previews) == has_previews
    assert all(data[8:12] == b"WEBP" for data in previews)


def test_a_decoder_that_is_not_there_is_missed_before_the_model_is_loaded() -> None:
    reported: list[str] = []
    worker = worker_with("taehv")
    with pytest.raises(CannotLoad, match=r"COSMOS_PREVIEW=taehv wants the file .*taew2_1"):
        worker.load(lambda loading: reported.append(loading.text))
    assert reported == ["Importing torch"]
