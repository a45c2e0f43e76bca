"""What a command says when it fails: one line, and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

FAILED = 1
USAGE = 2
INTERRUPTED = 130


class CommandFailed(Exception):
    """The command cannot do what it was asked; the message is for whoever typed it."""

    exit_code = FAILED


class WrongUsage(CommandFailed):
    """The command line asks for something that cannot be."""

    exit_code = USAGE


@contextmanager
def expected_errors() -> Iterator[None]:
    """Turn every error that a user can cause into a `CommandFailed`."""
    from pipeline.errors import PipelineError
    from server.data_folder import DataFolderInUse, DataFolderShared
    from server.db.upgrade import UnknownSchema
    from server.errors import DiskFull
    from server.settings import SettingsError
    from server.workers.devices import DeviceError
    from server.workers.pool import WorkerDied
    from weights.errors import CheckpointError

    try:
        yield
    except (SettingsError, DeviceError) as error:
        raise WrongUsage(str(error)) from error
    except (
        PipelineError,
        WorkerDied,
        CheckpointError,
        DataFolderInUse,
        DataFolderShared,
        DiskFull,
        UnknownSchema,
    ) as error:
        raise CommandFailed(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CommandFailed(f"{where}{error.strerror or error}.") from error
