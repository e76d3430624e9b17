"""Damaged files, by the thousand: looking at them gives a report or a refusal, and never anything else."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.mutation import (
    KINDS,
    Damage,
    damaged,
    faults,
    random_damages,
    reached,
    seed_names,
    small_seeds,
    valid_files,
)

DAMAGES = st.lists(
    st.builds(
        Damage,
        kind=st.sampled_from(KINDS),
        place=st.floats(0, 1),
        size=st.integers(1, 400),
        value=st.integers(0, 2**16),
        inside=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
QUICK = settings(
    max_examples=600, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return small_seeds(tmp_path_factory.mktemp("seeds") / "corpus")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "damaged.pt"


@QUICK
@given(which=st.integers(0, 10**6), other=st.integers(0, 10**6), damages=DAMAGES)
def test_any_damage_is_reported_or_refused(seeds, path, which, other, damages):
    names = seed_names(seeds)
    name, second = names[which % len(names)], names[other % len(names)]
    path.write_bytes(damaged(seeds[name], damages, seeds[second]))
    assert faults(path) == [], name


@QUICK
@given(content=st.binary(max_size=400))
def test_any_bytes_are_reported_or_refused(path, content):
    path.write_bytes(content)
    assert faults(path) == []


@QUICK
@given(
    opcodes=st.lists(st.sampled_from([*b"()NRbcilodpqrtu0123456789.\n\x80\x02\x04\x81\x85\x86\x87\x8c\x93\x94\x95"]))
)
def test_any_opcodes_are_reported_or_refused(path, opcodes):
    path.write_bytes(b"\x80\x04" + bytes(opcodes))
    assert faults(path) == []


def test_every_cut_of_a_valid_file_is_reported_or_refused(path):
    for content in valid_files().values():
        for length in range(0, len(content), max(1, len(content) // 60)):
            path.write_bytes(content[:length])
            assert faults(path) == []


def test_the_oracle_sees_what_the_corpus_runs(seeds):
    """Else the last check of `faults` would be empty: plain pickles of payloads do reach names."""
    plain = [name for name in seeds if name.startswith("pickle-")]
    blind = {"pickle-torch-os", "pickle-dotted-torch"}
    assert len(plain) > 80
    missed = {name for name in plain if reached(seeds[name]) is None and name not in blind}
    assert all(b"torch" in seeds[name] or b"numpy" in seeds[name] for name in missed), missed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_much_damage_is_reported_or_refused(seeds, path, seed):
    rng, names = random.Random(seed), seed_names(seeds)
    for _ in range(5000):
        name, other, damages = rng.choice(names), rng.choice(names), random_damages(rng)
        path.write_bytes(damaged(seeds[name], damages, seeds[other]))
        assert faults(path) == [], (name, other, damages)
