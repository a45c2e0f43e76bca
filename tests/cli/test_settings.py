"""What the server is told, and what it says to a setting that it cannot use."""

import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest
import typer
from command_line import call
from pydantic import ValidationError

from server.cli.options import LISTENER_SETTINGS, WORKER_SETTINGS, takes_settings
from server.config.errors import SettingsError
from server.config.folders import data_folder
from server.config.settings import Settings
from server.fal.prices import Prices


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("COSMOS_WEIGHTS", "/models/cosmos")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def test_settings_are_read_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COSMOS_PORT", "9000")
    environment.setenv("COSMOS_FETCH_ALLOW_NETS", "10.1.0.0/16, fd00::/8")
    environment.setenv("COSMOS_FETCH_ALLOW_HOSTS", "Pictures.example,cdn.example")
    environment.setenv("COSMOS_AUTH", "on")
    environment.setenv("COSMOS_ALLOWED_HOSTS", "GPU.example., [2001:db8::1]")
    environment.setenv("COSMOS_CORS_ORIGINS", "https://App.example:443,http://localhost:3000")
    environment.setenv("COSMOS_FORWARDED_ALLOW_IPS", "10.1.2.3,fd00::/8")
    environment.setenv("COSMOS_PRICES", "a/b=0.20, c/d=3")
    environment.setenv("CUDA_VISIBLE_DEVICES", "0,2")

    settings = Settings.load()

    assert settings.weights == Path("/models/cosmos")
    assert settings.port == 9000
    assert settings.fetch_allow_nets == (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    assert settings.fetch_allow_hosts == ("pictures.example", "cdn.example")
    assert settings.allowed_hosts == ("gpu.example", "[2001:db8::1]")
    assert settings.cors_origins == ("https://app.example", "http://localhost:3000")
    assert settings.forwarded_allow_ips == (ip_network("10.1.2.3"), ip_network("fd00::/8"))
    assert settings.prices == (("a/b", 0.2), ("c/d", 3.0))
    assert settings.cuda_visible_devices == "0,2"


def test_what_is_passed_wins_over_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COSMOS_PORT", "9000")

    assert Settings.load(port=9001).port == 9001
    assert Settings.load(port=None).port == 9000


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings.load().port = 1


def test_a_dotenv_file_is_not_read(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("COSMOS_PORT=9000\n")
    environment.chdir(tmp_path)

    assert Settings.load().port == 8000


def test_the_former_name_of_the_worker_works_with_one_warning(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("COSMOS_WORKER", "server.worker:GpuWorker")
    program = "from server.config.settings import Settings; print(Settings.load().worker)"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert ran.stdout == f"{Settings.model_fields['worker'].default}\n"
    assert ran.stderr == (
        "COSMOS_WORKER=server.worker:GpuWorker is now called server.workers.gpu:GpuWorker: set "
        "that, or leave it unset.\n"
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("COSMOS_PROT", "1", "COSMOS_PROT is not a setting. Did you mean COSMOS_PORT?"),
        ("cosmos_prot", "1", "cosmos_prot is not a setting. Did you mean COSMOS_PORT?"),
        ("COSMOS_CUDA_VISIBLE_DEVICES", "0", "is not a setting"),
        ("COSMOS_GARDRAIL", "off", "Did you mean COSMOS_GUARDRAIL?"),
        ("COSMOS_PORT", "ten", "COSMOS_PORT='ten'"),
        ("COSMOS_PORT", "70000", "COSMOS_PORT='70000'"),
        ("COSMOS_QUEUE_LIMIT", "0", "COSMOS_QUEUE_LIMIT='0'"),
        ("COSMOS_GUARDRAIL", "maybe", "'maybe': expected required, text, off or a URL"),
        ("COSMOS_GUARDRAIL", "http://a:b@c.d/", "expected required, text, off or a URL"),
        ("COSMOS_DATABASE", "postgresql://host/cosmos", "postgresql+psycopg://user:password@host"),
        ("COSMOS_DATABASE", "postgresql+psycopg://a:1,b:1/cosmos", "?host=first:5432&host=second"),
        ("COSMOS_GUARDRAIL_KEY_FILE", "key", "are for a guardrail's URL"),
        ("COSMOS_MEMORY", "some", "Input should be 'auto', 'resident', 'offload' or 'stream'"),
        ("COSMOS_FETCH_ALLOW_NETS", "10.1.0.0/99", "COSMOS_FETCH_ALLOW_NETS='10.1.0.0/99'"),
        ("COSMOS_ALLOWED_HOSTS", "a.example:80", "'a.example:80' is not a host's name"),
        ("COSMOS_CORS_ORIGINS", "*", "'*' is not an origin: give each as https://app.example"),
        ("COSMOS_FORWARDED_ALLOW_IPS", "proxy", "'proxy' does not appear to be"),
        ("COSMOS_FORWARDED_ALLOW_IPS", "10.1.2.3", "callers need a key: set COSMOS_AUTH=on"),
        ("COSMOS_PUBLIC_URL", "videos.example", "expected a URL such as https://"),
        ("COSMOS_PUBLIC_URL", "https://me@videos.example", "without credentials"),
        ("COSMOS_FILES_AUTH", "all", "COSMOS_FILES_AUTH='all': Input should be 'public', 'signed'"),
        ("COSMOS_FILES_URL_SECONDS", "3600", "COSMOS_FILES_URL_SECONDS is for signed URLs"),
        ("COSMOS_FILES_URL_SECONDS", "59", "COSMOS_FILES_URL_SECONDS='59'"),
        ("COSMOS_FILES", "s3:videos", "expected s3://bucket or s3://bucket/prefix"),
        ("COSMOS_FILES", "s3://me:secret@videos", "expected s3://bucket or s3://bucket/prefix"),
        ("COSMOS_FILES", "/srv/files", "expected s3://bucket or s3://bucket/prefix"),
        ("COSMOS_AUTH", "maybe", "COSMOS_AUTH='maybe': Input should be 'auto', 'on' or 'off'"),
        ("COSMOS_TLS_PORT", "8443", "HTTPS needs all of COSMOS_TLS_CERT"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    environment: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    environment.setenv(name, value)

    with pytest.raises(SettingsError) as refused:
        Settings.load()

    assert sentence in str(refused.value)


def test_variables_of_kubernetes_services_are_ignored(environment: pytest.MonkeyPatch) -> None:
    for service in ("COSMOS", "COSMOS_SERVE", "COSMOS_DB"):
        environment.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        environment.setenv(f"{service}_SERVICE_PORT", "8000")
        environment.setenv(f"{service}_SERVICE_PORT_HTTP", "8000")
        environment.setenv(f"{service}_PORT", "tcp://10.0.0.1:8000")
        environment.setenv(f"{service}_PORT_8000_TCP", "tcp://10.0.0.1:8000")
        environment.setenv(f"{service}_PORT_8000_TCP_PROTO", "tcp")
        environment.setenv(f"{service}_PORT_8000_TCP_PORT", "8000")
        environment.setenv(f"{service}_PORT_8000_TCP_ADDR", "10.0.0.1")

    assert Settings.load().port == 8000

    environment.setenv("COSMOS_SERVICE_HOSTS", "10.0.0.1")
    with pytest.raises(SettingsError, match="COSMOS_SERVICE_HOSTS is not a setting"):
        Settings.load()


@pytest.mark.parametrize("name", [n for n in Settings.model_fields if n != "weights"])
def test_an_empty_variable_is_not_set(environment: pytest.MonkeyPatch, name: str) -> None:
    expected = Settings.load()
    environment.setenv("CUDA_VISIBLE_DEVICES" if name.startswith("cuda") else f"COSMOS_{name}", "")

    if name == "cuda_visible_devices":
        assert Settings.load().cuda_visible_devices == ""
    else:
        assert Settings.load() == expected


def test_an_empty_data_folder_is_the_default(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COSMOS_DATA", "")

    assert data_folder() == Path("data")


TEXT_OPTIONS = ["data", "host", "tls-cert", "tls-key", "public-url", "weights", "devices"]


@pytest.mark.parametrize("option", TEXT_OPTIONS)
def test_an_empty_option_is_not_set(environment: pytest.MonkeyPatch, option: str) -> None:
    """As of a variable of a script that is not set: `--data "$DATA"`."""
    environment.setenv("COSMOS_DATA", "/srv/data")
    given = []

    @takes_settings(*LISTENER_SETTINGS, *WORKER_SETTINGS)
    def command(settings: Settings) -> None:
        given.append(settings)

    app = typer.Typer()
    app.command()(command)
    app([f"--{option}", ""], standalone_mode=False)

    assert given == [Settings.load()]


def test_an_empty_data_option_is_the_default_of_every_command(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("COSMOS_DATA", "/no/data")

    _, _, said = call(capsys, "jobs", "list", "--data", "")

    assert "There is no database in /no/data" in said


def test_missing_weights_are_named(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("COSMOS_WEIGHTS")

    with pytest.raises(SettingsError, match="Give --weights, or set COSMOS_WEIGHTS: folder of the"):
        Settings.load()


def test_a_malformed_key_is_refused_without_repeating_it(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("COSMOS_KEY", "hunter2")

    with pytest.raises(SettingsError) as refused:
        Settings.load()

    assert "COSMOS_KEY=…: expected a key of the form id:secret." in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_key_does_not_show_when_settings_are_printed() -> None:
    assert "s3cret" not in repr(Settings.load(key="me:s3cret"))


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "gpu.local"}, True),
        ({"auth": "on"}, True),
        ({"auth": "off"}, False),
        ({"key": "me:s3cret"}, True),
        ({"key_file": "key"}, True),
    ],
)
def test_callers_need_a_key_unless_they_are_on_this_machine(
    given: dict[str, str], needed: bool
) -> None:
    assert Settings.load(**given).needs_key is needed


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"auth": "off", "host": "0.0.0.0"}, "let everybody in who can reach 0.0.0.0"),
        ({"auth": "off", "key": "me:s3cret"}, "leaves the key that is set without a use"),
        ({"auth": "off", "key_file": "key"}, "leaves the key that is set without a use"),
        ({"key": "me:s3cret", "key_file": "key"}, "are both set: choose one"),
        ({"pull": "true", "weights": "base,distilled"}, "COSMOS_PULL fetches one checkpoint"),
        ({"role": "api"}, "COSMOS_ROLE=api leaves the rest to servers on the same database"),
        ({"ray_address": "10.0.0.1:6379"}, "COSMOS_RAY_ADDRESS is for the pool of a Ray cluster"),
        ({"ray_max_slots": "4"}, "COSMOS_RAY_MAX_SLOTS is for the pool of a Ray cluster"),
        ({"pool": "ray", "ray_min_slots": "2"}, "COSMOS_RAY_MIN_SLOTS is for workers whose number"),
        (
            {"pool": "ray", "ray_max_slots": "1", "ray_min_slots": "2"},
            "COSMOS_RAY_MIN_SLOTS=2 is more than COSMOS_RAY_MAX_SLOTS=1",
        ),
        ({"fetch": "off", "fetch_allow_nets": "10.0.0.0/8"}, "COSMOS_FETCH=off leaves"),
        ({"fetch": "off", "fetch_allow_hosts": "hooks.internal"}, "without a use: unset them"),
        ({"files_auth": "key"}, "callers need none here: set COSMOS_AUTH=on"),
        ({"files_serving": "redirect"}, "is for files in S3: let COSMOS_FILES name a bucket"),
        ({"files_auth": "key", "auth": "off"}, "callers need none here: set COSMOS_AUTH=on"),
        ({"files_url_seconds": 600}, "is for signed URLs: set COSMOS_FILES_AUTH=signed"),
        ({"files_auth": "key", "auth": "on", "files_url_seconds": 600}, "is for signed URLs"),
    ],
)
def test_settings_that_deny_each_other_are_refused(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        Settings.load(**given)


@pytest.fixture
def file(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that COSMOS_CONFIG names, which is not there yet."""
    path = tmp_path / "cosmos.toml"
    environment.setenv("COSMOS_CONFIG", str(path))
    return path


def test_settings_are_read_from_a_file(file: Path, environment: pytest.MonkeyPatch) -> None:
    file.write_text(
        'port = 9000\nhost = "::1"\ndata = "/srv/data"\nfetch_allow_nets = ["10.1.0.0/16"]\n'
        'allowed_hosts = "a.example, b.example"\ncuda_visible_devices = "1"\npull = true\n'
    )
    environment.setenv("COSMOS_HOST", "127.0.0.1")

    settings = Settings.load()

    assert (settings.port, settings.pull, settings.cuda_visible_devices) == (9000, True, "1")
    assert settings.fetch_allow_nets == (ip_network("10.1.0.0/16"),)
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.host == "127.0.0.1", "the environment wins"
    assert data_folder() == settings.data == Path("/srv/data")
    assert Settings.load(port=9001).port == 9001


def test_an_empty_text_in_a_file_is_no_setting(file: Path) -> None:
    file.write_text('host = ""\ndata = ""\ncuda_visible_devices = ""\n')

    settings = Settings.load()

    assert (settings.host, settings.data) == ("127.0.0.1", Path("data"))
    assert settings.cuda_visible_devices == "", "it shows no GPU"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot = 8000", "prot is not a setting. Did you mean port?"),
        ("COSMOS_PORT = 8000", "COSMOS_PORT is not a setting."),
        ("port = 70000", "COSMOS_PORT=70000: Input should be less than or equal to 65535."),
        ("port = ", "cannot be read: Invalid value"),
        (None, "cannot be read: [Errno 2] No such file"),
        ('config = "other.toml"', "config is not a setting."),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(file: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        file.write_text(text)

    with pytest.raises(SettingsError) as refused:
        Settings.load()

    assert sentence in str(refused.value)


@pytest.mark.parametrize("price", ["0.20", "a/b=", "a/b=-1", "a/b=inf", "=1", "a/b=1e3"])
def test_a_price_that_is_none_is_refused(environment: pytest.MonkeyPatch, price: str) -> None:
    environment.setenv("COSMOS_PRICES", price)
    with pytest.raises(SettingsError, match="is no price: give each as"):
        Settings.load()


def test_a_price_of_no_endpoint_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COSMOS_PRICES", "fal-ai/flux/dev=1")
    with pytest.raises(SettingsError, match="'fal-ai/flux/dev', which is no endpoint"):
        Prices.from_settings(Settings.load())
