"""Checks of the checkpoint: its files, their bytes, and what it takes to fetch them."""

import shlex

from pipeline.spec import Sampler
from server.doctor.facts import Facts
from server.doctor.finding import Finding, ok, problem, skipped, warning
from server.fal.endpoints import ENDPOINTS

_UNREAD = skipped("the settings cannot be read")

_CHECKPOINTS = {
    Sampler.UNIPC: "base checkpoint",
    Sampler.TRIGFLOW: "distilled checkpoint, whose cosmos_serve.json has trigflow as sampler",
}
"""What the checkpoint that is trained for a sampler is called."""


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


def endpoints(facts: Facts) -> Finding:
    """Which endpoints have their weights; one that has none is answered with 404."""
    if facts.limits is None:
        return skipped("the checkpoint is not whole") if facts.settings else _UNREAD
    served = facts.limits.endpoints
    without = [endpoint for endpoint in ENDPOINTS if endpoint not in served]
    if not without:
        return ok(", ".join(served))
    samplers = {ENDPOINTS[endpoint].sampler for endpoint in without}
    answer = "answers" if len(without) == 1 else "answer"
    reason = (
        f"{', '.join(without)} {answer} 404: COSMOS_WEIGHTS names no "
        f"{' and no '.join(_CHECKPOINTS[sampler] for sampler in samplers)}."
    )
    if Sampler.UNIPC in samplers:
        return warning(reason, "COSMOS_WEIGHTS=BASE,DISTILLED names two folders")
    return ok(f"{', '.join(served)}. {reason}")
