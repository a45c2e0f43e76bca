"""What `cosmos-serve` says of itself, and what it refuses before it begins any work."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from command_line import call
from servers import picture, write_small_checkpoint
from typer.core import TyperGroup

from server.cli.main import app
from server.config.settings import Settings

ROOT = typer.main.get_command(app)


def commands(command: object = ROOT, path: str = "") -> Iterator[tuple[str, object]]:
    """Every command and group, and how it is typed after `cosmos-serve`."""
    yield path, command
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{path} {name}")


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], path: str) -> None:
    code, out, err = call(capsys, *path.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: cosmos-serve{path} ")


@pytest.mark.parametrize("command", [[], ["generate"], ["serve"], ["certs"]])
def test_help_has_examples_and_exit_codes(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    _, out, _ = call(capsys, *command, "--help")
    assert "\n    cosmos-serve " in out
    assert "Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted." in out


def test_the_help_of_a_setting_is_its_description() -> None:
    said = {
        (path, option.name): option.help
        for path, command in COMMANDS.items()
        for option in getattr(command, "params", [])
        if option.name in Settings.model_fields
        if path in (" serve", " generate") or option.name == "data"
    }
    assert {(" serve", "port"), (" generate", "attention"), (" jobs list", "data")} <= said.keys()
    for (path, name), text in said.items():
        description = Settings.model_fields[name].description
        assert description is not None
        assert text == f"{description[0].upper()}{description[1:]}.", path


def test_options_are_spelled_as_the_messages_and_pages_spell_them() -> None:
    names = {
        name
        for command in COMMANDS.values()
        for option in getattr(command, "params", [])
        for name in option.opts
        if name.startswith("--")
    }
    assert {"--any-filesystem", "--quarantine-unknown", "--tls-port"} <= names
    assert [name for name in names if "_" in name] == []


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys)
    assert code == 2
    assert "cosmos-serve generate photo.jpg" in err


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == (0, "cosmos-serve 0.1.0\n", "")


# What is refused: in one line, and with the exit code that says whose fault it is.

GENERATE = ["generate", "photo.png", "A calm sea", "--weights", "weights", "--devices", "cpu"]
MP4 = [*GENERATE, "-o", "a.mp4"]

WRONG_USAGE = [
    (["nonsense"], "No such command 'nonsense'."),
    (["generate"], "Missing argument"),
    (GENERATE, "Missing option '--out'"),
    ([*MP4, "--wings"], "No such option: --wings"),
    (["generate", "no.png", "A sea", "-o", "a.mp4"], "file 'no.png' does not exist"),
    ([*GENERATE[:2], "\udcff", "-o", "a.mp4", *GENERATE[3:]], "the prompt is not UTF-8 text."),
    ([*MP4, "--frames", "8"], "'--frames'"),
    ([*MP4, "--steps", "51"], "'--steps'"),
    ([*MP4, "--guidance", "nan"], "'--guidance'"),
    ([*MP4, "--seed", "-2"], "'--seed'"),
    ([*MP4, "--quality", "best"], "'--quality'"),
    ([*GENERATE, "-o", "a.avi"], "a.avi ends in none of .mp4, .webm, .mov, .gif"),
    ([*GENERATE, "-o", "a"], "a ends in none of"),
    ([*MP4, "--output-type", "gif"], "ends in .mp4, but --output-type gif"),
    ([*GENERATE, "-o", "weights"], "weights is a folder"),
    ([*GENERATE, "-o", "no/a.mp4"], "There is no folder no to put a.mp4 in."),
    ([*MP4, "--devices", "tpu"], "'tpu' is no device"),
    ([*MP4, "--guardrail", "on"], "--guardrail='on': expected required, text, off or a URL"),
    (["serve", "--weights", "weights", "--port", "80000"], "--port=80000: Input should be less"),
    ([*MP4, "--guardrail-model", "omni"], "COSMOS_GUARDRAIL_MODEL are for a guardrail's URL"),
    ([*MP4, "--memory", "some"], "'--memory'"),
    (["serve", "--weights", "weights", "--tls-port", "1"], "COSMOS_TLS_CERT"),
    (["weights", "stand-in", "new", "--size", "wide"], "--size is 'wide'; give width and"),
    (["keys", "create", "x", "--expires-in-days", "0"], "'--expires-in-days'"),
    (["keys", "create", "x", "--scope", "root"], "'--scope'"),
    (["jobs", "list", "--status", "LATE"], "'--status'"),
    (["jobs", "purge"], "Say what to remove"),
    (["jobs", "purge", "x", "--older-than-days", "1"], "Say what to remove"),
]
IMPOSSIBLE = [
    (["generate", "photo.png", "x", "-o", "a.mp4", "--weights", "no"], "weights pull no"),
    (["generate", "text", "x", "-o", "a.mp4", "--weights", "weights"], "cannot be read"),
    (["generate", "photo.png", "x", "-o", "a.mp4", "--weights", "strict"], "--guardrail off"),
    (["serve", "--weights", "strict"], "--guardrail off"),
    (["weights", "check", "no"], "There is no folder no"),
    (["weights", "verify", "strict"], "There is no strict/checksums.json"),
    (["weights", "verify", "strict", "--listing", "text"], "text is not JSON"),
    (["weights", "stand-in", "strict"], "strict is not empty"),
    (["weights", "stand-in", "new", "--size", "96x65"], "height is 65"),
    (["keys", "create", "x", "--data", "empty"], "There is no database in empty"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a picture, a text and two checkpoints."""
    (tmp_path / "photo.png").write_bytes(picture())
    (tmp_path / "text").write_text("no picture")
    write_small_checkpoint(tmp_path / "weights")
    write_small_checkpoint(tmp_path / "strict", guardrail="required")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSMOS_WORKER", "workers:ScriptedWorker")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The one line that says why the command ends with this exit code."""
    ended, out, err = call(capsys, *arguments)
    assert (ended, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("cosmos-serve: ")
    return err


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [*((2, *case) for case in WRONG_USAGE), *((1, *case) for case in IMPOSSIBLE)],
)
def test_a_refusal_is_one_line_and_leaves_nothing(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    code: int,
    arguments: list[str],
    message: str,
) -> None:
    assert message in refused(capsys, code, *arguments)
    assert {path.name for path in folder.iterdir()} == {"photo.png", "text", "weights", "strict"}


SERVE = ["serve", "--weights", "weights", "--devices", "cpu", "--port"]


def test_a_port_that_is_taken_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(capsys, 2, *SERVE, port)
    assert f"Cannot listen on 127.0.0.1 port {port}" in said


def test_a_certificate_that_cannot_be_used_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], certificates: Path
) -> None:
    cert, key = str(certificates / "ca.pem"), str(certificates / "key.pem")
    tls = ["--tls-cert", cert, "--tls-key", key, "--tls-port", "0"]
    assert f"The certificate {cert} cannot be used" in refused(capsys, 2, *SERVE, "0", *tls)


def test_a_stand_in_that_was_made_is_a_checkpoint_that_checks_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "tiny")
    code, out, _ = call(capsys, "weights", "stand-in", folder, "--size", "96x64")
    assert code == 0
    assert f"{folder}: a stand-in checkpoint for videos of 96x64" in out
    code, out, _ = call(capsys, "weights", "check", folder)
    assert code == 0
    assert "videos     96x64, up to 93 frames" in out
    assert "Numbers written down" in out


def test_a_stand_in_of_random_weights_is_made_if_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "tiny")
    code, out, _ = call(capsys, "weights", "stand-in", folder, "--size", "96x64", "--random")
    assert code == 0
    assert "Random numbers" in out
