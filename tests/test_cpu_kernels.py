"""The CPU sampler's products, elementwise functions and draws against numpy and JAX."""

import dataclasses

from jax.extend.random import threefry_2x32
import numba
import numpy as np
import pytest

from wavernn_jax.sampling import blocksparse
from wavernn_jax.sampling.cpu import kernels, layout, loop, random, simd, simd_math, step

DTYPES = list(blocksparse.DTYPES)
ERROR = {'float32': 3e-5, 'bfloat16': 4e-3, 'int8': 3e-5}  # of sums of some 70 products
BLOCKS = list(blocksparse.SHAPES)
HOP = 7


def multiply(packed, x):
  """A packed matrix times x through the compiled kernels."""
  matrix = layout.stream(packed)
  y, unit = layout.aligned(packed.shape[0], np.float32), np.float32(1)
  if matrix.values.dtype in (np.int8, np.int16):
    unit = np.float32(np.abs(x).max() / 4096)
    x = np.rint(x / unit).astype(np.int16)
  kernels.product(matrix, x, y, unit)
  return y, x * unit


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('block', BLOCKS)
def test_product_equals_dense_for_every_count_of_blocks(dtype, block):
  """Row i keeps i blocks (also none): every remainder of any unrolling."""
  rng = np.random.default_rng(0)
  outputs, inputs = 256, 64
  shape = outputs // block[0], inputs // block[1]
  mask = np.zeros(shape, bool)
  for row in range(shape[0]):
    kept = rng.permutation(shape[1])[:row % (shape[1] + 1)]
    mask[row, kept] = True
  packed = blocksparse.pack(
      rng.standard_normal((outputs, inputs)), block, dtype, mask)
  y, x = multiply(packed, rng.standard_normal(inputs).astype(np.float32))
  np.testing.assert_allclose(y, blocksparse.unpack(packed) @ x, atol=ERROR[dtype])


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('inputs', [4, 12, 20, 64, 72])
def test_dense_product(dtype, block, inputs):
  rng = np.random.default_rng(1)
  packed = blocksparse.pack(rng.standard_normal((48, inputs)), block, dtype)
  kind = type(layout.stream(packed))
  assert kind is (kernels.Dense if block == (16, 1) else kernels.Squares)
  y, x = multiply(packed, rng.standard_normal(inputs).astype(np.float32))
  np.testing.assert_allclose(y, blocksparse.unpack(packed) @ x, atol=ERROR[dtype])


def test_int8_sums_are_exact():
  rng = np.random.default_rng(2)
  packed = blocksparse.pack(rng.standard_normal((32, 128)), (16, 1), 'int8')
  packed = dataclasses.replace(packed, scales=np.ones(32, np.float32))
  x = rng.integers(-100, 100, 128).astype(np.int16)
  y = layout.aligned(32, np.float32)
  kernels.product(layout.stream(packed), x, y, np.float32(1))
  np.testing.assert_array_equal(y, blocksparse.unpack(packed) @ x)


def test_limit_keeps_int32_sums_from_overflowing():
  dense = blocksparse.pack(np.ones((32, 2048)), (16, 1), 'int8')
  limit = layout.limit(dense)
  assert limit * 127 * 2048 < 2 ** 31 < (limit + 2) * 127 * 2048
  x = np.full(2048, limit, np.int16)
  y = layout.aligned(32, np.float32)
  kernels.product(layout.stream(dense), x, y, np.float32(1))
  np.testing.assert_allclose(y, 2048 * limit, rtol=1e-6)


