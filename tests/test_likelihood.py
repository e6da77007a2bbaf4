"""Nats of the output layers against plain definitions, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import likelihood

ROWS = (1, 7, 8, 9, 16, 17)  # around multiples of a block of 8


@pytest.fixture
def block_of_8(monkeypatch):
  monkeypatch.setattr(likelihood, '_BLOCK_ROWS', 8)


def output_layer(inputs=4, P=6, V=16, seed=0, dtype=np.float64):
  rng = np.random.default_rng(seed)
  def linear(a, b):
    return {'kernel': rng.standard_normal((a, b)).astype(dtype),
            'bias': rng.standard_normal(b).astype(dtype)}
  return {'hidden': linear(inputs, P), 'output': linear(P, V)}


def rows(N, inputs=4, V=16, seed=1, dtype=np.float64):
  """N rows y, targets and weights, of which every third is zero."""
  rng = np.random.default_rng(seed)
  weight = rng.uniform(0.5, 2, N) * (np.arange(N) % 3 != 1)
  return (rng.standard_normal((N, inputs)).astype(dtype),
          rng.integers(0, V, N).astype(np.int32), weight.astype(dtype))


def plain_nats(layer, y, targets):
  """−log softmax(O' relu(O y))[target], written out."""
  relu = jnp.maximum(y @ layer['hidden']['kernel'] + layer['hidden']['bias'], 0)
  logits = relu @ layer['output']['kernel'] + layer['output']['bias']
  log_p = jax.nn.log_softmax(logits, axis=-1)
  return -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]


def plain_mean(layer, y, targets, weight):
  return (plain_nats(layer, y, targets) * weight).sum() / weight.sum()


def value_and_gradients(mean, layer, y, targets, weight):
  """Of a weighted mean, the gradients by layer and y."""
  # A new function, hence a new compilation, each time: _BLOCK_ROWS may have changed.
  return jax.jit(jax.value_and_grad(lambda *a: mean(*a, targets, weight), (0, 1)))(layer, y)


