"""The models; system.py documents what they have in common."""

from wavernn_jax.config import Config
from wavernn_jax.models import (
  fused,
  residual_fused,
  residual_lanes,
  single_head,
  subscale,
  wavenet,
  wavernn,
)
from wavernn_jax.models.system import System


def build(config: Config) -> System:
  """The model that a configuration describes."""
  kinds = {'wavernn': wavernn.WaveRNN, 'subscale': subscale.Subscale, 'fused': fused.Fused,
           'wavenet': wavenet.WaveNet}
  kind = kinds[config.model.kind]
  if config.model.output == 'mixture' and kind is wavernn.WaveRNN:
    kind = single_head.SingleHead
  if config.model.prediction == 'spectral':
    if kind is subscale.Subscale:  # one lane is the plain model
      kind = wavernn.WaveRNN if config.model.lanes == 1 else residual_lanes.ResidualSubscale
    elif kind is fused.Fused:
      kind = residual_fused.ResidualFused
  return kind(config.model, config.mel)
