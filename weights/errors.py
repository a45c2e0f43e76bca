"""What can be wrong with a checkpoint: each message is a sentence for its installer."""


class CheckpointError(Exception):
    """The checkpoint cannot be used as it is."""


class CheckpointIncomplete(CheckpointError):
    """Files are missing; the message lists all of them and the command that gets them."""


class CheckpointDamaged(CheckpointError):
    """A file is here but cannot be read as what its name says it is."""


class CheckpointMismatch(CheckpointError):
    """The files are sound, but they hold something else than what we load."""


class PullFailed(CheckpointError):
    """The checkpoint could not be fetched; what came is kept, and the next try goes on from it."""


class ConversionFailed(CheckpointError):
    """A file in NVIDIA's own layout cannot be converted."""


class StandInRefused(CheckpointError):
    """A stand-in checkpoint cannot be written there, or in that size."""