def assert_trees_close(found, expected, relative):
  """Every leaf differs by little beside the leaf's largest value."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for (path, b), a in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found),
                          strict=True):
    assert a.dtype == b.dtype, path
    np.testing.assert_allclose(a, b, rtol=0, atol=relative * np.abs(b).max(),
                               err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize('V', [2, 16, 256])
def test_categorical_nats_equal_log_softmax_at_the_target(V):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(5 * rng.standard_normal((3, 4, V)))
    targets = jnp.asarray(rng.integers(0, V, (3, 4)), jnp.int32)
    expected = -jnp.take_along_axis(
        jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        likelihood.categorical_nats(logits, targets), expected, atol=1e-12)


def test_uniform_logits_cost_ln_256_whatever_the_target():
  nats = likelihood.categorical_nats(
      jnp.full((256, likelihood.BYTE_VALUES), 3.0), jnp.arange(256))
  np.testing.assert_allclose(nats, np.log(256), rtol=1e-6)


def test_extreme_logits_give_finite_nats_and_gradients():
  logits = jnp.array([[1e4, -1e4, 0, 0], [-1e4] * 4, [1e4] * 4, [1e4, 1e4, -1e4, -1e4]])
  expected = {0: [0, np.log(4), np.log(4), np.log(2)], 1: [2e4, np.log(4), np.log(4), np.log(2)]}
  for target, nats in expected.items():
    targets = jnp.full(4, target)
    np.testing.assert_allclose(
        likelihood.categorical_nats(logits, targets), nats, atol=2e-3)  # float32 at 1e4
    gradient = jax.jit(jax.grad(
        lambda x, t=targets: likelihood.categorical_nats(x, t).sum()))(logits)
    np.testing.assert_allclose(
        gradient, jax.nn.softmax(logits) - np.eye(4)[target], atol=1e-6)


def test_extreme_logits_give_a_finite_mean_and_gradients(block_of_8):
  with jax.enable_x64(True):
    layer, (y, targets, weight) = output_layer(), rows(9)
    bias = np.where(np.arange(16) % 2 == 0, 1e4, -1e4)
    layer['output']['bias'] = layer['output']['bias'] + bias
    expected = value_and_gradients(plain_mean, layer, y, targets, weight)
  layer, y, weight, expected = jax.tree.map(
      lambda a: np.asarray(a, np.float32), (layer, y, weight, expected))
  value, gradients = value_and_gradients(likelihood.mean_nats, layer, y, targets, weight)
  assert 1e3 < expected[0] < 2e4
  np.testing.assert_allclose(value, expected[0], rtol=1e-4)
  for found, right in zip(*map(jax.tree.leaves, (gradients, expected[1])), strict=True):
    np.testing.assert_allclose(found, right, rtol=0, atol=2e-3 * np.abs(right).max())


@pytest.mark.parametrize('N', ROWS)
def test_layer_nats_in_blocks_equal_plain(N, block_of_8):
  with jax.enable_x64(True):
    layer, (y, targets, _) = output_layer(), rows(N)
    found = jax.jit(lambda *a: likelihood.layer_nats(*a))(layer, y, targets)
    assert found.shape == targets.shape and found.dtype == np.float64
    np.testing.assert_allclose(found, plain_nats(layer, y, targets), rtol=1e-12)


def test_layer_nats_keep_the_places_of_leading_axes(block_of_8):
  with jax.enable_x64(True):
    layer, (y, targets, _) = output_layer(), rows(15)
    y, targets = y.reshape(5, 3, -1), targets.reshape(5, 3)
    np.testing.assert_allclose(likelihood.layer_nats(layer, y, targets),
                               plain_nats(layer, y, targets), rtol=1e-12)


@pytest.mark.parametrize('N', ROWS)
def test_mean_and_its_gradients_equal_autodiff_of_plain(N, block_of_8):
  with jax.enable_x64(True):
    layer, (y, targets, weight) = output_layer(), rows(N)
    expected = value_and_gradients(plain_mean, layer, y, targets, weight)
    found = value_and_gradients(likelihood.mean_nats, layer, y, targets, weight)
    assert_trees_close(found, expected, 1e-10)
    value = jax.jit(lambda *a: likelihood.mean_nats(*a))(layer, y, targets, weight)
    np.testing.assert_allclose(value, expected[0], rtol=1e-10)


def test_mean_of_rounded_activations_equals_autodiff_of_plain(block_of_8):
  """y in steps of 1/127, the relu's outputs in those of their greatest; gradients pass through."""
  def rounded(x, step):
    return x + jax.lax.stop_gradient(jnp.round(x / step) * step - x)

  def mean(layer, y, targets, weight):
    y = rounded(y, 1 / 127)
    relu = jnp.maximum(y @ layer['hidden']['kernel'] + layer['hidden']['bias'], 0)
    relu = rounded(relu, jnp.maximum(relu.max(axis=-1, keepdims=True), 1e-30) / 127)
    log_p = jax.nn.log_softmax(relu @ layer['output']['kernel'] + layer['output']['bias'])
    nats = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    return (nats * weight).sum() / weight.sum()

  with jax.enable_x64(True):
    layer, (y, targets, weight) = output_layer(), rows(20)
    expected = value_and_gradients(mean, layer, y, targets, weight)
    found = value_and_gradients(lambda *a: likelihood.mean_nats(*a, activations='int8'), layer, y,
                                targets, weight)
    assert_trees_close(found, expected, 1e-10)
    assert abs(found[0] - plain_mean(layer, y, targets, weight)) > 1e-6


