"""A voice: a model with its weights, whoever made them."""

import functools

from wavernn_jax import models
from wavernn_jax.config import Config
from wavernn_jax.models.system import System


class Voice:
  """What `checkpoints.load` makes of a run and `export.read` of a file.

  Attributes:
    config: of the run.
    params: of the model, a nested dict of numpy arrays; what is pruned is zero.
    masks: a tree of the same keys: None where nothing is pruned, else the blocks that
      are kept (pruning.py).
    identity: tells these weights from all others.
    packed: the export.Export that a file holds, None of a run.
  """

  packed = None

  def __init__(self, config: Config, params, masks, identity: str):
    self.config, self.params, self.masks, self.identity = config, params, masks, identity

  @functools.cached_property
  def model(self) -> System:
    """The model that its parameters are of."""
    return models.build(self.config)
