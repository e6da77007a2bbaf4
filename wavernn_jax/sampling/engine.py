"""What every engine is to its callers: streams, batches, evaluation (§2 to §4)."""

import abc
import sys

import numpy as np

from wavernn_jax import draw
from wavernn_jax.models.system import System


class Engine(abc.ABC):
  """Turns mel frames into audio, and audio into nats, a block of frames a call.

  It reads no files. A stream's state is its caller's, who may go on from it with any
  engine of the same model, or hold it. Engines with `params` may be given others of
  the same shapes without compiling anew.

  Attributes:
    name: of --engine.
    model: whose `timing` says which frames a block takes.
    block_frames: frames of a block; the latency of a stream beyond the model's margin.
    at_once: utterances a call beyond which it gains nothing.
  """

  name: str
  model: System
  block_frames: int
  at_once: int = sys.maxsize

  @property
  def latency(self) -> float:
    """Seconds of audio whose mel a stream must know before its first sample comes."""
    mel, timing = self.model.mel, self.model.timing
    frames = self.block_frames + timing.margin
    return (frames * mel.hop + timing.delay) / mel.sample_rate

  @property
  def window(self) -> int:
    """Frames that `next_block` takes: a block's and those around it."""
    return self.block_frames + sum(self.model.timing.around)

  def warm_up(self, batch: int) -> None:
    """Compiles for a batch size, so that the first block is as fast as the rest."""
    frames = np.zeros((batch, self.window, self.model.mel.bands), np.float32)
    self.next_block(self.initial_state(batch), frames, draw.keys(0, range(batch)))

  @abc.abstractmethod
  def initial_state(self, batch: int):
    """The state of `next_block` at the start of utterances."""

  @abc.abstractmethod
  def next_block(self, state, mel_BxFxM, keys_Bx2):
    """Draws a block: int16 B x block·hop, the samples of `delay` samples ago, and the next state.

    Args:
      state: of `initial_state` or a previous call; it may be used up.
      mel_BxFxM: `window` frames, the first `lag` + `margin` of which are before the block.
      keys_Bx2: of `draw.keys`: with the sample index they determine every draw.
    """

  def scoring_state(self, batch: int):
    """The state of `score` at the start of utterances."""
    return self.model.initial_state(batch)

  @abc.abstractmethod
  def score(self, state, pcm_BxN, mel_BxFxM):
    """Teacher-forced nats/sample of a block in the arithmetic of the draws.

    Args:
      state: of `scoring_state` or a previous call.
      pcm_BxN: int16, the samples of the block and `ahead` more.
      mel_BxFxM: its frames, with `margin` more on both sides.

    Returns:
      {'coarse': BxT, 'fine': BxT}, and the next state.
    """
