"""What every model is to its callers: training, evaluation and the engines that sample it.

A model is a set of functions of parameters and state; it owns neither. Numbers of samples
and frames that a caller must know stand in its `Timing`. Which entries a state has is the
model's own affair: callers take it, keep it and hand it back.
"""

import dataclasses
import typing

from wavernn_jax.config import MelConfig, ModelConfig


@dataclasses.dataclass(frozen=True)
class Timing:
  """Which samples and frames a model takes beside those of a block, and what it owes.

  margin: mel frames before the first and after the last of a block that it depends on.
  lanes: S, samples of a step; lane s has the samples s, s + S, .. (§4). 1 without lanes.
  past: samples before a crop that it takes.
  ahead: samples after a crop or block that its likelihood takes.
  delay: samples by which those of `sample` are late: the first so many belong to no
    utterance.
  lag: frames before the margin that `sample` takes on account of that.
  """

  margin: int
  lanes: int = 1
  past: int = 1
  ahead: int = 0
  delay: int = 0
  lag: int = 0

  @property
  def around(self) -> tuple[int, int]:
    """Frames before and after those of a block that `sample` takes."""
    return self.lag + self.margin, self.margin


class System(typing.Protocol):
  """A model. Parameters are a nested dict of arrays, states a dict of them.

  Nats are {'coarse': .., 'fine': ..}, of the high and the low byte of a sample. Pcm is
  int16, mels are log mels in the convention `mel`. Silence surrounds an utterance.
  """

  config: ModelConfig
  mel: MelConfig

  @property
  def timing(self) -> Timing:
    ...

  def frames(self, samples: int) -> int:
    """Frames F of so many samples from a frame boundary on, with `margin` on both sides."""

  def init(self, seed: int):
    """Parameters drawn from a seed, float32."""

  def initial_state(self, batch: int):
    """The state of `nats` and `loss` at the start of an utterance."""

  def crop_state(self, past_BxN):
    """The same at the start of a crop that `past` samples are known to precede."""

  def sampling_state(self, batch: int):
    """The state of `sample` at the start of an utterance."""

  def ended(self, state, end_B):
    """The state of `sample`, told how many samples the utterances have in all.

    For models that draw out of order: what lies beyond is silence to them.
    """

  def nats(self, params, state, pcm_BxT, mel_BxFxM):
    """Teacher-forced negative log-likelihood of each sample, and the state after them.

    Args:
      params: of `init`.
      state: of `initial_state`, `crop_state` or a previous call.
      pcm_BxT: samples from a frame boundary on, and `ahead` more.
      mel_BxFxM: `frames(T)` frames around them, T without those ahead.

    Returns:
      Nats/sample BxT of each byte, in audio order, and the next state.
    """

  def loss(self, params, state, pcm_BxT, mel_BxFxM, burn_in: int = 0, input_noise=None):
    """Means of `nats` over all samples but the first `burn_in`, fast to differentiate.

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
