"""Checks of the server's settings, folders, ports and files."""

import shlex
from datetime import UTC, datetime
from fnmatch import fnmatch
from urllib.parse import urlsplit

from pipeline.guardrail import GuardrailKind
from server.doctor.facts import Facts
from server.doctor.finding import Finding, ok, problem, skipped, warning

STOP_S = 30
"""What Docker, systemd and Kubernetes are told to give a server that ends."""

BESIDE_THE_DRAIN_S = 10
"""How long answers, workers and the database may take after the runs."""

_SOON_S = 14 * 86_400.0

_UNREAD = skipped("the settings cannot be read")


def settings(facts: Facts) -> Finding:
    """Every setting is known and can be used."""
    if facts.settings_problem is None:
        given = sorted(facts.settings.model_fields_set) if facts.settings else []
        return ok(f"set: {', '.join(given)}")
    return problem(facts.settings_problem, "docs/settings.md names all")


def guardrail(facts: Facts) -> Finding:
    """Somebody judges prompts, pictures and frames, if the checkpoint requires it."""
    if facts.settings is None or facts.checkpoint_problem is not None:
        return skipped("the checkpoint is not whole") if facts.settings else _UNREAD
    if facts.guardrail_problem is not None:
        return problem(facts.guardrail_problem)
    if facts.is_pulled_at_start:
        return warning(
            "The guardrail's model for prompts is not here.",
            "the server's start fetches it, by COSMOS_PULL",
        )
    if facts.guardrail is not None and facts.guardrail.warning is not None:
        return warning(facts.guardrail.warning)
    if facts.guardrail is GuardrailKind.ENDPOINT:
        return ok(f"{facts.settings.guardrail} gives verdicts")
    if facts.guardrail is GuardrailKind.REQUIRED:
        return ok("the models for prompts and for pictures are there")
    return ok("the checkpoint requires none")


def data_folder(facts: Facts) -> Finding:
    """The data folder can be written, and is on a disk of this machine."""
    if facts.settings is None:
        return _UNREAD
    if facts.data_problem is not None:
        return problem(facts.data_problem)
    if facts.data_user is not None:
        return ok(f"{facts.settings.data}, used by a server that runs")
    return ok(f"{facts.settings.data}, {facts.data_place}")


def database(facts: Facts) -> Finding:
    """The database of PostgreSQL answers, and has the tables of this release or of an earlier."""
    if facts.settings is None:
        return _UNREAD
    if facts.settings.database is None:
        return skipped("SQLite, in the data folder")
    if facts.database_problem is not None:
        return problem(facts.database_problem, "docs/cluster.md says what COSMOS_DATABASE takes")
    return ok("PostgreSQL answers")


def files(facts: Facts) -> Finding:
    """The bucket of S3 takes an object, gives it back and deletes it."""
    if facts.settings is None:
        return _UNREAD
    if facts.settings.files is None:
        return skipped("in the data folder")
    if facts.files_problem is not None:
        return problem(facts.files_problem, "docs/cluster.md says what COSMOS_FILES needs")
    return ok(f"{facts.settings.files} can be written")


def ports(facts: Facts) -> Finding:
    """Nobody else listens where the server would."""
    if facts.settings is None:
        return _UNREAD
    if facts.listen_problem is not None:
        return problem(
            facts.listen_problem,
            "--host takes an address of this machine; a port below 1024 needs root or a proxy",
        )
    if not facts.busy_ports:
        return ok(", ".join(str(port) for port in _ports(facts)))
    named = " and ".join(map(str, facts.busy_ports))
    if facts.data_user is not None:
        return ok(f"{named}, in use: a server on this data folder runs")
    return problem(
        f"Port {named} of {facts.settings.host} cannot be had: another program listens there.",
        f"`ss -ltnp 'sport = :{facts.busy_ports[0]}'` shows which; or choose another with --port",
    )


def _ports(facts: Facts) -> list[int]:
    assert facts.settings is not None
    return [facts.settings.port, *([facts.settings.tls_port] if facts.settings.tls_port else [])]


def certificate(facts: Facts) -> Finding:
    """The TLS certificate fits its key, and is valid now and for a while."""
    if facts.settings is None:
        return _UNREAD
    if facts.settings.tls_cert is None:
        return skipped("HTTPS is not set")
    renew = "`cosmos-serve certs DIR` makes one, or renew yours"
    if facts.certificate is None:
        return problem(facts.certificate_problem or "The certificate cannot be read.", renew)
    begins, ends = facts.certificate.begins, facts.certificate.ends
    if facts.now < begins:
        return problem(
            f"The certificate begins on {_day(begins)}, which is to come by this clock.",
            "set the clock: `timedatectl set-ntp true`",
        )
    if facts.now >= ends:
        return problem(f"The certificate ended on {_day(ends)}.", renew)
    if ends - facts.now < _SOON_S:
        return warning(f"The certificate ends on {_day(ends)}.", renew)
    public = urlsplit(facts.settings.public_url or "")
    names = facts.certificate.names
    if public.scheme == "https" and not any(fnmatch(public.hostname or "", n) for n in names):
        return warning(
            f"Callers reach the server as {public.hostname}, by COSMOS_PUBLIC_URL, and the "
            f"certificate is for {', '.join(names)}.",
            f"`cosmos-serve certs DIR --host {public.hostname}`, or leave it, if a proxy has "
            "another certificate",
        )
    return ok(f"for {', '.join(facts.certificate.names)}, until {_day(ends)}")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def key_files(facts: Facts) -> Finding:
    """The files with the key of callers and that of TLS are for their user alone."""
    if facts.settings is None:
        return _UNREAD
    files = {
        "COSMOS_KEY_FILE": (facts.settings.key_file, facts.key_file_mode, 0o077),
        # A group of services may share it.
        "COSMOS_TLS_KEY": (facts.settings.tls_key, facts.tls_key_mode, 0o007),
    }
    named = []
    for variable, (file, mode, not_for_others) in files.items():
        if file is None:
            continue
        path = shlex.quote(str(file))
        if mode is None:
            return problem(f"{path} cannot be read, and {variable} names it.", f"`ls -l {path}`")
        if mode & not_for_others:
            mend = f"`chmod {mode & ~not_for_others:o} {path}`"
            return warning(f"Other users may read {path} (mode {mode:04o}).", mend)
        named.append(path)
    return ok(", ".join(named)) if named else skipped("no setting names one")


def stop_time(facts: Facts) -> Finding:
    """What ends the server waits as long as its jobs may go on."""
    if facts.settings is None:
        return _UNREAD
    longest = facts.settings.drain_seconds + BESIDE_THE_DRAIN_S
    if longest <= STOP_S:
        return ok(f"jobs may go on for {facts.settings.drain_seconds:g} s when the server ends")
    return warning(
        f"Jobs may go on for {facts.settings.drain_seconds:g} s when the server ends, and whatever "
        f"ends it may kill it after {STOP_S} s or sooner.",
        f"give it {longest:.0f} s: `docker run --stop-timeout {longest:.0f}`, systemd's "
        "TimeoutStopSec, Kubernetes' terminationGracePeriodSeconds",
    )
