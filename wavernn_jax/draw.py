"""Random numbers that depend on (seed, utterance, sample index) and on nothing else.

The generator is Threefry-2x32 (Salmon et al., 2011) with key (seed, utterance)
and counter (sample index, 0): one evaluation gives the two 32-bit words that
draw the coarse and the fine byte of that sample, whatever the chunking, the
batch or the engine. Where a sample takes more than two numbers, counter
(sample index, n) gives the n-th further pair.
"""

import jax
from jax.extend import random as jex_random
import jax.numpy as jnp
import numpy as np

_BLOCK = 16  # 256 values are summed as 16 blocks of 16


def keys(seed: int, utterances) -> np.ndarray:
  """Keys Bx2 of utterances, which are integers in [0, 2³²)."""
  utterances = np.asarray(utterances, np.uint32)
  return np.stack([np.full_like(utterances, seed), utterances], axis=-1)


def uniforms(keys_Bx2, index_B, samples: int):
  """Uniform numbers in [0, 1), Tx2xB, for samples index .. index + T − 1 of each row."""
  return uniforms_at(keys_Bx2, index_B + jnp.arange(samples, dtype=jnp.uint32)[:, None])


def uniforms_at(keys_Bx2, index_TxB, draws: int = 2):
  """`uniforms` at any samples of each row, uint32 TxB; an even number of draws for each."""
  def row(key, index_T):
    low, high = jnp.meshgrid(index_T, jnp.arange(draws // 2, dtype=jnp.uint32), indexing='ij')
    words = jex_random.threefry_2x32(key, jnp.stack([low, high]).ravel())
    return words.reshape(2, -1).T.reshape(-1, draws)
  words_BxTxN = jax.vmap(row, (0, 1))(jnp.asarray(keys_Bx2), index_TxB)
  return (words_BxTxN >> 8).transpose(1, 2, 0).astype(jnp.float32) * jnp.float32(2 ** -24)


def categorical(logits_BxV, uniform_B, temperature):
  """Inverts the cumulative distribution: an int32 value in [0, V) for each row.

  The value is the number of cumulative sums not above uniform · total. The
  sums are formed blockwise with small triangular products, which inside a scan
  cost a fraction of `jnp.cumsum`. Temperature 0 takes the most probable value.
  """
  # 1e6 instead of 1/0: only values within 1e-5 nats of the maximum stay possible.
  inverse = jnp.where(temperature > 0, 1 / jnp.maximum(temperature, 1e-6), 1e6)
  peak = logits_BxV.max(axis=-1, keepdims=True)
  p = jnp.exp((logits_BxV - peak) * inverse).reshape(logits_BxV.shape[0], -1, _BLOCK)
  upto = jnp.triu(jnp.ones((_BLOCK, _BLOCK), p.dtype))
  inside = jnp.matmul(p, upto, precision='highest')
  before = jnp.matmul(inside[..., -1], jnp.triu(jnp.ones_like(upto, shape=(p.shape[1],) * 2), 1),
                      precision='highest')
  cumulative = before[..., None] + inside
  threshold = uniform_B * cumulative[:, -1, -1]
  below = (cumulative <= threshold[:, None, None]).sum(axis=(1, 2))
  return jnp.minimum(below, logits_BxV.shape[-1] - 1).astype(jnp.int32)
