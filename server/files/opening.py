"""Where the files of a server are: in its data folder, or in the bucket that COSMOS_FILES names."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from server.config.errors import SettingsError
from server.files.local import LocalFiles

if TYPE_CHECKING:
    from server.files.s3 import S3Files


def open_files(url: str | None, data: Path) -> "LocalFiles | S3Files":
    """The files at a URL of S3, or those in a data folder. A bucket is not asked yet.

    Raises:
        SettingsError: it is S3's, and obstore is not installed, or takes no such settings.
    """
    if url is None:
        return LocalFiles(data / "files")
    try:
        # It is an extra.
        from server.files.s3 import S3Files
    except ModuleNotFoundError as error:
        raise SettingsError(
            "COSMOS_FILES needs the extra `s3`: pip install 'cosmos-serve[s3]'"
        ) from error
    return S3Files.at(url, scratch=data)


def unshared_files(files: "LocalFiles | S3Files") -> str | None:
    """The sentence for the operator of several servers, if others may not have these files."""
    if not isinstance(files, LocalFiles):
        return None
    root = files.root
    if root.is_symlink() or os.path.ismount(root):
        return None
    return (
        f"Pictures and videos are kept in {root}, a folder of this server. The other servers need "
        "the same ones: let COSMOS_FILES name a bucket, or let all but one have a link to this "
        "folder, or to one of a network, as their `files`"
    )