@pytest.mark.parametrize('block', BLOCKS)
def test_bfloat16_as_int16_cannot_overflow(block):
  """Longest rows; the greatest activations, with signs that make every product add up."""
  rng = np.random.default_rng(3)
  inputs = layout._FIXED_INPUTS
  dense = np.exp2(rng.normal(0, 2, (32, inputs))) * rng.choice([-1, 1], inputs)
  mask = np.ones((32 // block[0], inputs // block[1]), bool)
  mask[0, 1] = False  # not dense, so that it is a matrix with indices
  packed = blocksparse.pack(dense, block, 'bfloat16', mask)
  matrix, y = layout.stream(packed), layout.aligned(32, np.float32)
  assert matrix.values.dtype == np.int16
  x = layout._FIXED_ACTIVATION * np.sign(dense[0]).astype(np.int16)
  kernels.product(matrix, x, y, np.float32(1))
  np.testing.assert_allclose(y, blocksparse.unpack(packed) @ x.astype(np.float64), rtol=2e-3)


@pytest.mark.parametrize('block', BLOCKS)
def test_bfloat16_as_int16_keeps_all_but_small_weights_exactly(block):
  rng = np.random.default_rng(4)
  mask = np.ones((32 // block[0], 20 // block[1]), bool)
  mask[0, 1] = False
  packed = blocksparse.pack(rng.standard_normal((32, 20)), block, 'bfloat16', mask)
  matrix, stored = layout.stream(packed), blocksparse.unpack(packed)
  columns = []
  for one in np.eye(20, dtype=np.int16):
    columns.append(layout.aligned(32, np.float32))
    kernels.product(matrix, one, columns[-1], np.float32(1))
  found = np.stack(columns, axis=1)
  large = np.abs(stored) > np.abs(stored).max() / 32
  assert large.mean() > 0.8
  np.testing.assert_array_equal(found[large], stored[large])
  np.testing.assert_allclose(found, stored, atol=np.abs(stored).max() / 2**13)


# Elementwise functions, random numbers and draws.


@numba.njit(error_model='numpy')
def _exp2(x, y):
  inputs, outputs = simd.borrow(x), simd.borrow(y)
  for start in range(0, len(x), 16):
    simd.store(outputs, start,
               simd_math.exp2_scaled(simd.load(inputs, start), simd.splat(1.0)))


def test_exp2():
  x = np.linspace(-125, 125, 16 * 4096).astype(np.float32)
  y = np.zeros_like(x)
  _exp2(x, y)
  np.testing.assert_allclose(y, np.exp2(x.astype(np.float64)), rtol=1.5e-7)


@numba.njit
def _threefry(key0, key1, index):
  return random.threefry(key0, key1, index)


def test_threefry_equals_jax():
  rng = np.random.default_rng(4)
  for _ in range(50):
    key = rng.integers(0, 2 ** 32, 2, dtype=np.uint32)
    index = rng.integers(0, 2 ** 63, dtype=np.uint64) >> np.uint64(rng.integers(60))
    count = np.array([index & np.uint64(2 ** 32 - 1), index >> np.uint64(32)],
                     np.uint32)
    expected = np.asarray(threefry_2x32(key, count))
    found = _threefry(key[0], key[1], index)
    assert tuple(expected) == found, (key, index)


@numba.njit(error_model='numpy')
def _draw(s, temperature, uniform):
  memory = simd.borrow(s)
  total = step.softmax_weights(memory, s.logits.max(), temperature)
  return total, step.draw(memory.weights, total, uniform)


def empty_scratch():
  blank = loop._activations(0)
  return step.Scratch(
      32, 0, blank, blank, np.zeros(256, np.float32),
      np.zeros(272, np.float32), np.zeros((1, 3, 4, 16), np.float32),
      np.zeros((1, 3, 5, 16), np.float32), 4, 5, np.zeros(4, np.float32))


def test_draw_is_the_inverse_of_the_cumulative_sum():
  """Equal to the plain definition unless u stands within rounding of a step."""
  rng, s, plain = np.random.default_rng(5), empty_scratch(), 0
  for trial in range(2000):
    temperature = (1.0, 0.7, 0.1)[trial % 3]
    s.logits[:] = rng.standard_normal(256) * rng.choice([0.01, 1, 5])
    u = np.float32(rng.integers(2 ** 24)) * np.float32(2 ** -24)
    total, index = _draw(s, temperature, u)
    exact = np.cumsum(np.exp(
        (s.logits.astype(np.float64) - s.logits.max()) / temperature))
    assert abs(total / exact[-1] - 1) < 1e-6
    expected = min((exact <= u * exact[-1]).sum(), 255)
    near = np.abs(exact / exact[-1] - u).min() < 1e-6
    assert index == expected or near
    plain += index == expected
  assert plain > 1990


@numba.njit(error_model='numpy')
def _draw_weights(array, uniform):
  weights = simd.borrow(array)
  sums = simd_math.running_sum(simd_math.interleave_sum(
      simd_math.interleave_sum(step._sums4(weights, 0), step._sums4(weights, 64)),
      simd_math.interleave_sum(step._sums4(weights, 128), step._sums4(weights, 192))))
  simd.store(weights, 256, sums)
  return step.draw(weights, array[271], uniform)


def test_draw_is_exact_where_sums_are():
  """Whole-number weights, many of them zero: no rounding, no excuse."""
  rng = np.random.default_rng(6)
  for trial in range(2000):
    weights = np.zeros(272, np.float32)
    weights[:256] = rng.integers(0, 9, 256) * (rng.random(256) < rng.random())
    weights[rng.integers(256)] += 1
    total = weights[:256].sum()
    u = np.float32(rng.integers(2 ** 24)) * np.float32(2 ** -24)
    if trial % 4 == 0:
      u = np.float32(rng.integers(total)) / np.float32(total)
    expected = min((np.cumsum(weights[:256]) <= np.float32(u * total)).sum(), 255)
    assert _draw_weights(weights, u) == expected
