"""Checks of the checkpoint: its files, their bytes, and what it takes to fetch them."""

import shlex

from server.doctor.facts import Facts
from server.doctor.finding import Finding, ok, problem, skipped, warning

_UNREAD = skipped("the settings cannot be read")


def checkpoint(facts: Facts) -> Finding:
    """The checkpoint is whole."""
    if facts.settings is None:
        return _UNREAD
    if facts.checkpoint_problem is None:
        return ok(f"{facts.settings.weights} is complete")
    if facts.is_pulled_at_start:
        return warning(facts.checkpoint_problem, "the server's start fetches it, by COSMOS_PULL")
    return problem(
        facts.checkpoint_problem,
        f"{_command(facts, 'pull')} fetches what is missing or wrong, {_command(facts, 'verify')} "
        "names it",
    )


def checked_bytes(facts: Facts) -> Finding:
    """Every byte was checked when it was fetched, and is of the commit that we are made for."""
    if facts.settings is None:
        return _UNREAD
    if facts.checkpoint_problem is not None:
        return skipped("the checkpoint is not whole")
    pull = f"{_command(facts, 'pull')} checks what is here, and fetches what is not right"
    if facts.pulled_problem is not None:
        return problem(facts.pulled_problem, pull)
    if facts.pulled_commit is None:
        if not facts.is_published:
            return skipped("not NVIDIA's checkpoint")
        return warning("No record says that the bytes of the checkpoint are right.", pull)
    if facts.pulled_commit != facts.pinned_commit:
        return warning(
            f"The checkpoint is of commit {facts.pulled_commit}, and this release is made for "
            f"{facts.pinned_commit}.",
            pull,
        )
    return ok(
        f"all were right when they were fetched, of commit {facts.pulled_commit[:12]}; "
        f"{_command(facts, 'verify')} reads them again"
    )


def token(facts: Facts) -> Finding:
    """A token is here, if the checkpoint has to be fetched."""
    if facts.settings is None:
        return _UNREAD
    if facts.checkpoint_problem is None:
        return skipped("the checkpoint is here")
    if facts.has_token:
        return ok("the hub's library finds one")
    # The start fails without one; `weights pull` can be given one elsewhere.
    level = problem if facts.is_pulled_at_start else warning
    return level(
        "There is no token of the Hugging Face Hub, and the checkpoint is gated.",
        "accept its licence on the page of nvidia/Cosmos-Predict2.5-2B, and set HF_TOKEN or run "
        "`hf auth login`",
    )


def _command(facts: Facts, verb: str) -> str:
    assert facts.settings is not None
    command = ["cosmos-serve", "weights", verb, str(facts.settings.weights)]
    return f"`{shlex.join(command)}`"
