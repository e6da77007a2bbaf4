"""The recurrence: `scan` with its own backward against `step` and plain autodiff."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import products
from wavernn_jax.models import cell


def problem(T=7, B=3, H=8, seed=0, dtype=np.float64):
  """R, (x_u, x_r, x_e), h_0 and the gradient of the states, all far from zero."""
  rng = np.random.default_rng(seed)
  def normal(*shape):
    return rng.standard_normal(shape).astype(dtype)
  return (normal(H, 3 * H), tuple(normal(T, B, H) for _ in range(3)), normal(B, H),
          normal(T, B, H))


def values_and_gradients(scan, R, x, h, dy):
  """States, and the gradients of sum(dy · states) by R, x_u, x_r, x_e and h_0."""
  def run(R, x, h):
    states, backward = jax.vjp(scan, R, x, h)
    return states, backward(dy)
  states, (dR, dx, dh) = jax.jit(run)(R, x, h)
  return {'h': states, 'R': dR, **dict(zip(('x_u', 'x_r', 'x_e'), dx, strict=True)), 'h0': dh}


def assert_close(found, expected, relative, name=''):
  """Differences are small beside the largest value expected."""
  scale = np.abs(np.asarray(expected, np.float64)).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=relative * scale, err_msg=name)


@hypothesis.given(T=st.integers(1, 6), B=st.integers(1, 4), half=st.integers(1, 5),
                  seed=st.integers(0, 99))
@hypothesis.example(T=1, B=1, half=1, seed=0)
@hypothesis.example(T=40, B=1, half=4, seed=1)
@hypothesis.settings(max_examples=4, deadline=None)
def test_backward_equals_autodiff(T, B, half, seed):
  with jax.enable_x64(True):
    arguments = problem(T, B, 2 * half, seed)
    plain = values_and_gradients(cell.autodiff_scan, *arguments)
    fast = values_and_gradients(cell.scan, *arguments)
  for name, expected in plain.items():
    assert expected.dtype == fast[name].dtype == np.float64
    assert np.abs(expected).max() > 1e-3, name
    assert_close(fast[name], expected, 1e-10, name)


def test_backward_with_rounded_activations_equals_autodiff():
  """R hears multiples of 1/127; the gradient passes through the rounding."""
  with jax.enable_x64(True):
    arguments = problem(T=6, B=2, H=8)
    plain = values_and_gradients(
        lambda *a: cell.autodiff_scan(*a, activations='int8'), *arguments)
    fast = values_and_gradients(lambda *a: cell.scan(*a, 'int8'), *arguments)
    exact = values_and_gradients(cell.scan, *arguments)
    R, x, h, _ = arguments
    first, on_grid = tuple(v[0] for v in x), np.round(127 * h) / 127
    np.testing.assert_allclose(cell.step(R, on_grid, first, activations='int8'),
                               cell.step(R, on_grid, first), rtol=1e-12)
  for name, expected in plain.items():
    assert_close(fast[name], expected, 1e-10, name)
    assert np.abs(exact[name] - expected).max() > 1e-5 * np.abs(expected).max(), name


def test_backward_equals_finite_differences():
  with jax.enable_x64(True):
    R, x, h, dy = problem(T=3, B=2, H=4)
    gradients = values_and_gradients(cell.scan, R, x, h, dy)
    total = jax.jit(lambda *a: (dy * cell.scan(*a)).sum())
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda a: rng.standard_normal(a.shape), (R, x, h))
    def at(e):
      return float(total(*jax.tree.map(lambda a, d: a + e * d, (R, x, h), direction)))
    slope = (8 * (at(1e-3) - at(-1e-3)) - (at(2e-3) - at(-2e-3))) / 12e-3
    names = ('R', 'x_u', 'x_r', 'x_e', 'h0')
    expected = sum((gradients[n] * d).sum()
                   for n, d in zip(names, jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(slope, expected, rtol=1e-8)


def test_scan_is_the_equations_of_the_paper():
  with jax.enable_x64(True):
    R, x, h, _ = problem()
    states = np.asarray(jax.jit(cell.scan)(R, x, h))
  def sigmoid(v):
    return 1 / (1 + np.exp(-v))
  (R_u, R_r, R_e), h = np.split(np.asarray(R), 3, axis=1), np.asarray(h)
  for found, x_u, x_r, x_e in zip(states, *map(np.asarray, x), strict=True):
    u, r = sigmoid(h @ R_u + x_u), sigmoid(h @ R_r + x_r)
    h = u * h + (1 - u) * np.tanh(r * (h @ R_e) + x_e)
    np.testing.assert_allclose(found, h, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('dtype, tolerance', [(np.float64, 1e-13), (np.float32, 1e-6)])
def test_iterated_step_equals_scan(dtype, tolerance):
  with jax.enable_x64(dtype == np.float64):
    R, x, h, _ = problem(dtype=dtype)
    states = jax.jit(cell.scan)(R, x, h)
    step = jax.jit(cell.step)
    for t, found in enumerate(states):
      h = step(R, h, [v[t] for v in x])
      assert found.dtype == h.dtype == dtype
      assert_close(found, h, tolerance, f't = {t}')


def test_state_carried_across_a_cut_equals_one_scan():
  R, x, h, _ = problem(dtype=np.float32)
  scan = jax.jit(cell.scan)
  whole = scan(R, x, h)
  for cut in (1, 3, 6):
    first = scan(R, [v[:cut] for v in x], h)
    second = scan(R, [v[cut:] for v in x], first[-1])
    assert_close(np.concatenate([first, second]), whole, 1e-6, f'cut at {cut}')


def test_gradients_cross_a_cut():
  with jax.enable_x64(True):
    R, x, h, dy = problem()
    def in_two(R, x, h):
      first = cell.scan(R, tuple(v[:3] for v in x), h)
      second = cell.scan(R, tuple(v[3:] for v in x), first[-1])
      return jnp.concatenate([first, second])
    whole = values_and_gradients(cell.scan, R, x, h, dy)
    for name, found in values_and_gradients(in_two, R, x, h, dy).items():
      assert_close(found, whole[name], 1e-10, name)


def test_gates_on_halves_equal_gates_on_the_whole():
  with jax.enable_x64(True):
    R, x, h, _ = problem(H=10)
    g, x = h @ R, [v[0] for v in x]
    whole = cell.gates(g, x)
    for i in (0, 1):
      part = slice(5 * i, 5 * i + 5)
      halves = jnp.concatenate([gate[:, part] for gate in jnp.split(g, 3, axis=1)], axis=1)
      for found, expected in zip(cell.gates(halves, [v[:, part] for v in x]), whole, strict=True):
        np.testing.assert_allclose(found, expected[:, part], rtol=1e-14)


def test_bfloat16_products_have_float32_sums():
  R, _, h, _ = problem(B=4, H=512, dtype=np.float32)
  R16, h16 = R.astype(jnp.bfloat16), h.astype(jnp.bfloat16)
  found = jax.jit(products.product)(h, R16)
  exact = np.asarray(h16, np.float64) @ np.asarray(R16, np.float64)
  assert found.dtype == np.float32
  # bfloat16 sums would be off by 4e-3.
  assert_close(found, exact, 1e-6)


def test_bfloat16_scan_stays_near_float32():
  R, x, h, dy = problem(T=30, B=4, H=16, dtype=np.float32)
  R = R / 4
  plain = values_and_gradients(cell.scan, R, x, h, dy)
  low = values_and_gradients(cell.scan, R.astype(jnp.bfloat16), x, h, dy)
  for name, expected in plain.items():
    assert low[name].dtype == (jnp.bfloat16 if name == 'R' else np.float32), name
    error = np.linalg.norm(np.asarray(low[name], np.float32) - expected)
    # Rounded to 8 bits, that is 2e-3; more after 30 steps, but no other order of size.
    assert 1e-5 < error / np.linalg.norm(expected) < 2e-2, name


def test_bfloat16_backward_is_near_its_own_autodiff():
  R, x, h, dy = problem(T=10, B=4, H=16, dtype=np.float32)
  R = R.astype(jnp.bfloat16)
  plain = values_and_gradients(cell.autodiff_scan, R, x, h, dy)
  fast = values_and_gradients(cell.scan, R, x, h, dy)
  np.testing.assert_allclose(fast['h'], plain['h'], atol=2e-2)
  for name, expected in plain.items():
    expected = np.asarray(expected, np.float32)
    error = np.linalg.norm(np.asarray(fast[name], np.float32) - expected)
    assert error < 3e-2 * np.linalg.norm(expected), name
