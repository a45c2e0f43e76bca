"""What the server does not know is moved out of the way, and not deleted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from job_fixtures import Place
from servers import serving, settings_in
from structlog.testing import capture_logs

from server.files.local import LocalFiles
from server.files.unknown_files import MAX_UNKNOWN, MostFilesUnknown, UnknownFiles

DAY_S = 86_400.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.database.close()


def unknown_files(
    place: Place, *, insist: bool = False, keep_s: float | None = None
) -> UnknownFiles:
    return UnknownFiles(
        place.database,
        place.folder,
        quarantine(place),
        insist=insist,
        keep_s=keep_s,
        now=place.clock,
    )


def quarantine(place: Place) -> LocalFiles:
    return LocalFiles(place.path.with_name("quarantine"))


def keep_unknown(place: Place, count: int = 1, prefix: str = "") -> set[str]:
    """Files without rows, as a server leaves them that is killed in between."""
    ids = set()
    for _ in range(count):
        incoming = place.files.receive(prefix)
        incoming.write(b"unknown")
        incoming.keep()
        ids.add(incoming.id)
    return ids


def test_an_unknown_file_is_moved_away_and_a_known_one_stays(place: Place) -> None:
    _, video = place.made("a")
    unknown = keep_unknown(place)

    with capture_logs() as logs:
        unknown_files(place).set_aside()

    assert list(place.files.ids()) == [video.id]
    assert set(quarantine(place).ids()) == unknown
    assert quarantine(place).read(*unknown) == b"unknown"
    assert [line["count"] for line in logs] == [1]


@pytest.mark.parametrize(("known", "strange"), [(0, MAX_UNKNOWN), (11, 11)])
def test_a_few_unknown_files_and_half_of_many_do_not_stop_a_start(
    place: Place, known: int, strange: int
) -> None:
    for number in range(known):
        place.made(str(number))
    unknown = keep_unknown(place, strange)
    for prefix in ("image-", "part-"):
        keep_unknown(place, 20, prefix)
    for number in range(20):
        part = place.folder.path(f"{number:032x}").with_suffix(".part")
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(b"half a video")

    unknown_files(place).set_aside()

    assert len(list(place.files.ids())) == known
    assert unknown <= set(quarantine(place).ids())


def test_most_files_unknown_stop_the_start_until_somebody_insists(place: Place) -> None:
    _, video = place.made("a")
    unknown = keep_unknown(place, MAX_UNKNOWN + 1)

    with pytest.raises(MostFilesUnknown) as refused:
        unknown_files(place).set_aside()
    assert set(place.files.ids()) == unknown | {video.id}
    assert str(refused.value) == (
        f"The database does not know 11 of the 12 videos and uploads in {place.folder.root}, so it "
        "may be an older copy: put the right one back, or start with --quarantine-unknown, which "
        f"moves them to {quarantine(place).root} and removes them there after 7 days."
    )

    unknown_files(place, insist=True).set_aside()
    assert list(place.files.ids()) == [video.id]
    assert set(quarantine(place).ids()) == unknown


async def test_a_start_that_is_refused_leaves_its_database_whole(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    files = LocalFiles(settings.data / "files")
    for _ in range(MAX_UNKNOWN + 1):
        with files.receive() as incoming:
            incoming.keep()

    with pytest.raises(MostFilesUnknown):
        async with serving(settings):
            pass
    # One that is put back must not meet the log of another.
    left = {path.name for path in settings.data.glob("jobs.sqlite3*")}
    assert left == {"jobs.sqlite3", "jobs.sqlite3-reserve"}

    async with serving(settings_in(tmp_path, quarantine_unknown=True)) as client:
        assert (await client.get("/health/live")).status_code == 200
    assert list(files.ids()) == []


def test_what_a_database_knows_again_is_moved_back(place: Place) -> None:
    _, video = place.made("a")
    place.folder.move(video.id, quarantine(place))

    unknown_files(place).set_aside()

    assert place.files.read(video.id) == b"video"
    assert list(quarantine(place).ids()) == []


@pytest.mark.parametrize(("keep_s", "lasts_s"), [(None, 7 * DAY_S), (DAY_S, DAY_S)])
def test_the_quarantine_lasts_a_week_at_most_and_removes_nothing_else(
    place: Place, keep_s: float | None, lasts_s: float
) -> None:
    unknown = keep_unknown(place)
    keeper = unknown_files(place, keep_s=keep_s)
    own = quarantine(place).root / "mine" / "film"
    own.parent.mkdir()
    own.touch()
    keeper.set_aside()

    place.clock.now += lasts_s - 1
    keeper.sweep()
    assert set(quarantine(place).ids()) == unknown
    place.clock.now += 1
    keeper.sweep()
    assert list(quarantine(place).ids()) == []
    assert own.exists()


def test_a_quarantine_that_cannot_be_written_does_not_stop_a_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = keep_unknown(place)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFiles, "move", refuse)
    unknown_files(place).set_aside()

    assert set(place.files.ids()) == unknown
