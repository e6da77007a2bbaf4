"""The models, all with the interface of `wavernn.WaveRNN`."""

from wavernn_jax.config import Config
from wavernn_jax.models import fused, subscale, wavenet, wavernn


def build(config: Config):
  """The model that a configuration describes."""
  kinds = {'wavernn': wavernn.WaveRNN, 'subscale': subscale.Subscale, 'fused': fused.Fused,
           'wavenet': wavenet.WaveNet}
  return kinds[config.model.kind](config.model, config.mel)
