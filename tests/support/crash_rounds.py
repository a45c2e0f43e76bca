"""A server that is killed at every moment at which something could be lost, and its client."""

import signal
from typing import Any

import httpx
from client_record import REQUESTS, Wish
from crash_site import CrashSite, Receiver
from failpoints import PART_SENT, around, around_request
from servers import ENDPOINT, request_of

_GIVING_BACK = around("give back")
_DYING = around("death")
_RECOVERING = around("recover")
_ONCE = (*_GIVING_BACK, *_RECOVERING, *around_request("list"))
"""A process passes these but once."""
_DELETING = around_request("delete")
_PROMPTS = {**dict.fromkeys(_DYING, "killed 1 once"), PART_SENT: "bytes 12000000"}
_TIMES = 60
"""How often the client does all that it does before a point must have been passed."""


class Round:
    """One data folder, and a client that does everything that a client does."""

    def __init__(self, site: CrashSite, receiver: Receiver) -> None:
        self.site = site
        self._receiver = receiver
        self._wishes = 0

    def kill_at(self, point: str, passing: int) -> None:
        """Start the server, and go on until it is killed at the point."""
        if point in _RECOVERING and self.site.is_shared:
            self._leave_a_job_running()
        self.site.start((point, 1 if point in _ONCE else passing))
        with self.site.client() as client:
            for _ in range(_TIMES):
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
        if point in _DELETING:
            self._make_and_delete(client)
        ledger.submit(client, self._wish(uploaded=True))
        if point in _GIVING_BACK:
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
