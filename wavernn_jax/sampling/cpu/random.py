"""Counter-based random numbers for nopython code: threefry2x32 as in jax."""

from numba.extending import register_jitable
import numpy as np


@register_jitable
def _rotate(x, bits):
  return np.uint32((x << np.uint32(bits)) | (x >> np.uint32(32 - bits)))


@register_jitable
def _four_rounds(x0, x1, r0, r1, r2, r3):
  for bits in (r0, r1, r2, r3):
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotate(x1, bits) ^ x0)
  return x0, x1


@register_jitable
def threefry(key0, key1, index):
  """threefry2x32 of 20 rounds of the 64-bit counter `index`: two uint32."""
  key2 = np.uint32(key0 ^ key1 ^ np.uint32(0x1BD11BDA))
  x0 = np.uint32(np.uint32(index & np.uint64(0xFFFFFFFF)) + key0)
  x1 = np.uint32(np.uint32(index >> np.uint64(32)) + key1)
  x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
  x0, x1 = np.uint32(x0 + key1), np.uint32(x1 + key2 + np.uint32(1))
  x0, x1 = _four_rounds(x0, x1, 17, 29, 16, 24)
  x0, x1 = np.uint32(x0 + key2), np.uint32(x1 + key0 + np.uint32(2))
  x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
  x0, x1 = np.uint32(x0 + key0), np.uint32(x1 + key1 + np.uint32(3))
  x0, x1 = _four_rounds(x0, x1, 17, 29, 16, 24)
  x0, x1 = np.uint32(x0 + key1), np.uint32(x1 + key2 + np.uint32(4))
  x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
  return np.uint32(x0 + key2), np.uint32(x1 + key0 + np.uint32(5))


@register_jitable
def uniform(word):
  """The high 24 bits of a random word, in [0, 1)."""
  return np.float32(word >> np.uint32(8)) * np.float32(2.0 ** -24)
