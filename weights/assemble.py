"""A checkpoint whose transformer is converted, beside the other components of the published one.

Its `cosmos_serve.json` tells it from the published one, and says whether it is the distilled one.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from weights.checkpoint_profile import PROFILE_FILE
from weights.convert import read_original, write_transformer
from weights.download import Source, Stream
from weights.errors import ConversionFailed
from weights.listing import RECORD, ListedFile, Listing, find_faults, list_file, read_listing
from weights.pull import Display, Folder, bring

BASE_PROFILE = b"{}\n"
DISTILLED_PROFILE = b'{"sampler": "trigflow"}\n'

CONFIG = "transformer/config.json"
TENSORS = "transformer/diffusion_pytorch_model.safetensors"

Show = Callable[[int], AbstractContextManager[Display]]
"""Opens a display of so many bytes."""


def is_distilled(listing: Listing) -> bool:
    """Whether the listing is of a distilled checkpoint."""
    return any(f.path == PROFILE_FILE and f.is_of(DISTILLED_PROFILE) for f in listing.files)


def pull_distilled(
    rest: Source,
    listing: Listing,
    originals: Source,
    original: ListedFile,
    origin: str,
    folder: Path,
    show: Show,
) -> Listing:
    """Bring the distilled checkpoint into `folder`, and record it there.

    NVIDIA's file is fetched, converted and removed again. It is not fetched where the transformer
    is there from an earlier time.

    Args:
        rest: has the files of `listing`, which is of the published checkpoint or of one that was
            made by this module.
        originals: has the file `original`.
        origin: what the record says of that file.

    Returns:
        what was recorded.

    Raises:
        ConversionFailed: `original` does not hold the transformer.
        As `bring` does.
    """
    files = (_profile(DISTILLED_PROFILE), *_others(listing))
    made = _made_before(folder, origin)
    wanted = files if made else (*files, original)
    source = _Assembled(rest, DISTILLED_PROFILE, {original.path: originals})
    with show(sum(file.size for file in wanted)) as display:
        bring(source, wanted, folder, display, more_bytes=0 if made else original.size)
        if made is None:
            display.say(f"Converting {original.path}.")
            tensors = read_original(folder / original.path, folder / CONFIG)
            write_transformer(tensors, folder / TENSORS)
    made = made or list_file(folder, TENSORS)
    record = _record(folder, listing, (*files, made), origin)
    _remove(folder, original.path)
    return record


def convert_beside(original: Path, base: Path, profile: bytes, folder: Path, show: Show) -> Listing:
    """Make a checkpoint of a file of NVIDIA's and the other components of the checkpoint `base`.

    They are copied, and checked against the record of `base`.

    Args:
        profile: what its `cosmos_serve.json` holds.
        folder: where the checkpoint is made; one that was begun there earlier is completed.

    Returns:
        what was recorded there.

    Raises:
        CheckpointIncomplete: `base` has no record.
        ConversionFailed: `original` does not hold the transformer that the configuration of `base`
            describes, or `folder` has a transformer already.
        As `bring` does.
    """
    listing = read_listing(base / RECORD)
    if (folder / TENSORS).exists():
        raise ConversionFailed(f"{folder} has a transformer already. Name a new folder.")
    # Before much is copied.
    tensors = read_original(original, base / CONFIG)
    files = (_profile(profile), *_others(listing))
    source = _Assembled(Folder(base), profile, {})
    with show(sum(file.size for file in files)) as display:
        bring(source, files, folder, display, more_bytes=original.stat().st_size)
        display.say(f"Converting {original}.")
        write_transformer(tensors, folder / TENSORS)
    return _record(folder, listing, (*files, list_file(folder, TENSORS)), original.name)


def _profile(data: bytes) -> ListedFile:
    digest = hashlib.sha256(data).hexdigest()
    return ListedFile(path=PROFILE_FILE, size=len(data), hash=f"sha256:{digest}")


def _others(listing: Listing) -> tuple[ListedFile, ...]:
    """All but the transformer's tensors, and what says of them that they were converted."""
    return tuple(
        file
        for file in listing.files
        if file.path == CONFIG or not file.path.startswith(("transformer/", PROFILE_FILE))
    )


def _made_before(folder: Path, origin: str) -> ListedFile | None:
    """The transformer in the folder, if it is recorded to come from there and is unchanged."""
    if not (folder / RECORD).is_file():
        return None
    record = read_listing(folder / RECORD)
    made = next((file for file in record.files if file.path == TENSORS), None)
    if made is None or record.converted_from != origin:
        return None
    faults = find_faults(folder, (made,), lambda _: None)
    return None if faults else made


def _record(folder: Path, listing: Listing, files: tuple[ListedFile, ...], origin: str) -> Listing:
    record = Listing(
        repository=listing.repository, commit=listing.commit, files=files, converted_from=origin
    )
    record.save(folder)
    return record


def _remove(folder: Path, path: str) -> None:
    """Remove a file, and the folders that it leaves empty."""
    (folder / path).unlink(missing_ok=True)
    with suppress(OSError):
        for parent in Path(path).parents[:-1]:
            (folder / parent).rmdir()


class _Assembled:
    """A source that has the profile, some files from sources of their own, and the others."""

    def __init__(self, others: Source, profile: bytes, own: Mapping[str, Source]) -> None:
        self._others = others
        self._profile = profile
        self._own = own

    @contextmanager
    def open(self, file: ListedFile, start: int) -> Iterator[Stream]:
        """As `Source` has it."""
        if file.path == PROFILE_FILE:
            yield Stream(start, iter([self._profile[start:]]))
            return
        with self._own.get(file.path, self._others).open(file, start) as stream:
            yield stream
