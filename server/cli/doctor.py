"""`cosmos-serve doctor`: what is wrong on this machine, and the command that mends it."""

from typing import Any

import typer

from server.cli.errors import FAILED
from server.cli.options import LISTENER_SETTINGS, WORKER_SETTINGS, takes_settings
from server.cli.printing import AsJson, print_json
from server.config.errors import SettingsError
from server.config.settings import Settings

app = typer.Typer()

_NOT_OF_THE_MACHINE = ("quarantine_unknown", "nvidia_sampling", "guardrail_model", "preview")
"""Nothing on a machine can be wrong with them."""

OPTIONS = tuple(
    name for name in (*LISTENER_SETTINGS, *WORKER_SETTINGS) if name not in _NOT_OF_THE_MACHINE
)


def _settings_or_error(**options: Any) -> Settings | SettingsError:
    try:
        return Settings.load(**options)
    except SettingsError as error:
        return error


@app.command()
@takes_settings(*OPTIONS, load=_settings_or_error)
def doctor(settings: Settings | SettingsError, as_json: AsJson = False) -> None:
    """Check whether a server would run here, and say how to mend what would not.

    It takes the variables of `serve`, and those of its options that a check reads. A line begins
    with ok, or with !! for what keeps a server from working, ! for what makes it worse, and - for
    what does not matter here. The exit code is 1 if a line begins with !!.
    """
    from server.doctor.checks import findings
    from server.doctor.collect import collect
    from server.doctor.finding import Level

    match settings:
        case Settings():
            found = findings(collect(settings))
        case SettingsError():
            found = findings(collect(None, str(settings)))
    if as_json:
        print_json(
            [
                {"check": name, "level": each.level, "text": each.text, "mend": each.mend}
                for name, each in found.items()
            ]
        )
    else:
        marks = {Level.OK: "ok", Level.WARNING: "!", Level.PROBLEM: "!!", Level.SKIPPED: "-"}
        width = max(map(len, found))
        for name, each in found.items():
            print(f"{marks[each.level]:2}  {name:{width}}  {each.text}")
            if each.mend is not None:
                print(f"{'':{width + 6}}→ {each.mend}")
    if any(each.level is Level.PROBLEM for each in found.values()):
        raise typer.Exit(FAILED)
