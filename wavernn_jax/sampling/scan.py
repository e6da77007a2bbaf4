"""The engine that runs a model's step under `lax.scan`: any model, any backend, any batch."""

import functools

import jax
import numpy as np

from wavernn_jax import backend
from wavernn_jax.sampling.engine import Engine


class ScanEngine(Engine):
  """A model and its parameters. `params` may be replaced by others of the same shapes."""

  name = 'scan'

  def __init__(self, model, params, temperatures=(1.0, 1.0), block_frames: int = 16,
               unroll: int | None = None, donate: bool = False, sample=None):
    """Args:
      model: of wavernn_jax.models.
      params: its parameters.
      temperatures: for the coarse and the fine byte; 0 takes the most probable value.
      block_frames: frames of one call.
      unroll: samples made by one turn of the compiled loop. None stands for 1 on CPUs,
        where more only lengthens the code, and for 4 elsewhere, where each turn has
        a fixed cost (not yet measured on a GPU).
      donate: reuse the memory of the state given to `next_block`, which must not be
        used afterwards. The samples are the same.
      sample: replaces `model.sample`.
    """
    self.model, self.params, self.block_frames = model, params, block_frames
    self._temperatures = np.asarray(temperatures, np.float32)
    unroll = unroll or (1 if jax.default_backend() == 'cpu' else 4)
    self._sample = backend.jit(functools.partial(
        sample or model.sample, samples=block_frames * model.mel.hop, unroll=unroll),
        donate_argnums=(1,) if donate else ())
    self._nats = backend.jit(model.nats)

  def initial_state(self, batch: int):
    return self.model.sampling_state(batch)

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    pcm, state = self._sample(self.params, state, mel_BxFxM, keys_Bx2, self._temperatures)
    return np.asarray(pcm), state

  def score(self, state, pcm_BxN, mel_BxFxM):
    return self._nats(self.params, state, pcm_BxN, mel_BxFxM)
