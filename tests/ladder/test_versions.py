"""One bump against the committed version, however many runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.contract.meaning import numbers_of
from pv.contract.vocabulary import Bump
from pv.ladder.versions import VersionError, next_version


@pytest.mark.parametrize(
    ("current", "committed", "bump", "expected"),
    [
        ("1.2.0", "1.2.0", Bump.MINOR, "1.3.0"),
        ("1.2.3", "1.2.3", Bump.MINOR, "1.3.0"),
        ("1.2.3", "1.2.3", Bump.PATCH, "1.2.4"),
        ("1.2.3", "1.2.3", Bump.MAJOR, "2.0.0"),
        ("1.2.3", "1.2.3", Bump.NONE, "1.2.3"),
        ("1.3.0", "1.2.0", Bump.MINOR, "1.3.0"),  # bumped by an earlier run
        ("1.2.4", "1.2.3", Bump.MINOR, "1.3.0"),  # not enough
        ("2.0.0", "1.2.0", Bump.MINOR, "2.0.0"),  # bumped by hand
        ("1.1.0", "1.2.0", Bump.MINOR, "1.3.0"),  # went back
        ("v1.2.0", "v1.2.0", Bump.MINOR, "v1.3.0"),
        ("1.10", "1.10", Bump.MINOR, "1.11"),
        ("1.10", "1.10", Bump.PATCH, "1.10.1"),
        ("2", "2", Bump.MAJOR, "3"),
        ("2", "2", Bump.MINOR, "2.1"),
        ("1.2.0-rc.1+build.5", "1.2.0-rc.1", Bump.MINOR, "1.3.0"),
    ],
)
def test_the_version_that_a_file_must_carry(current, committed, bump, expected):
    assert next_version(current, committed, bump) == expected


@pytest.mark.parametrize("text", ["", "one", "1.2.3.4", "1..2", "2026-11-20", "1.x"])
def test_what_is_no_version_is_refused(text):
    with pytest.raises(VersionError, match=r"expected a version like 1\.2\.0"):
        next_version(text, "1.0.0", Bump.MINOR)


versions = st.tuples(*[st.integers(0, 50)] * 3).map(lambda n: ".".join(map(str, n)))


@given(versions, versions, st.sampled_from(Bump))
def test_a_second_run_bumps_nothing_and_no_version_goes_down(current, committed, bump):
    once = next_version(current, committed, bump)
    assert next_version(once, committed, bump) == once
    assert numbers_of(once) >= numbers_of(current)


@given(versions, st.lists(st.sampled_from([Bump.PATCH, Bump.MINOR, Bump.MAJOR]), min_size=1, max_size=5))
def test_any_number_of_runs_makes_the_largest_of_their_bumps(committed, bumps):
    version = committed
    for bump in bumps:
        version = next_version(version, committed, bump)
    assert version == next_version(committed, committed, max(bumps, key=lambda b: b.value))
