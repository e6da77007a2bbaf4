"""The excitation that lanes hear: against covariances, a lane at a time, and drawn processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from wavernn_jax.models import excitation, prediction

AR = np.array([1.3, -0.8, 0.2])  # of the last samples, the latest first
TAPS = len(AR)
LANES, HORIZON = 4, 2
STEP = HORIZON + 1
OFFSETS = np.arange(-14, 11)
KNOWN = prediction.known(LANES, STEP, HORIZON, OFFSETS) & (
    np.arange(LANES)[:, None] + OFFSETS >= -11) & (np.arange(LANES)[:, None] + OFFSETS <= 10)
REACH = excitation.reach(LANES, STEP)


def autocorrelation(lags):
  """Of the process with an excitation of variance 1."""
  response = scipy.signal.lfilter([1], [1, *-AR], np.eye(1, 4_000)[0])
  return np.correlate(response, response, 'full')[len(response) - 1:][:lags + 1]


@pytest.fixture(scope='module')
def solved():
  """Weights and what they leave, and the Spread."""
  with jax.enable_x64(True):
    r = jnp.asarray(autocorrelation(80))
    w, v = prediction.solve(r, OFFSETS, KNOWN)
    return np.asarray(w), np.asarray(v), excitation.spread(r, w, v, OFFSETS, REACH, TAPS)


def test_a_residual_is_heard_as_far_as_it_covaries_with_the_excitation(solved):
  w, v, spread = solved
  time = np.arange(-60, 40)
  covariance = scipy.linalg.toeplitz(autocorrelation(99))
  error = np.eye(len(time)) - sum(a * np.eye(len(time), k=-k) for k, a in enumerate(AR, 1))
  for lane in range(LANES):
    x = np.zeros(len(time))
    x[60 + OFFSETS] = -w[lane]
    x[60] = 1
    expected = error[60 + REACH] @ covariance @ x / np.sqrt(v[lane])
    np.testing.assert_allclose(spread.g[lane], expected, atol=1e-5)
    gamma = np.correlate(expected, expected, 'full')[len(REACH):]
    np.testing.assert_allclose(spread.gamma[lane, :len(gamma)], gamma, atol=1e-5)
    np.testing.assert_allclose(spread.power[lane].sum(), (expected**2).sum(), rtol=1e-4)


def one_by_one(pushed, reach):
  """ê of each sample, where the lanes take their turns as in sampling."""
  positions, lanes, batch, _ = pushed.shape
  tape = np.zeros((lanes * positions + 200, batch))
  heard = np.zeros(pushed.shape)
  for turn in range(positions + (lanes - 1) * STEP):
    here = [(turn - lane * STEP, lane) for lane in range(lanes)]
    here = [(i, lane, 100 + lanes * i + lane + reach) for i, lane in here if 0 <= i < positions]
    for i, lane, at in here:
      heard[i, lane] = tape[at].T
    for i, lane, at in here:
      tape[at] += pushed[i, lane].T
  return heard


def test_all_of_a_lane_before_the_next_is_as_by_turns():
  pushed = np.random.default_rng(0).normal(size=(30, LANES, 2, len(REACH)))
  np.testing.assert_allclose(excitation.sequence(jnp.asarray(pushed)),
                             one_by_one(pushed, REACH), atol=1e-5)


@pytest.mark.parametrize(('lanes', 'horizon'), [(2, 0), (2, 8), (4, 8), (16, 0), (16, 8), (16, 64)])
def test_the_reach_fits_between_two_lanes(lanes, horizon):
  reach = excitation.reach(lanes, horizon + 1)
  assert 0 in reach and np.array_equal(reach, np.arange(reach[0], reach[-1] + 1))
  assert len(reach) <= min(143, max(1, lanes * (horizon + 1) - 1))


def test_what_is_unknown_is_the_error_of_what_is_heard(solved):
  """On a drawn process, by lane: little of what can be known is lost by the reach."""
  w, v, spread = solved
  rng, samples = np.random.default_rng(0), 40_000
  e = rng.normal(size=samples + 400)
  s = scipy.signal.lfilter([1], [1, *-AR], e)
  t = np.arange(200, 200 + samples)
  lane = t % LANES
  x = s[t] - (s[t[:, None] + OFFSETS] * w[lane]).sum(axis=1)
  z = (x / np.sqrt(v[lane])).reshape(-1, LANES, 1)
  heard = np.asarray(excitation.sequence(z[..., None] * spread.g[:, None]))[50:-50, :, 0]
  true = e[t[:, None] + REACH].reshape(-1, LANES, len(REACH))[50:-50]
  found = ((true - heard)**2).mean(axis=0)
  for by_lane, expected in zip(found, spread.unknown, strict=True):
    np.testing.assert_allclose(excitation._groups(by_lane)[:-1] / 4, expected[:-1], atol=0.06)
  assert spread.unknown.min() < 0.2 and spread.unknown.max() > 0.9


def test_of_one_lane_that_knows_all_before_it_the_correlations_are_its_residuals():
  reach, lags = np.arange(-40, 20), excitation.CORRELATIONS // 2
  g = (reach == 0).astype(np.float32)
  e = np.where(reach < 0, np.random.default_rng(0).normal(size=len(reach)), 0).astype(np.float32)
  groups = excitation._groups(jnp.asarray(g))
  spread = excitation.from_shape(g, groups, jnp.zeros_like(groups))
  _, correlations = excitation.inputs(e, spread)
  np.testing.assert_allclose(correlations[:lags], e[reach < 0][::-1][:lags], atol=1e-5)


def test_a_loud_excitation_is_trusted_less():
  """δ and λ against the sums, and against the density whose largest value they stand for."""
  rng = np.random.default_rng(0)
  reach = np.arange(-47, 96)
  g = (rng.normal(size=len(reach)) * np.exp(-np.abs(reach) / 20)).astype(np.float32)
  g /= np.sqrt((g**2).sum())
  loud = np.where(reach < 0, 4.0, 0.5)
  e = (loud * rng.normal(size=len(reach))).astype(np.float32)
  groups = excitation._groups(jnp.ones(len(reach)))
  spread = excitation.from_shape(g, excitation._groups(g**2), 0 * groups)
  found, _ = excitation.inputs(e, spread)
  for i, width in enumerate((3, 6, 12)):
    at = 4 * np.arange(36)
    window = np.exp(-0.5 * ((at[:, None] - at) / width)**2)
    power = np.pad(e**2, (0, 1)).reshape(36, 4).sum(axis=1) / np.array([4] * 35 + [3])
    h = np.repeat(1 / (0.1 + 0.9 * power @ (window / window.sum(axis=0))), 4)[:143]
    size = (g**2 * h).sum()
    np.testing.assert_allclose(found[2 * i], -(g * e * (h - 1)).sum() / size, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(found[2 * i + 1], -0.5 * np.log(size), rtol=1e-2, atol=1e-2)


def test_with_the_loudness_that_the_spectrogram_says_nothing_is_expected():
  reach = np.arange(-47, 96)
  rng = np.random.default_rng(1)
  g = rng.normal(size=len(reach)).astype(np.float32)
  g /= np.sqrt((g**2).sum())
  ones = excitation._groups(jnp.ones(len(reach)))
  spread = excitation.from_shape(g, excitation._groups(g**2), jnp.ones_like(ones))
  found, _ = excitation.inputs(jnp.zeros(len(reach)), spread)
  np.testing.assert_allclose(found, 0, atol=1e-3)
