"""The interface of engines to their callers: streams, batches, evaluation (§2 to §4)."""

import abc
import sys

import numpy as np

from wavernn_jax import draw
from wavernn_jax.models.system import System


class Engine(abc.ABC):
  """Turns mel frames into audio, and audio into nats, one block of frames per call.

  An engine reads no files. The caller keeps the state of a stream, and may continue from
  it with any engine of the same model. An engine with `params` accepts others of the same
  shapes without compiling again.

  Attributes:
    name: its value of --engine.
    model: its `timing` says which frames a block needs.
    block_frames: frames of a block; the latency of a stream beyond the model's margin.
    at_once: the number of utterances beyond which a larger batch is no faster.
  """

  name: str
  model: System
  block_frames: int
  at_once: int = sys.maxsize

  @property
  def latency(self) -> float:
    """Seconds of mel that a stream must have received before its first sample comes out."""
    mel, timing = self.model.mel, self.model.timing
    frames = self.block_frames + timing.margin
    return (frames * mel.hop + timing.delay) / mel.sample_rate

  @property
  def window(self) -> int:
    """Frames that `next_block` takes: those of a block and those around it."""
    return self.block_frames + sum(self.model.timing.around)

  def warm_up(self, batch: int) -> None:
    """Compiles for a batch size, so that the first block is as fast as the others."""
    frames = np.zeros((batch, self.window, self.model.mel.bands), np.float32)
    self.next_block(self.initial_state(batch), frames, draw.keys(0, range(batch)))

  @abc.abstractmethod
  def initial_state(self, batch: int):
    """The state of `next_block` at the start of an utterance."""

  @abc.abstractmethod
  def next_block(self, state, mel_BxFxM, keys_Bx2):
    """Draws a block: int16 B x block·hop, the samples of `delay` samples ago, and the next state.

    Args:
      state: from `initial_state` or the previous call; it may be consumed.
      mel_BxFxM: `window` frames; the first `lag` + `margin` of them precede the block.
      keys_Bx2: from `draw.keys`; with the sample index they determine every draw.
    """

  def scoring_state(self, batch: int):
    """The state of `score` at the start of an utterance."""
    return self.model.initial_state(batch)

  @abc.abstractmethod
  def score(self, state, pcm_BxN, mel_BxFxM):
    """Teacher-forced nats/sample of a block, in the arithmetic in which it samples.

    Args:
      state: from `scoring_state` or the previous call.
      pcm_BxN: int16, the samples of the block and `ahead` more.
      mel_BxFxM: the frames of the block, with `margin` more on both sides.

    Returns:
      {'coarse': BxT, 'fine': BxT}, and the next state.
    """
