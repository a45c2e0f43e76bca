"""`weights pull --guardrail` brings the text model of the guardrail beside a checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call
from hub_stand_in import GUARDRAIL_FILES, GUARDRAIL_PLACE, StandInHub, files_in, running_hub
from test_weights_pull import environment

from weights.guardrail import guardrail_files

__all__ = ["environment"]

UNNEEDED = {"README.md": b"# Qwen3Guard", "generation_config.json": b"{}", "pytorch_model.bin": b""}


@pytest.fixture
def hub(environment: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with running_hub({}) as hub:
        hub.others[GUARDRAIL_PLACE] = GUARDRAIL_FILES | UNNEEDED
        environment.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_the_guardrail_is_fetched_at_its_commit_and_can_be_copied(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    assert len(guardrail_files(folder).missing) == 3

    code, out, err = call(capsys, "weights", "pull", "--guardrail", str(folder))

    assert code == 0, err
    assert out == (
        f"{folder}/guardrail: Qwen/Qwen3Guard-Gen-0.6B at "
        "fada3b2f655b89601929198343c94cd2f64d93cc, 5 files, 21 B\nApache License 2.0\n"
    )
    assert guardrail_files(folder).missing == ()
    record = json.loads((folder / "guardrail" / "checksums.json").read_text())
    assert {file["path"] for file in record["files"]} == GUARDRAIL_FILES.keys()
    assert hub.unknown == []

    hub.requests.clear()
    copy = tmp_path / "copy"
    code, _, err = call(capsys, "weights", "pull", "--guardrail", str(copy), "--from", str(folder))
    assert code == 0, err
    assert files_in(copy) == files_in(folder)
    assert hub.requests == []


def test_a_repository_without_what_is_needed_is_refused(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, tmp_path: Path
) -> None:
    del hub.others[GUARDRAIL_PLACE]["tokenizer_config.json"]
    code, out, err = call(capsys, "weights", "pull", "--guardrail", str(tmp_path))
    assert (code, out) == (1, "")
    assert "lacks tokenizer_config.json" in err
