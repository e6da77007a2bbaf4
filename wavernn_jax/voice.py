"""A voice: a model with its weights, from a run or from an export."""

import functools

from wavernn_jax import models
from wavernn_jax.config import Config
from wavernn_jax.models.system import System


class Voice:
  """What `checkpoints.load` reads from a run and `export.read` from a file.

  Attributes:
    config: of the run.
    params: of the model, a nested dict of numpy arrays; pruned weights are zero.
    masks: a tree of the same keys: None where nothing is pruned, else the blocks that
      are kept (pruning.py).
    identity: a text that no other weights have.
    packed: the export.Export of a file, None for a run.
  """

  packed = None

  def __init__(self, config: Config, params, masks, identity: str):
    self.config, self.params, self.masks, self.identity = config, params, masks, identity

  @functools.cached_property
  def model(self) -> System:
    """The model that the parameters belong to."""
    return models.build(self.config)