def test_mean_inside_a_larger_graph_has_the_gradients_of_plain(block_of_8):
  with jax.enable_x64(True):
    layer, (y, targets, weight) = output_layer(), rows(15)
    targets, weight = targets.reshape(5, 3), weight.reshape(5, 3)
    def total(mean, layer, y):
      return 3 * jnp.square(mean(layer, jnp.tanh(y).reshape(5, 3, -1), targets, weight))
    expected, found = (jax.jit(jax.value_and_grad(
        lambda layer, y, m=m: total(m, layer, y), (0, 1)))(layer, y)
        for m in (plain_mean, likelihood.mean_nats))
    assert_trees_close(found, expected, 1e-10)


@pytest.mark.parametrize('N', ROWS)
def test_a_prior_is_added_to_the_logits_and_its_slope_is_differentiated(N, block_of_8):
  with jax.enable_x64(True):
    layer, (y, targets, weight) = output_layer(), rows(N)
    rng = np.random.default_rng(2)
    slope, ramp = jnp.asarray(rng.standard_normal(N)), jnp.asarray(rng.standard_normal(16))

    def nats(layer, y, slope):
      relu = jnp.maximum(y @ layer['hidden']['kernel'] + layer['hidden']['bias'], 0)
      logits = relu @ layer['output']['kernel'] + layer['output']['bias']
      log_p = jax.nn.log_softmax(logits + slope[:, None] * ramp, axis=-1)
      return -jnp.take_along_axis(log_p, targets[:, None], axis=-1)[:, 0]

    found = jax.jit(jax.value_and_grad(lambda layer, y, slope: likelihood.mean_nats(
        layer, y, targets, weight, 'float32', (slope, ramp)), (0, 1, 2)))(layer, y, slope)
    expected = jax.jit(jax.value_and_grad(lambda layer, y, slope: (
        nats(layer, y, slope) * weight).sum() / weight.sum(), (0, 1, 2)))(layer, y, slope)
    assert_trees_close(found, expected, 1e-10)
    np.testing.assert_allclose(
        likelihood.layer_nats(layer, y, targets, prior=(slope, ramp)), nats(layer, y, slope),
        rtol=1e-12)


def test_rows_of_zero_weight_neither_count_nor_learn(block_of_8):
  layer, (y, targets, weight) = output_layer(dtype=np.float32), rows(17, dtype=np.float32)
  changed = np.where(weight[:, None] == 0, y + 5, y)
  value, (dlayer, dy) = value_and_gradients(likelihood.mean_nats, layer, y, targets, weight)
  other = value_and_gradients(likelihood.mean_nats, layer, changed, targets, weight)
  assert_trees_close(other, (value, (dlayer, dy)), 1e-6)
  assert not dy[weight == 0].any() and dy[weight > 0].any(axis=1).all()


def test_no_weight_at_all_gives_zero_and_no_gradient():
  layer, (y, targets, weight) = output_layer(dtype=np.float32), rows(5, dtype=np.float32)
  value, gradients = value_and_gradients(
      likelihood.mean_nats, layer, y, targets, 0 * weight)
  assert value == 0 and not any(g.any() for g in jax.tree.leaves(gradients))


def test_likelihood_sums_to_one_over_the_alphabet():
  with jax.enable_x64(True):
    layer, (y, _, _) = output_layer(V=5), rows(3)
    total = sum(np.exp(-likelihood.layer_nats(layer, y, jnp.full(3, v))) for v in range(5))
    np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_bfloat16_stays_near_float32_and_agrees_with_itself(block_of_8):
  layer, (y, targets, weight) = output_layer(dtype=np.float32), rows(17, dtype=np.float32)
  def mean(dtype):
    return value_and_gradients(lambda *a: likelihood.mean_nats(*a, dtype),
                               layer, y, targets, weight)
  plain, low = mean('float32'), mean('bfloat16')
  nats = likelihood.layer_nats(layer, y, targets, 'bfloat16')
  np.testing.assert_allclose((nats * weight).sum() / weight.sum(), low[0], rtol=1e-5)
  for found, expected in zip(*map(jax.tree.leaves, (low, plain)), strict=True):
    assert found.dtype == np.float32
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-6 < error < 3e-2
