"""What the servers of one database tell each other of its jobs, where there are several."""

import asyncio
from collections.abc import Callable, Collection
from functools import partial

import structlog
from pydantic import SecretStr

from server.db.database import Database
from server.db.peers import SENDS_AND_SWEEPS, Alone, Peers
from server.jobs.store import JobStore
from server.tasks import Signals

_WRITTEN = "written"
"""Something about a job was committed, other than a line of its log."""

_log = structlog.get_logger("server")


def peers_of(
    database: Database,
    url: SecretStr | None,
    store: JobStore,
    signals: Signals,
    written: Callable[[str | None], None],
    end: Callable[[], None],
    *,
    locks: Collection[str] = (SENDS_AND_SWEEPS,),
) -> Peers | Alone:
    """This server among the others: its hints are theirs, and theirs are its own.

    `url` is that of the database, None if it is SQLite. `written` is told when another server has
    committed something, as by `JobStore.on_write`. `end` has this server end, once a later release
    has upgraded the database. `locks` are what this server would lead in.
    """
    if url is None:
        return Alone()
    hints = vars(signals)
    # Those that are woken have to find what was written.
    hear = {_WRITTEN: partial(written, None), **{name: each.wake for name, each in hints.items()}}
    peers = Peers(
        database,
        url,
        owner=store.owner,
        hear=hear,
        on_later_release=partial(_end_for_later_release, end),
        locks=locks,
    )
    for name, each in hints.items():
        each.on_notify(partial(peers.tell, name))
    loop = asyncio.get_running_loop()

    def tell_written(log_of: str | None) -> None:
        if log_of is None:
            loop.call_soon_threadsafe(peers.tell, _WRITTEN)

    store.on_write(tell_written)
    return peers


def _end_for_later_release(end: Callable[[], None]) -> None:
    """Let runs finish, and end: a server of the later release takes over."""
    _log.error("The database was upgraded by a later release of cosmos-serve: this server ends")
    end()
