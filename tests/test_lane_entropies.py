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


def test_fixed_weights_are_right_for_their_own_process_alone():
  covariance = scipy.linalg.toeplitz(0.9 ** np.arange(64.0))
  order = np.random.default_rng(0).permutation(64)
  np.testing.assert_allclose(lane_entropies.of_fixed_weights(covariance, covariance, order),
                             lane_entropies.entropies(covariance, order))
  noise = np.random.default_rng(1).standard_normal(64) * np.repeat([3, 0.2], 32)
  true = lane_entropies.of_loudness(covariance, noise, 4)
  right, fixed = (found.sum() for found in (
      lane_entropies.entropies(true, order),
      lane_entropies.of_fixed_weights(covariance, true, order)))
  assert fixed > right + 1
  plain = np.arange(64)  # a filter of what came before is right at any loudness
  np.testing.assert_allclose(lane_entropies.of_fixed_weights(covariance, true, plain),
                             lane_entropies.entropies(true, plain))
  assert right == pytest.approx(lane_entropies.entropies(true, plain).sum())


def test_lanes_pay_for_a_loudness_that_their_weights_do_not_know():
  rng = np.random.default_rng(0)
  pulses = rng.standard_normal(512) * np.where(np.arange(512) % 64 < 12, 3, 0.3)
  pcm = 1000 * scipy.signal.lfilter([1], [1, -1.6, 0.8], pulses)
  assert lane_entropies.price(pcm, 4, 4) > 0.05
  assert abs(lane_entropies.price(pcm, 1, 4)) < 1e-9  # one lane is plain
