"""Packing of block-sparse matrices, and back."""


import numpy as np
import pytest

from wavernn_jax.sampling import blocksparse
from wavernn_jax.sampling.cpu import layout

DTYPES = list(blocksparse.DTYPES)
BLOCKS = list(blocksparse.SHAPES)
HOP = 7


@pytest.mark.parametrize('dtype,error', [
    ('float32', 0), ('bfloat16', 2 ** -8), ('int8', 0.5 / 127 * 4.5)])
@pytest.mark.parametrize('block', BLOCKS)
def test_unpack_inverts_pack(dtype, block, error):
  rng = np.random.default_rng(3)
  dense = rng.standard_normal((64, 32)).astype(np.float32)
  mask = rng.random((64 // block[0], 32 // block[1])) < 0.4
  kept = np.kron(mask, np.ones(block))
  found = blocksparse.unpack(blocksparse.pack(dense, block, dtype, mask))
  assert (found[kept == 0] == 0).all()
  np.testing.assert_allclose(found, dense * kept, atol=error * 4, rtol=error)


@pytest.mark.parametrize('block', BLOCKS)
def test_int8_has_a_scale_for_each_output(block):
  """A large output costs its neighbours in a block no precision."""
  dense = np.random.default_rng(4).standard_normal((32, 16)).astype(np.float32)
  dense[::4] *= 1000
  packed = blocksparse.pack(dense, block, 'int8')
  np.testing.assert_allclose(packed.scales, np.abs(dense).max(axis=1) / 127, rtol=1e-6)
  error = np.abs(blocksparse.unpack(packed) - dense)
  assert (error <= 0.5001 * packed.scales[:, None]).all()


def test_pack_refuses_what_it_cannot_hold():
  with pytest.raises(ValueError, match='do not divide'):
    blocksparse.pack(np.zeros((24, 8)), (16, 1))
  with pytest.raises(ValueError, match='mask of shape'):
    blocksparse.pack(np.zeros((32, 8)), (16, 1), mask=np.ones((32, 8), bool))
  with pytest.raises(ValueError, match='float16'):
    blocksparse.pack(np.zeros((32, 8)), (16, 1), 'float16')
  with pytest.raises(ValueError, match='multiple of 16'):
    layout.stream(blocksparse.pack(np.zeros((20, 8)), (4, 4)))
