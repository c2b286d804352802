"""The instrument's own delays: right quantiles, bounded memory, the largest never lost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmbench.harness.lag_samples import LagSamples


def test_nothing_seen_is_none() -> None:
    manifest = LagSamples().manifest()
    assert (manifest.n, manifest.p50_ns, manifest.p99_ns, manifest.max_ns) == (0, None, None, None)


@given(st.lists(st.lists(st.integers(-(10**6), 10**12), max_size=20), min_size=1, max_size=20))
def test_everything_is_kept_while_it_fits(batches: list[list[int]]) -> None:
    samples = LagSamples()
    for batch in batches:
        samples.add(batch)
    everything = sorted(value for batch in batches for value in batch)
    manifest = samples.manifest()
    assert manifest.n == len(everything)
    if everything:
        assert manifest.max_ns == everything[-1]
        assert manifest.p50_ns == everything[(len(everything) - 1) // 2]
        assert manifest.p99_ns in everything


def test_thinning_keeps_an_even_sample_and_the_largest() -> None:
    samples = LagSamples(max_kept=1_000)
    values = np.random.default_rng(0).permutation(100_000)
    position = 0
    for size in np.random.default_rng(1).integers(1, 700, size=1_000):
        samples.add(values[position : position + size])
        position += int(size)
    manifest = samples.manifest()
    assert manifest.n == 100_000
    assert manifest.max_ns == 99_999
    assert manifest.p50_ns is not None
    assert manifest.p99_ns is not None
    # Of 500 or more even samples: the median is within 5 standard errors (chance of a miss about 1e-6, seed fixed).
    assert abs(manifest.p50_ns - 50_000) < 5 * 50_000 / np.sqrt(500)
    assert abs(manifest.p99_ns - 99_000) < 2_500
    assert samples._num_kept <= 1_000


@given(st.lists(st.lists(st.integers(-1000, 1_000_000), max_size=60), max_size=5))
def test_merged_samples_are_those_of_one_who_saw_all(parts: list[list[int]]) -> None:
    separate = []
    for part in parts:
        samples = LagSamples()
        samples.add(part)
        separate.append(samples)
    together = LagSamples()
    together.add([lag_ns for part in parts for lag_ns in part])
    assert LagSamples.merged(separate).manifest() == together.manifest()


def test_a_busy_worker_s_samples_weigh_as_many_as_they_were() -> None:
    busy, idle = LagSamples(max_kept=100), LagSamples(max_kept=100)
    busy.add([9] * 9600)
    idle.add([1] * 50)
    merged = LagSamples.merged([busy, idle], max_kept=100).manifest()
    assert (merged.n, merged.p50_ns, merged.p99_ns, merged.max_ns) == (9650, 9, 9, 9)
