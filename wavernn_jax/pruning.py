"""§3: magnitude pruning in blocks during training.

Every `interval` steps the blocks of smallest mean magnitude are zeroed, so
that the zero fraction of a matrix follows

    z(t) = Z (1 − (1 − (t − t0) / S)³),    t0 ≤ t ≤ t0 + S.

Masks are a pytree with the keys of the parameters: None where a leaf is not
pruned, else booleans, one for each block. Models meet pruning in `apply_masks` only.

With `regrow` the weights of a pruned block are hidden from the model but kept as they were,
so that it comes back if those of others become smaller.
"""

import math

import jax
import jax.numpy as jnp

from wavernn_jax.config import PruningConfig
from wavernn_jax.errors import InputError


def block_shape(config: PruningConfig) -> tuple[int, int]:
  """(inputs, outputs) of a block, in the order of a kernel's axes.

  The paper's 16×1 is 16 outputs of 1 input.
  """
  return config.block_inputs, config.block_outputs


def targets(params, config: PruningConfig):
  """Final sparsity of each leaf of the parameters, None where it stays dense.

  The three gate matrices are leaves of their own, so each is sorted separately.
  """
  def target(path, _):
    names = [key.key for key in path]
    if names[0] == 'recurrent':
      return config.recurrent or None
    if names[0] == 'outputs' and names[-1] == 'kernel':
      return getattr(config, names[-2]) or None  # 'hidden' or 'output'
    if names in (['conditioning', 'gates', 'kernel'], ['context', 'gates', 'kernel']):
      return config.conditioning or None
    return None
  return jax.tree_util.tree_map_with_path(target, params)


def initial_masks(params, config: PruningConfig):
  """Masks that keep everything.

  Raises:
    InputError: if blocks do not divide a matrix that is to be pruned.
  """
  def mask(path, leaf, sparsity):
    if sparsity is None:
      return None
    size = block_shape(config)
    if any(n % b for n, b in zip(leaf.shape, size, strict=True)):
      raise InputError(
          f'--config.pruning.block_outputs={size[1]}, block_inputs={size[0]}: do not divide '
          f'{"/".join(key.key for key in path)} of {leaf.shape[1]} outputs and '
          f'{leaf.shape[0]} inputs; choose model.units/2, model.projection and, of '
          'subscale models, model.context_channels as multiples of them, or another block.')
    return jnp.ones([n // b for n, b in zip(leaf.shape, size, strict=True)], bool)
  return jax.tree_util.tree_map_with_path(mask, params, targets(params, config))


def pruned_fraction(step, config: PruningConfig):
  """How much of the final sparsity is reached at a step, in [0, 1]."""
  progress = jnp.clip((step - config.start) / config.steps, 0, 1)
  return 1 - (1 - progress) ** 3


def block_scores(leaf, mask):
  """Mean magnitude of each block, of the mask's shape."""
  (inputs, outputs), (rows, columns) = leaf.shape, mask.shape
  blocks = leaf.reshape(rows, inputs // rows, columns, outputs // columns)
  return jnp.abs(blocks).mean(axis=(1, 3))


def smallest_pruned(scores, count):
  """Keeps all blocks but the `count` with the smallest scores; among equals the first go."""
  order = jnp.argsort(scores.ravel(), stable=True)
  kept = jnp.zeros(scores.size, bool).at[order].set(jnp.arange(scores.size) >= count)
  return kept.reshape(scores.shape)


def update_masks(params, masks, step, config: PruningConfig):
  """The masks of a step: updated every `interval` steps, otherwise unchanged.

  Without `regrow` a pruned block stays pruned; with it as many do. The step may be traced,
  so this compiles once.
  """
  def updated():
    def one(leaf, mask, sparsity):
      # Rounded before the schedule scales it, so that the final count is exact.
      final = math.floor(sparsity * mask.size + 0.5)
      count = jnp.round(final * pruned_fraction(step, config)).astype(jnp.int32)
      if config.regrow:
        return smallest_pruned(block_scores(leaf, mask), jnp.maximum(count, (~mask).sum()))
      return mask & smallest_pruned(jnp.where(mask, block_scores(leaf, mask), -1), count)
    return _map(one, params, masks, targets(params, config))

  due = (step % config.interval == 0) & (step >= config.start) & (step <= _final_update(config))
  return jax.lax.cond(due, updated, lambda: masks)


def last_change(step, config: PruningConfig):
  """The last step up to `step` at which masks may have changed; 0 if there was none."""
  if not any((config.recurrent, config.hidden, config.output, config.conditioning)):
    return jnp.zeros_like(step)
  latest = jnp.minimum(step, _final_update(config)) // config.interval * config.interval
  return jnp.where(latest >= config.start, latest, 0)


def _final_update(config: PruningConfig) -> int:
  """The step at which masks are updated for the last time."""
  return -(-(config.start + config.steps) // config.interval) * config.interval


def stored(params, masks, config: PruningConfig):
  """The weights that training goes on with: pruned blocks are zero, or as they were."""
  return params if config.regrow else apply_masks(params, masks)


def apply_masks(params, masks):
  """The parameters with every pruned block exactly zero."""
  def one(leaf, mask):
    for axis, (n, blocks) in enumerate(zip(leaf.shape, mask.shape, strict=True)):
      mask = jnp.repeat(mask, n // blocks, axis=axis)
    return jnp.where(mask, leaf, 0)
  return _map(one, params, masks, otherwise=lambda leaf: leaf)


def count_parameters(params, masks) -> int:
  """Parameters that are not pruned, biases and conditioning included."""
  def one(leaf, mask):
    return int(mask.sum()) * (leaf.size // mask.size)
  counts = _map(one, params, masks, otherwise=lambda leaf: leaf.size)
  return sum(jax.tree.leaves(counts))


def _map(function, params, masks, *rest, otherwise=lambda leaf: None):
  """Maps over pruned leaves with their masks, and `otherwise` over the others."""
  return jax.tree.map(
      lambda mask, leaf, *more: otherwise(leaf) if mask is None else function(
          leaf, mask, *more),
      masks, params, *rest, is_leaf=lambda node: node is None)
