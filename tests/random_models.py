"""Random models for tests."""

import jax
import numpy as np

from wavernn_jax import models, pruning
from wavernn_jax.sampling import blocksparse
from wavernn_jax.sampling.cpu import layout


def weights(units=64, projection=32, density=0.3, dtype='float32',
            block=(16, 1), seed=0):
  """A small random model; density 1 keeps all blocks."""
  rng = np.random.default_rng(seed)

  def matrix(outputs, inputs, scale):
    shape = outputs // block[0], inputs // block[1]
    mask = rng.random(shape) < density
    dense = rng.standard_normal((outputs, inputs))
    dense *= scale / np.sqrt(inputs * density)
    return blocksparse.pack(dense, block, dtype, mask)

  half = units // 2
  return layout.Weights(
      tuple(matrix(units, units, 1.0) for _ in range(3)),
      tuple(matrix(projection, half, 2.0) for _ in range(2)),
      0.1 * rng.standard_normal((2, projection)),
      tuple(matrix(256, projection, 2.0) for _ in range(2)),
      0.1 * rng.standard_normal((2, 256)),
      rng.standard_normal((2, 3, units)), rng.standard_normal((3, half)))


def frames(units, count=6, seed=1):
  """Gate inputs at frame rate."""
  rng = np.random.default_rng(seed)
  return (0.5 * rng.standard_normal((count, 3 * units))).astype(np.float32)


def pruned_run(config, seed=0):
  """Parameters and masks as training leaves them, as if finished.

  The weights are so large that every input moves every later draw.
  """
  rng = np.random.default_rng(seed)
  scale = {'conditioning': 0.6, 'recurrent': 1, 'previous': 0.1, 'coarse': 0.1, 'outputs': 1.5}
  shapes = jax.eval_shape(lambda: models.build(config).init(0))
  params = {name: jax.tree.map(
      lambda a, s=scale[name]: np.float32(s * rng.standard_normal(a.shape) / np.sqrt(len(a))),
      tree) for name, tree in shapes.items()}
  masks = jax.tree.map(lambda mask: rng.random(mask.shape) < 0.5,
                       pruning.initial_masks(params, config.pruning))
  return jax.tree.map(np.asarray, pruning.apply_masks(params, masks)), masks
