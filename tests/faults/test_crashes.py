"""A server that is killed at any moment at which something could be lost, and what it then has.

In each round the server on one data folder is killed at every failpoint in turn, while a client
goes on; at the end everything that the client was told must be so.
"""

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_record import REQUESTS, Wish
from crash_site import CrashSite, Receiver, receiving
from failpoints import PART_SENT, POINTS, POINTS_WITH_BUCKET, around, around_request
from job_fixtures import Where
from servers import ENDPOINT, request_of

GIVING_BACK = around("give back")
DYING = around("death")
RECOVERING = around("recover")
ONCE = (*GIVING_BACK, *RECOVERING, *around_request("list"))
"""A process passes these but once."""
DELETING = around_request("delete")
_PROMPTS = {**dict.fromkeys(DYING, "killed 1 once"), PART_SENT: "bytes 12000000"}
TIMES = 60
"""How often the client does all that it does before a point must have been passed."""


class Round:
    """One data folder, and a client that does everything that a client does."""

    def __init__(self, site: CrashSite, receiver: Receiver) -> None:
        self.site = site
        self._receiver = receiver
        self._wishes = 0

    def kill_at(self, point: str, passing: int) -> None:
        """Start the server, and go on until it is killed at the point."""
        if point in RECOVERING and self.site.is_shared:
            self._leave_a_job_running()
        self.site.start((point, 1 if point in ONCE else passing))
        with self.site.client() as client:
            for _ in range(TIMES):
                if not self.site.is_alive():
                    break
                try:
                    self._do_everything(client, point)
                except httpx.TransportError:
                    self.site.wait()
        assert self.site.wait(1) == -signal.SIGKILL, f"{point} was not passed"

    def _do_everything(self, client: httpx.Client, point: str) -> None:
        ledger = self.site.ledger
        told = ledger.submit(client, self._wish("sleep 0.01", webhook=self._receiver.url))
        stopped = ledger.submit(client, self._wish("sleep 0.02"))
        ledger.submit(client, self._wish(_PROMPTS.get(point, "")))
        ledger.cancel(client, stopped)
        if point in DELETING:
            self._make_and_delete(client)
        ledger.submit(client, self._wish(uploaded=True))
        if point in GIVING_BACK:
            ledger.submit(client, self._wish("sleep 1.5"))
            self._until_it_runs(client)
            assert self.site.process is not None
            self.site.process.send_signal(signal.SIGTERM)
        while ledger.unfinished():
            for record in ledger.unfinished():
                ledger.look(client, record)
        ledger.cancel(client, told)

    def _make_and_delete(self, client: httpx.Client) -> None:
        job = client.post(f"/queue/{ENDPOINT}", json=request_of("")).json()["request_id"]
        while client.get(f"{REQUESTS}/{job}/status").json()["status"] != "COMPLETED":
            pass
        assert client.delete(f"/v1/models/requests/{job}/payloads").status_code == 200

    def _leave_a_job_running(self) -> None:
        """Elsewhere a start puts jobs back; here it looks whether there are any first."""
        self.site.start()
        with self.site.client() as client:
            self.site.ledger.submit(client, self._wish("sleep 5"))
            self._until_it_runs(client)
        self.site.end(signal.SIGKILL)

    def _until_it_runs(self, client: httpx.Client) -> None:
        """Wait until the job that came last is the one that runs."""
        last = list(self.site.ledger.records.values())[-1]
        while "Step 1" not in client.get(f"{REQUESTS}/{last.job_id}/status?logs=1").text:
            assert self.site.is_alive()

    def _wish(self, prompt: str = "", **fields: Any) -> Wish:
        self._wishes += 1
        number = self._wishes
        return Wish(key=f"wish {number}", prompt=prompt, number=number, **fields)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("passing", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_nothing_is_lost_wherever_the_server_is_killed(
    tmp_path: Path, where: Where, passing: int, request: pytest.FixtureRequest
) -> None:
    points, named = POINTS, {}
    if not isinstance(where, Path):  # its place is in the data folder
        bucket = request.getfixturevalue("bucket")
        points = POINTS_WITH_BUCKET
        named = {"COSMOS_DATABASE": where.get_secret_value(), "COSMOS_FILES": bucket}
    with receiving() as receiver, CrashSite(tmp_path, **named) as site:
        crashes = Round(site, receiver)
        for point in points:
            crashes.kill_at(point, passing)
        site.start()
        with site.client() as client:
            site.settle(client)
            findings = site.check(client, receiver)
        assert site.end() == 0

    assert findings.problems == []
    assert findings.given_up == []
    assert site.table_faults() == []
    assert site.orphans() == []
    assert findings.acknowledged > 2 * len(points)
