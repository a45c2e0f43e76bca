"""Tell errors of the GPU, which only a new process gets rid of, from other errors.

After an illegal access or a failed assertion every later call in the same process fails as well.
CUDA's libraries raise plain RuntimeErrors, so the text is all that there is to go by.
"""

EXIT_CODE = 70
"""What a worker ends with whose device failed."""

_MARKERS = ("cuda", "cudnn", "cublas", "nccl", "nvml")


def is_device_fault(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, speaks of CUDA or a library of its family."""
    while error is not None:
        text = f"{type(error).__name__}: {error}".lower()
        if any(marker in text for marker in _MARKERS):
            return True
        error = error.__cause__ or error.__context__
    return False
