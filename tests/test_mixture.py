"""The mixture of discretised logistics: probabilities, tails, gradients and draws."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import audio
from wavernn_jax.models import mixture

ALL = np.arange(-2**15, 2**15)
# log weights, means and scales of mixtures of three, some at and beyond the ends.
CASES = [
    ([0.0, 1.0, -2.0], [-300.0, 12.25, 9_000.5], [3.0, 0.3, 500.0]),
    ([0.0, 0.0, 0.0], [-32_768.0, 32_767.0, 40_000.0], [20.0, 5.0, 900.0]),
    ([3.0, -1.0, 0.5], [-1e6, 0.5, 1e6], [1e4, 0.05, 1e5]),
    ([0.0, -40.0, 40.0], [0.0, 1.0, -20_000.0], [1e6, 1.0, 0.05])]


def build(case, dtype=np.float32):
  return mixture.Mixture(*(jnp.asarray(part, dtype) for part in case))


def exact_log_mass(case, first, count):
  """By differences of the distribution in 400 digits."""
  with decimal.localcontext(decimal.Context(prec=400, Emin=-10**17, Emax=10**17)):
    D = decimal.Decimal
    half = D('0.5')
    def below(edge, mean, scale):
      return 1 / (1 + ((D(mean) - edge) / D(scale)).exp())
    weights = [D(logit).exp() for logit in case[0]]
    total = D(0)
    for weight, mean, scale in zip(weights, *case[1:], strict=True):
      low = 0 if first == -2**15 else below(D(first) - half, mean, scale)
      high = 1 if first + count == 2**15 else below(D(first + count) - half, mean, scale)
      total += weight * (high - low)
    return float((total / sum(weights)).ln())


@pytest.mark.parametrize('case', CASES)
def test_all_values_sum_to_one(case):
  with jax.enable_x64(True):
    found = np.asarray(mixture.log_mass(build(case, np.float64), ALL, 1))
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-9)
    coarse = np.asarray(mixture.log_mass(build(case, np.float64), ALL[::256], 256))
  np.testing.assert_allclose(np.exp(coarse), np.exp(found).reshape(256, 256).sum(1), atol=1e-12)
  assert np.exp(mixture.log_mass(build(case), ALL, 1)).sum() == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('value', [-32_768, -32_767, -301, 0, 12, 9_000, 32_766, 32_767])
def test_probabilities_are_exact_in_the_tails(case, value):
  case = tuple([float(np.float32(v)) for v in part] for part in case)
  for first, count in ((value, 1), (value // 256 * 256, 256)):
    expected = exact_log_mass(case, first, count)
    found = mixture.log_mass(build(case), np.int32(first), count)
    # Places of 40,000 and more are rounded to 0.004 before they are divided by the scale.
    assert found == pytest.approx(expected, rel=2e-6, abs=2e-4), (first, count)
    with jax.enable_x64(True):
      found = mixture.log_mass(build(case, np.float64), np.int32(first), count)
      assert found == pytest.approx(expected, rel=1e-12, abs=1e-10), (first, count)


@pytest.mark.parametrize('case', CASES)
def test_coarse_and_fine_add_up_to_the_value(case):
  with jax.enable_x64(True):
    components = build(case, np.float64)
    found = mixture.nats(components, ALL.astype(np.int16))
    direct = np.asarray(-mixture.log_mass(components, ALL, 1))
    np.testing.assert_allclose(found['coarse'] + found['fine'], direct, rtol=1e-12)
    coarse, _ = audio.split_bytes(ALL.astype(np.int16))
    peak = direct.reshape(256, 256).min(axis=1, keepdims=True)
    of_byte = peak[:, 0] - np.log(np.exp(peak - direct.reshape(256, 256)).sum(axis=1))
  np.testing.assert_allclose(found['coarse'], of_byte[coarse], rtol=1e-9, atol=1e-9)
  # Given its high byte, some value has to come.
  fine = np.exp(-np.asarray(found['fine'])).reshape(256, 256).sum(axis=1)
  np.testing.assert_allclose(fine, 1, rtol=1e-6)


def test_gradients_are_finite_and_right_far_from_all_means():
  def total(outputs, values):
    return sum(mixture.nats(mixture.mixture(outputs, mixture.UNIT), values).values())
  values = np.array([-2**15, -1, 0, 2**15 - 1], np.int16)
  for mean, log_scale in ((0, 0), (0, -60), (60, -9), (-1e4, -9), (0, 60), (1e4, 60)):
    outputs = np.float32([0, 1, mean, mean + 1, log_scale, log_scale + 1])
    of_each = jax.vmap(jax.value_and_grad(total), (None, 0))
    value, gradient = of_each(outputs, values)
    assert np.isfinite(value).all() and np.isfinite(gradient).all(), (mean, log_scale)
    with jax.enable_x64(True):
      value64, gradient64 = of_each(outputs.astype(np.float64), values)
    np.testing.assert_allclose(value, value64, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(gradient, gradient64, rtol=1e-3, atol=1e-3)


def test_means_and_scales_are_in_units():
  outputs = np.float32([[0, 0, 0.5, -2, 0, np.log(3)]] * 2)
  found = mixture.mixture(outputs, np.float32([10, 200]))
  np.testing.assert_allclose(found.mean, [[5, -20], [100, -400]])
  np.testing.assert_allclose(
      found.scale, np.array([[10, 30], [200, 600]]) + mixture.LEAST_SCALE, rtol=1e-6)


def test_untrained_components_of_residuals_are_near_a_laplace_distribution():
  """Of a scale of 0.7: what is closest to residuals over their expected size."""
  sigma, values = 100.0, np.arange(-3_000, 3_001)
  components = mixture.mixture(mixture.bias(10, mixture.RESIDUAL_SCALES), sigma)
  laplace = np.exp(-np.abs(values) / (0.7 * sigma)) / (1.4 * sigma)
  found = mixture.log_mass(components, values, 1)
  assert 0 < (laplace * (np.log(laplace) - found)).sum() < 0.005


# Draws


def grid(steps):
  """Uniform numbers as `draw.uniforms` gives them, evenly spaced."""
  return np.arange(steps, dtype=np.float32) / steps


def draws(case, uniforms, temperatures=(1.0, 1.0)):
  count = len(uniforms[0])
  components = jax.tree.map(lambda a: jnp.broadcast_to(a, (count, len(a))), build(case))
  return np.asarray(mixture.sample(components, jnp.asarray(uniforms), temperatures))


@pytest.mark.parametrize('mean, scale', [
    (0.0, 0.3), (-7.5, 2.0), (1234.4, 40.0), (32_760.0, 9.0), (-32_768.0, 300.0), (-4e4, 2e3)])
def test_the_place_is_drawn_with_the_likelihood_of_its_value(mean, scale):
  steps = 2**18
  case = [0.0], [mean], [scale]
  found = draws(case, [np.zeros(steps, np.float32), grid(steps)])
  assert (np.diff(found) >= 0).all()  # so that each value has one run of the grid
  counts = np.bincount(found + 2**15, minlength=2**16)
  expected = steps * np.exp(np.asarray(mixture.log_mass(build(case), ALL, 1), np.float64))
  # A run is cut at two ends; places are rounded to 2⁻²⁴ of themselves.
  allowed = 2 + expected * np.abs(mean) * 2.0**-22
  assert (np.abs(counts - expected) <= allowed).all()


def test_the_component_is_drawn_by_its_weight():
  steps, weights = 2**12, np.array([0.5, 0.125, 0.375])
  case = np.log(weights), [-1000.0, 0.0, 1000.0], [1.0, 5.0, 2.0]
  found = draws(case, [grid(steps), np.full(steps, 0.5, np.float32)])
  counts = [(found == mean).sum() for mean in case[1]]
  np.testing.assert_allclose(counts, steps * weights, atol=1)


def test_the_outermost_uniform_numbers_give_values_in_reach():
  ends = np.float32([0, 1 - 2.0**-24])
  for components in (1, 3, 10, 16, 17):
    case = [0.0] * components, [100.0] * components, [2.0] * components
    found = draws(case, [ends[[0, 1, 0, 1]], ends[[0, 0, 1, 1]]])
    assert np.abs(found - 100).max() < 2 * 18, components


def test_temperature_zero_takes_the_most_probable_value():
  rng = np.random.default_rng(0)
  for _ in range(20):
    case = (rng.normal(0, 2, 3), np.array([-9_000.0, 3.0, 9_000.0]) + rng.integers(-99, 99, 3),
            np.exp(rng.uniform(0, 5, 3)))
    uniforms = rng.random((2, 7), np.float32)
    best = ALL[np.argmax(mixture.log_mass(build(case), ALL, 1))]
    np.testing.assert_array_equal(draws(case, uniforms, (0.0, 0.0)), np.full(7, best))


def test_temperature_scales_the_place_and_sharpens_the_choice():
  steps = 2**14
  wide = draws(([0.0], [0.0], [100.0]), [np.zeros(steps, np.float32), grid(steps)])
  half = draws(([0.0], [0.0], [100.0]), [np.zeros(steps, np.float32), grid(steps)], (1.0, 0.5))
  assert np.std(half) == pytest.approx(np.std(wide) / 2, rel=1e-3)
  # pᵗ⁻¹ of components apart: weights π² / s at t = ½.
  case = np.log([0.6, 0.4]), [-1000.0, 1000.0], [1.0, 1.0]
  found = draws(case, [grid(steps), np.full(steps, 0.5, np.float32)], (0.5, 1.0))
  assert (found < 0).mean() == pytest.approx(0.36 / 0.52, abs=1e-3)
  case = np.log([0.5, 0.5]), [-1000.0, 1000.0], [1.0, 3.0]
  found = draws(case, [grid(steps), np.full(steps, 0.5, np.float32)], (0.5, 1.0))
  assert (found < 0).mean() == pytest.approx(0.75, abs=1e-3)
