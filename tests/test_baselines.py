"""Likelihood baselines and bootstrap intervals against closed forms."""

import math

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from scipy import stats

from wavernn_jax.evaluation import baselines
from wavernn_jax.evaluation.bootstrap import ratio_interval


def _gaussian(samples: int, seed: int = 0) -> np.ndarray:
  return (np.random.default_rng(seed).normal(size=samples) * 2_000).astype(np.int16)


def test_uniform_is_two_bytes():
  assert baselines.uniform()['nll'] == pytest.approx(math.log(65_536))


def test_histogram_by_hand():
  """Bytes of 0 and -1: coarse 128 and 127, fine 0 and 255; 258 counts after smoothing."""
  histogram = baselines.ByteHistogram([np.array([0, -1], np.int16)])
  found = histogram.nll([np.array([0, 0, 257], np.int16)])  # coarse 128 128 129, fine 0 0 1
  expected = (2 * math.log(258 / 2) + math.log(258)) / 3
  assert found == pytest.approx(
      {'nll': 2 * expected, 'nll_coarse': expected, 'nll_fine': expected})


def test_histogram_nll_nears_the_entropy():
  pcm_T = _gaussian(400_000)
  found = baselines.ByteHistogram([pcm_T]).nll([pcm_T])
  coarse_V = np.histogram(pcm_T, bins=np.arange(-32_768, 32_769, 256))[0]
  assert found['nll_coarse'] == pytest.approx(stats.entropy(coarse_V), abs=0.005)
  assert found['nll_fine'] == pytest.approx(math.log(256), abs=0.005)


@hypothesis.given(
    train=st.lists(hnp.arrays(np.int16, st.integers(0, 50)), max_size=3),
    test=hnp.arrays(np.int16, st.integers(1, 50)), cut=st.integers(0, 50))
@hypothesis.settings(max_examples=30, deadline=None)
def test_histogram_is_finite_and_blind_to_cuts(train, test, cut):
  histogram = baselines.ByteHistogram(train)
  found = histogram.nll([test])
  assert 0 < found['nll_coarse'] < math.log(256 + 150) + 1e-9
  assert found['nll'] == pytest.approx(found['nll_coarse'] + found['nll_fine'])
  assert histogram.nll([test[:cut], test[cut:]]) == pytest.approx(found)
  probability_2xV = np.exp(histogram.log_probability_2xV)
  np.testing.assert_allclose(probability_2xV.sum(axis=1), 1)


def test_nothing_to_train_on_is_uniform_and_nothing_held_out_is_nan():
  histogram = baselines.ByteHistogram([])
  assert histogram.nll([_gaussian(9)]) == pytest.approx(baselines.uniform())
  assert math.isnan(histogram.nll([])['nll'])


@pytest.mark.parametrize('shift', [6.0, 0.0], ids=['nll', 'paired difference'])
def test_interval_nears_the_delta_method(shift):
  rng = np.random.default_rng(0)
  counts_U = rng.integers(20_000, 200_000, 500)
  sums_U = counts_U * rng.normal(shift, 0.3, 500)
  ratio = sums_U.sum() / counts_U.sum()
  error = np.std(sums_U - ratio * counts_U) / math.sqrt(500) / counts_U.mean()
  low, high = ratio_interval(sums_U, counts_U, resamples=4_000, seed=1)
  assert low == pytest.approx(ratio - 1.96 * error, abs=0.15 * error)
  assert high == pytest.approx(ratio + 1.96 * error, abs=0.15 * error)


def test_interval_covers_the_truth_about_as_often_as_it_says():
  rng = np.random.default_rng(0)
  hits = 0
  for trial in range(200):
    counts_U = rng.integers(50, 150, 40)
    low, high = ratio_interval(
        counts_U * rng.normal(6, 1, 40), counts_U, resamples=300, seed=trial, level=0.8)
    hits += low <= 6 <= high
  assert 140 <= hits <= 175  # 160 expected; a percentile interval of 40 is a little narrow


def test_interval_resamples_sums_and_counts_together():
  """Equal nats/sample everywhere leave nothing uncertain, whatever the lengths."""
  counts_U = np.arange(1, 30)
  low, high = ratio_interval(6.5 * counts_U, counts_U, resamples=200, seed=0)
  assert low == pytest.approx(6.5) and high == pytest.approx(6.5)


def test_interval_depends_on_the_seed_only():
  data = np.arange(10.0), np.full(10, 4)
  assert ratio_interval(*data, 100, seed=3) == ratio_interval(*data, 100, seed=3)
  assert ratio_interval(*data, 100, seed=3) != ratio_interval(*data, 100, seed=4)


@pytest.mark.parametrize('utterances', [0, 1])
def test_one_utterance_has_no_interval(utterances):
  interval = ratio_interval(np.ones(utterances), np.ones(utterances), 100, seed=0)
  assert np.isnan(interval).all()
