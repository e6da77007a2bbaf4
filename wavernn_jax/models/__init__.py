"""The models, all with the interface of `wavernn.WaveRNN`."""

from wavernn_jax.config import Config
from wavernn_jax.models import wavernn


def build(config: Config):
  """The model that a configuration describes."""
  return wavernn.WaveRNN(config.model, config.mel)
