"""The table of keys, the copy that requests are checked against, and the first key."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_keys import add_key, by_key, keys_of
from job_fixtures import Clock, Where
from servers import APP, serving, settings_in

from server.auth.first_key import FirstKey, configured_key, make_first_key
from server.auth.key_store import COPY_LIVES_S, USE_IS_NOTED_EVERY_S, KeyCache, KeyStore, UnknownKey
from server.config.errors import SettingsError
from server.config.settings import Settings
from server.db.database import Database
from server.keys import ApiKey, Credential, Scope, secret_matches

REVOCATION_WORKS_WITHIN_S = 5
UNKNOWN_JOB = f"/queue/{APP}/requests/00000000-0000-4000-8000-000000000000/status"


@pytest.fixture
def store(where: Where, clock: Clock) -> Iterator[KeyStore]:
    database = Database(where)
    yield KeyStore(database, now=clock)
    database.close()


def a_key(key_id: str = "me", at: float = 0.0) -> ApiKey:
    return ApiKey.from_credential(Credential(key_id, "s3cret"), "laptop", created_at=at)


def test_a_key_is_read_as_it_was_written_and_its_secret_is_nowhere(
    store: KeyStore, tmp_path: Path
) -> None:
    key = ApiKey.from_credential(
        Credential("me", "s3cret-s3cret"),
        "laptop",
        created_at=1.5,
        scopes=[Scope.RUN, Scope.ADMIN],
        expires_at=99.5,
    )
    store.add(key)
    assert store.all() == [key]
    assert secret_matches("s3cret-s3cret", key)
    for file in tmp_path.glob("jobs.sqlite3*"):
        assert b"s3cret" not in file.read_bytes()


def test_a_secret_opens_its_own_key_alone() -> None:
    assert secret_matches("s3cret", a_key())
    assert not secret_matches("s3cret ", a_key())
    assert not secret_matches("", a_key())
    assert not secret_matches("s3cret", None)


def test_new_secrets_have_256_bits_and_differ() -> None:
    made = {Credential.new() for _ in range(100)}
    assert len({credential.secret for credential in made}) == 100
    assert all(len(credential.secret) == 43 for credential in made)


def test_a_key_is_revoked_once(store: KeyStore, clock: Clock) -> None:
    store.add(a_key())
    store.revoke("me")
    clock.now += 1
    store.revoke("me")
    assert store.all()[0].revoked_at == 1000.0
    with pytest.raises(UnknownKey, match="There is no key 'you'"):
        store.revoke("you")


async def test_polls_do_not_read_the_table_but_see_a_revocation_in_time(
    store: KeyStore, clock: Clock
) -> None:
    ring = KeyCache(store, None, clock=clock)
    store.add(a_key())
    assert await ring.find("me") == a_key()

    store.revoke("me")
    clock.now += COPY_LIVES_S * 0.9
    assert await ring.find("me") == a_key(), "the table was read again"
    clock.now += COPY_LIVES_S * 0.1
    revoked = await ring.find("me")
    assert revoked is not None
    assert revoked.revoked_at == 1000.0
    assert COPY_LIVES_S < REVOCATION_WORKS_WITHIN_S


async def test_guesses_at_ids_do_not_read_the_table_either(store: KeyStore, clock: Clock) -> None:
    ring = KeyCache(store, None, clock=clock)
    assert await ring.find("me") is None
    store.add(a_key())
    assert await ring.find("me") is None
    clock.now += COPY_LIVES_S
    assert await ring.find("me") == a_key()


async def test_the_use_of_a_key_is_noted_once_a_minute(store: KeyStore, clock: Clock) -> None:
    ring = KeyCache(store, None, clock=clock)
    store.add(a_key())
    noted = []
    for _ in range(3):
        await ring.note_use(a_key())
        noted.append(store.all()[0].last_used_at)
        clock.now += USE_IS_NOTED_EVERY_S / 2
    assert noted == [1000.0, 1000.0, 1000.0 + USE_IS_NOTED_EVERY_S]


async def test_a_request_is_served_even_if_its_key_cannot_be_noted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings)
    async with serving(settings) as client:
        database = Database(settings.data / "jobs.sqlite3")
        with database.write() as db:
            db.exec_driver_sql(
                "CREATE TRIGGER no_notes BEFORE UPDATE ON keys "
                "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
            )
        database.close()
        assert (await client.get(UNKNOWN_JOB, headers=by_key(key))).status_code == 404


# The first key.


def first_key_of(settings: Settings) -> FirstKey | None:
    with keys_of(settings) as store:
        return make_first_key(store, settings.data)


async def test_the_first_start_makes_a_key_and_later_ones_keep_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    file = settings.data / "key"
    for _ in range(2):
        async with serving(settings) as client:
            key = file.read_text().strip()
            assert (await client.get(UNKNOWN_JOB, headers=by_key(key))).status_code == 404
            assert (await client.get(UNKNOWN_JOB)).status_code == 401
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with keys_of(settings) as store:
        (kept,) = store.all()
    assert kept.id == key.partition(":")[0]
    assert kept.scopes == {Scope.RUN, Scope.FILES}


def test_a_start_that_was_cut_short_before_the_row_keeps_its_key(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    settings.data.mkdir()
    (settings.data / "key").write_text("me:s3cret\n")
    made = first_key_of(settings)
    assert made == FirstKey("me:s3cret", settings.data / "key")
    assert first_key_of(settings) is None


def test_a_server_whose_keys_are_all_revoked_makes_none(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings)
    with keys_of(settings) as store:
        store.revoke(key.partition(":")[0])
    assert first_key_of(settings) is None


def test_a_file_in_the_way_of_the_first_key_is_not_replaced(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    settings.data.mkdir()
    (settings.data / "key").write_text("notes")
    with pytest.raises(SettingsError, match="key holds no key of the form id:secret"):
        first_key_of(settings)
    assert (settings.data / "key").read_text() == "notes"


@pytest.mark.parametrize("fields", [{}, {"key": "me:s3cret"}])
async def test_no_key_is_made_where_none_is_needed_or_one_is_given(
    tmp_path: Path, fields: dict[str, str]
) -> None:
    settings = settings_in(tmp_path, **fields)
    async with serving(settings):
        assert not (settings.data / "key").exists()
    with keys_of(settings) as store:
        assert store.all() == []


async def test_a_configured_key_is_good_for_as_long_as_it_is_configured(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("me:s3cret\n")
    for fields, code in (({"key_file": file}, 404), ({"key": "me:other"}, 401)):
        async with serving(settings_in(tmp_path, **fields)) as client:
            assert (await client.get(UNKNOWN_JOB, headers=by_key("me:s3cret"))).status_code == code


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file"),
        (b"hunter2", "holds no key of the form id:secret"),
        (b"", "holds no key"),
        (b"me:sec\nret", "holds no key"),
        (b"me:\xff", "cannot be read"),
    ],
)
def test_a_key_file_that_holds_no_key_is_named_and_not_shown(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        configured_key(settings_in(tmp_path, key_file=file))
    assert str(file) in str(refused.value)
    assert sentence in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_the_first_key_is_shown_on_a_terminal_only() -> None:
    first = FirstKey("me:s3cret", Path("data/key"))
    assert "FAL_KEY=me:s3cret" in first.announcement(is_terminal=True)
    assert "s3cret" not in first.announcement(is_terminal=False)
    assert "docker exec CONTAINER cat data/key" in first.announcement(is_terminal=False)
    assert "s3cret" not in repr(first)
