"""Why a request was not made, or what it asked for did not come."""


class FetchError(Exception):
    """The request came to nothing; the message is a sentence for the person who gave the URL."""


class FetchRefused(FetchError):
    """The URL is none that we ask for."""


class HostRefused(FetchRefused):
    """The URL's host is none that we connect to. The sentence is the same for every address
    refused, and for a name without any, so it cannot be used to map a private network."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"This server does not connect to {host}: it has no address, or not only public ones, "
            "or it is this machine. Its operator can allow a network or host with "
            "COSMOS_FETCH_ALLOW_NETS or COSMOS_FETCH_ALLOW_HOSTS."
        )


class FetchingIsOff(FetchRefused):
    """The operator wants no outbound request at all."""

    def __init__(self) -> None:
        super().__init__(
            "This server sends nothing and fetches nothing: COSMOS_FETCH=off. Send a picture as a "
            "data URI or an upload, and ask for the status in place of a webhook."
        )


class FetchFailed(FetchError):
    """The server could not be reached in time, or did not answer as was wanted."""


class HostUnavailable(FetchFailed):
    """The server is there and not available for the moment, or the connection broke.

    `retry_after_s` are the seconds that it asks us to wait, if it does.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FetchTooLarge(FetchError):
    """The file has more bytes than the caller takes."""
