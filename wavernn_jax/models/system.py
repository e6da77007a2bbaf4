"""The interface of models to their callers: training, evaluation and the engines.

A model is a set of functions of parameters and state; it owns neither. The numbers of
samples and frames that a caller must know are in its `Timing`. What a state holds is
private to the model: callers take it, keep it and hand it back.
"""

import dataclasses
import typing

from wavernn_jax.config import MelConfig, ModelConfig


@dataclasses.dataclass(frozen=True)
class Timing:
  """The samples and frames that a model needs around a block, and how late its audio comes.

  margin: mel frames before the first and after the last one of a block that matter to it.
  lanes: S, samples of a step; lane s has the samples s, s + S, .. (§4). 1 without lanes.
  past: samples before a crop that it needs.
  ahead: samples after a crop or block that its likelihood needs.
  delay: samples by which the output of `sample` is late: it begins with that many samples
    that belong to no utterance.
  lag: further frames before the margin that `sample` needs because of the delay.
  """

  margin: int
  lanes: int = 1
  past: int = 1
  ahead: int = 0
  delay: int = 0
  lag: int = 0

  @property
  def around(self) -> tuple[int, int]:
    """Numbers of frames before and after those of a block that `sample` takes."""
    return self.lag + self.margin, self.margin


class System(typing.Protocol):
  """A model. Parameters are a nested dict of arrays, states a dict of them.

  Nats are {'coarse': .., 'fine': ..}, for the high and the low byte of a sample. Pcm is
  int16; mels are log mels in the convention `mel`. An utterance is surrounded by silence.
  """

  config: ModelConfig
  mel: MelConfig

  @property
  def timing(self) -> Timing:
    ...

  def frames(self, samples: int) -> int:
    """Frames F for `samples` samples from a frame boundary on, `margin` included on both sides."""

  def init(self, seed: int):
    """Parameters drawn from a seed, float32."""

  def initial_state(self, batch: int):
    """The state of `nats` and `loss` at the start of an utterance."""

  def crop_state(self, past_BxN):
    """The state of `nats` and `loss` at the start of a crop, given the `past` samples before it."""

  def sampling_state(self, batch: int):
    """The state of `sample` at the start of an utterance."""

  def ended(self, state, end_B):
    """The state of `sample`, told the total number of samples of each utterance.

    It is for models that draw out of order: beyond the end they see silence.
    """

  def nats(self, params, state, pcm_BxT, mel_BxFxM):
    """Teacher-forced negative log-likelihood of each sample, and the state after them.

    Args:
      params: from `init`.
      state: from `initial_state`, `crop_state` or the previous call.
      pcm_BxT: samples from a frame boundary on, and `ahead` more.
      mel_BxFxM: `frames(T)` frames around them; T does not count the samples ahead.

    Returns:
      Nats/sample BxT of each byte, in audio order, and the next state.
    """

  def loss(self, params, state, pcm_BxT, mel_BxFxM, burn_in: int = 0, input_noise=None):
    """Means of `nats` over all samples but the first `burn_in`, in a form fast to differentiate.

    Args:
      params, state, pcm_BxT, mel_BxFxM: as for `nats`.
      burn_in: first samples of each crop that carry no loss.
      input_noise: None, or noise TxBx3 added to the scaled bytes that are fed in.
    """

  def sample(self, params, state, mel_BxFxM, keys_Bx2, temperatures, samples: int,
             unroll: int = 1):
    """Draws the next samples of each utterance.

    Args:
      params: of `init`.
      state: of `sampling_state` or a previous call.
      mel_BxFxM: `frames(samples)` frames and `lag` frames before them.
      keys_Bx2: uint32 (seed, utterance): with the sample index they determine every draw.
      temperatures: (coarse, fine); 0 takes the most probable value.
      samples: how many, T.
      unroll: steps made by one turn of the compiled loop.

    Returns:
      int16 BxT, the samples of `delay` samples ago, and the next state.

    Raises:
      ValueError: if the model cannot draw so many at a time.
    """
