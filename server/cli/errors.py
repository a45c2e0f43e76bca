"""What a command says when it fails: one line, and an exit code."""

FAILED = 1
USAGE = 2
INTERRUPTED = 130

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted."


class CommandFailed(Exception):
    """The command cannot do what it was asked; the message is for the person who typed it."""

    exit_code = FAILED


class WrongUsage(CommandFailed):
    """The command line asks for something that cannot be."""

    exit_code = USAGE


def as_failure(error: Exception) -> CommandFailed | None:
    """The failure that an error means, if it is one that a user can cause."""
    from pipeline.errors import PipelineError
    from server.config.errors import SettingsError
    from server.data_folder import DataFolderError
    from server.db.upgrade import UnknownSchema
    from server.disk import shortage_of
    from server.errors import DatabaseDamaged, Shortage
    from server.workers.devices import DeviceError
    from server.workers.pool import WorkerDied
    from weights.errors import CheckpointError

    match error:
        case CommandFailed():
            return error
        case SettingsError() | DeviceError():
            return WrongUsage(str(error))
        case (
            PipelineError()
            | WorkerDied()
            | CheckpointError()
            | DataFolderError()
            | Shortage()
            | DatabaseDamaged()
            | UnknownSchema()
        ):
            return CommandFailed(str(error))
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return CommandFailed(f"{where}{error.strerror or error}.")
    shortage = shortage_of(error)
    return None if shortage is None else CommandFailed(str(shortage))
