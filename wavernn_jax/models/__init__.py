"""The models; system.py documents what they have in common."""

from wavernn_jax.config import Config
from wavernn_jax.models import fused, subscale, wavenet, wavernn
from wavernn_jax.models.system import System


def build(config: Config) -> System:
  """The model that a configuration describes."""
  kinds = {'wavernn': wavernn.WaveRNN, 'subscale': subscale.Subscale, 'fused': fused.Fused,
           'wavenet': wavenet.WaveNet}
  return kinds[config.model.kind](config.model, config.mel)
