"""What models have in common that draw one sample after another: plain WaveRNN and WaveNet."""

import dataclasses

import jax.numpy as jnp

from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import conditioning
from wavernn_jax.models.system import Timing


@dataclasses.dataclass(frozen=True, eq=False)
class InOrder:
  """The part of a System (system.py) that does not depend on the network.

  Its state is a dict: `pcm` BxN, the last `past` int16 samples; `index` B, the number of
  samples before the next one; and what `_network_state` adds. Subclasses have `hearing`:
  what their steps hear, and what is coded.
  """

  config: ModelConfig
  mel: MelConfig

  @property
  def timing(self) -> Timing:
    return Timing(margin=conditioning.margin(self.config) + 1, past=self.hearing.past)

  def frames(self, samples: int) -> int:
    """Frames F that `samples` samples from a frame boundary need, margin included."""
    return conditioning.frames(samples, self.config, self.mel)

  def initial_state(self, batch: int):
    """The state at the start of an utterance: silence, and a network that heard nothing."""
    return self.crop_state(jnp.zeros((batch, self.timing.past), jnp.int16))

  def crop_state(self, past_BxN):
    """The state at the start of a crop that `past` samples are known to precede."""
    batch = len(past_BxN)
    return {**self._network_state(batch), 'pcm': past_BxN[:, -self.timing.past:],
            'index': jnp.zeros((batch,), jnp.uint32)}

  def sampling_state(self, batch: int):
    """The state of `sample` at the start of an utterance."""
    return self.initial_state(batch)

  def ended(self, state, end_B):
    """The state itself: these models do not look ahead, so the end does not matter to them."""
    del end_B
    return state

  def _network_state(self, batch: int):
    """What the network remembers at the start, a dict."""
    raise NotImplementedError

  def heard_of(self, state, pcm_BxT):
    """What a state keeps of the samples before it, after some more."""
    pcm_BxN = jnp.concatenate([state['pcm'], pcm_BxT], axis=1)
    return {'pcm': pcm_BxN[:, -self.timing.past:], 'index': state['index'] + pcm_BxT.shape[1]}
