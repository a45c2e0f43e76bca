"""docs/reverse-proxies.md: what its configurations and the server's defaults have to do with each
other. `tests/clients/test_clients_proxies.py` runs them."""

import re

import pytest
from paths import DOCS

from server.config.settings import Settings

PAGE = (DOCS / "reverse-proxies.md").read_text()


@pytest.mark.parametrize(
    "setting", [r"keepalive_timeout (\d+)s;", r"\tkeepalive (\d+)s\n", r"idleConnTimeout: (\d+)s\n"]
)
def test_a_proxy_closes_an_idle_connection_before_the_server_does(setting: str) -> None:
    (seconds,) = re.findall(setting, PAGE)

    assert int(seconds) < Settings.model_fields["keep_alive"].default
