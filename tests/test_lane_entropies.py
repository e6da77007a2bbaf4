"""Entropies of a Gaussian process by order and by lane."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from experiments.benchmarks import lane_entropies


def test_every_order_has_the_same_sum_and_the_plain_one_the_innovations():
  correlation, size = 0.9, 64
  covariance = scipy.linalg.toeplitz(correlation ** np.arange(size))
  plain = lane_entropies.entropies(covariance, np.arange(size))
  innovation = 0.5 * np.log(2 * np.pi * np.e * (1 - correlation**2))
  np.testing.assert_allclose(plain[1:], innovation, rtol=1e-9)
  order = np.random.default_rng(0).permutation(size)
  assert lane_entropies.entropies(covariance, order).sum() == pytest.approx(plain.sum())


def test_the_first_lane_knows_least_and_the_last_most():
  noise = np.random.default_rng(0).standard_normal(512)
  pcm = 1000 * scipy.signal.lfilter([1], [1, -0.95], noise)
  plain, by_lane = lane_entropies.lane_entropies(pcm, 4)
  assert by_lane[0] > plain > by_lane[-1]
  assert by_lane.mean() == pytest.approx(plain, abs=0.1)
