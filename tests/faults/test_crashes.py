"""A server that is killed at any moment at which something could be lost, and what it then has.

In each round the server on one data folder is killed at every failpoint in turn, while a client
goes on; at the end everything that the client was told must be so.
"""

from pathlib import Path

import pytest
from crash_rounds import Round
from crash_site import CrashSite, receiving
from failpoints import POINTS, POINTS_WITH_BUCKET
from job_fixtures import Where


@pytest.mark.timeout(600)
@pytest.mark.parametrize("passing", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_nothing_is_lost_wherever_the_server_is_killed(
    tmp_path: Path, where: Where, passing: int, request: pytest.FixtureRequest
) -> None:
    points, named = POINTS, {}
    if not isinstance(where, Path):  # its place is in the data folder
        bucket = request.getfixturevalue("bucket")
        points = POINTS_WITH_BUCKET
        named = {"COSMOS_DATABASE": where.get_secret_value(), "COSMOS_FILES": bucket}
    with receiving() as receiver, CrashSite(tmp_path, **named) as site:
        crashes = Round(site, receiver)
        for point in points:
            crashes.kill_at(point, passing)
        site.start()
        with site.client() as client:
            site.settle(client)
            findings = site.check(client, receiver)
        assert site.end() == 0

    assert findings.problems == []
    assert findings.given_up == []
    assert site.table_faults() == []
    assert site.orphans() == []
    assert findings.acknowledged > 2 * len(points)
