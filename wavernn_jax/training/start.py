"""The weights that a new run begins with: random, or from another run or an export."""

import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import models
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import export as export_lib
from wavernn_jax.training import checkpoints, step as step_lib


def first_state(config: Config):
  """The train state before the first step.

  Blocks that are pruned in `config.init_from` are pruned from the start.

  Raises:
    InputError: as `read`.
  """
  if not config.init_from:
    return step_lib.initial_state(models.build(config).init(config.train.seed), config)
  params, masks = read(config)
  state = step_lib.initial_state(params, config)
  return state | {'masks': _kept_pruned(state['masks'], masks, params, config)}


def read(config: Config):
  """The weights and masks of `config.init_from`, a run or an export.

  Raises:
    InputError: if it is neither, damaged, or of another model or mel convention.
  """
  source = pathlib.Path(config.init_from)
  if not source.exists():
    raise InputError(f'--config.init_from={source}: there is no such file or folder; expected '
                     'a run, or a .safetensors file that --mode=export has written.')
  try:
    if source.is_file():
      voice = export_lib.read(source)
      checkpoints.check_same_model(source, voice.config, config)
    else:
      voice = checkpoints.load(source, config)
    return jax.tree.map(jnp.asarray, voice.params), voice.masks
  except InputError as error:
    raise InputError(f'--config.init_from={source}: {error}') from error


def _kept_pruned(masks, source, params, config: Config):
  """The masks of this run, without the blocks that are pruned in the source."""
  lost = []

  def one(path, leaf, mask, found):
    if found is None:
      return mask
    if mask is None:
      if not np.all(found):
        lost.append('.'.join(key.key for key in path))
      return None
    return mask & _in_blocks(np.asarray(found), leaf.shape, mask.shape)

  kept = jax.tree_util.tree_map_with_path(
      one, params, masks, source, is_leaf=lambda leaf: leaf is None)
  if lost:
    warnings.warn(f'--config.init_from={config.init_from}: {", ".join(lost)} are pruned there and '
                  'become dense here; set --config.pruning.… to keep them sparse.', stacklevel=2)
  return kept


def _in_blocks(mask, shape, blocks):
  """A mask in the given number of blocks, true where a block keeps any weight."""
  for axis, (n, count) in enumerate(zip(shape, mask.shape, strict=True)):
    mask = np.repeat(mask, n // count, axis=axis)
  rows, columns = blocks
  return jnp.asarray(mask.reshape(
      rows, shape[0] // rows, columns, shape[1] // columns).any(axis=(1, 3)))
