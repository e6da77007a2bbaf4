"""The persistent kernels as a sampler of mel frames, with the interface of scan.Sampler."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, draw
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import scan
from wavernn_jax.sampling.persistent import checks, chips, driver, lanes, operands as operands_lib

TYPES = ('float32', 'bfloat16', 'int8')
PLATFORMS = ('gpu', 'cuda', 'tpu')


def open_sampler(model, params, temperatures=(1.0, 1.0), block_frames: int = 16,
                 weights: str = 'bfloat16', batch: int = 1):
  """The persistent kernel for a batch, compiled and checked against the model.

  Args:
    model: of wavernn_jax.models.
    params: its parameters.
    temperatures, block_frames: as of `Sampler`.
    weights: type of the recurrent and output matrices, one of `TYPES`.
    batch: utterances at a time.

  Returns:
    A `Sampler`, or `lanes.Sampler` for a subscale model; or, with a warning that says
    why, the scan sampler: if the chip cannot hold the model, or the kernel is not
    compiled or computes wrongly.

  Raises:
    InputError: if there is no chip, or no kind of model, for which there is a kernel.
  """
  backend = jax.default_backend()
  if backend not in PLATFORMS:
    raise InputError(f'--engine=pallas: found the platform {backend!r}, expected an NVIDIA GPU or '
                     "a TPU (is JAX installed with its extra 'cuda12', 'cuda13' or 'tpu'?); use "
                     '--engine=scan, or --engine=cpu.')
  kinds = {'wavernn': Sampler, 'subscale': lanes.Sampler}
  if model.config.kind not in kinds:
    raise InputError(f'--engine=pallas: found a model of the kind {model.config.kind!r}, expected '
                     f'one of {list(kinds)}; use --engine=scan.')
  try:
    chip = open_chip(model, params, weights)
    sampler = kinds[model.config.kind](model, params, chip, temperatures, block_frames)
    sampler.warm_up(batch)
    sampler.check(batch, checks.rounded(params, weights))
    return sampler
  except (chips.DoesNotFit, checks.CheckFailed, driver.CudaError,
          jax.errors.JaxRuntimeError) as error:
    warnings.warn(f'{error} --engine=scan takes its place.', stacklevel=2)
    return scan.Sampler(model, params, temperatures, block_frames)


def open_chip(model, params, weights: str):
  """The kernel for the machine's accelerator, of chips.py.

  Raises:
    InputError, CudaError: as of chips.py.
  """
  if jax.default_backend() == 'tpu':
    # The kernel takes the gate inputs of a frame together; lanes have them for each sample.
    return chips.Tpu(params, weights, model.mel.hop if model.timing.lanes == 1 else 1)
  return chips.Cuda(params, weights)


class Sampler:
  """A model on a chip, ready to turn mel frames into audio. The caller holds the state.

  The state is that of models/wavernn.py.
  """

  def __init__(self, model, params, chip, temperatures=(1.0, 1.0), block_frames: int = 16):
    """Args:
      model: of wavernn_jax.models.
      params: its parameters; those of conditioning are used.
      chip: of chips.py, with the weights.
      temperatures: of the coarse and the fine byte; 0 takes the most probable.
      block_frames: frames a call; the latency of a stream beyond `lookahead`.
    """
    self.model, self.block_frames = model, block_frames
    self._chip, self._temperatures = chip, np.asarray(temperatures, np.float32)
    self._conditioning = params['conditioning']
    self._positions = operands_lib.frame_positions(model.mel)
    self._run = jax.jit(self._block, static_argnames=('frames', 'batch'))
    self._weights = functools.cache(lambda batch: jax.device_put(chip.weights(batch)))

  @property
  def lookahead(self) -> int:
    """Frames after a block that must be known before it is made."""
    return self.model.timing.margin

  def initial_state(self, batch: int):
    return self.model.initial_state(batch)

  def warm_up(self, batch: int) -> None:
    """Compiles for a batch size."""
    mel = self.model.mel
    frames = np.zeros((batch, self.block_frames + 2 * self.lookahead, mel.bands), np.float32)
    self.next_block(self.initial_state(batch), frames, draw.keys(0, range(batch)))

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    """(int16 B x block·hop, next state) from block frames and the context around them.

    Raises:
      RuntimeError: if the kernel gave up.
    """
    pcm, state, _ = self.run(state, mel_BxFxM, keys_Bx2, self.block_frames)
    return pcm, state

  def run(self, state, mel_BxFxM, keys_Bx2, frames: int, forced_BxT=None):
    """`next_block` of any number of frames, and optionally teacher-forced.

    Args:
      forced_BxT: None, or int16 samples taken in place of those drawn.

    Returns:
      int16 BxT, the next state, and with `forced_BxT` the logits TxBx2xV, else None.
    """
    batch = len(mel_BxFxM)
    lanes = self._chip.fit(batch)
    pieces = []
    for first in range(0, batch, lanes):
      # Lanes are filled up with copies of the last utterance.
      which = np.minimum(np.arange(first, first + lanes), batch - 1)
      pick = functools.partial(jax.tree.map, lambda a, which=which: np.asarray(a)[which])
      pieces.append(self._run(
          self._weights(batch), self._conditioning, pick(state), pick(mel_BxFxM), pick(keys_Bx2),
          self._temperatures, pick(forced_BxT), frames=frames, batch=batch))
    if any(bool(failed) for *_, failed in pieces):
      raise RuntimeError('--engine=pallas: the multiprocessors lost one another; report it, and '
                         'use --engine=scan.')
    pcm = np.concatenate([piece[0] for piece in pieces])[:batch]
    h = jnp.concatenate([piece[1] for piece in pieces])[:batch]
    after = {'h': h, 'pcm': pcm[:, -1:],
             'index': np.asarray(state['index']) + np.uint32(pcm.shape[1])}
    logits = None if forced_BxT is None else np.concatenate(
        [piece[2] for piece in pieces], axis=1)[:, :batch]
    return pcm, after, logits

  def check(self, batch: int, params) -> dict[str, float]:
    """Compares one frame with the model: log-probabilities, and draws.

    Args:
      batch: utterances at a time.
      params: of the model, as `checks.rounded` gives them.

    Returns:
      nats, the greatest difference of a log-probability; draws, the share that
      equals those of draw.categorical.

    Raises:
      checks.CheckFailed: if they disagree.
    """
    mel, keys, state = self.model.mel, draw.keys(0, range(batch)), self.initial_state(batch)
    shape = batch, 1 + 2 * self.lookahead, mel.bands
    frames = np.random.default_rng(0).uniform(audio.mel_floor(mel), 0, shape).astype(np.float32)
    pcm, _, _ = self.run(state, frames, keys, 1)
    _, _, found = self.run(state, frames, keys, 1, pcm)
    expected = jax.jit(functools.partial(reference_logits, self.model, dtype=self._chip.dtype))(
        params, state, pcm, frames)
    uniform = draw.uniforms(keys, state['index'], pcm.shape[1])
    return checks.compare(found, expected, pcm.T, uniform, self._temperatures,
                          self._chip.tolerance)

  def _block(self, weights, conditioning, state, mel_BxFxM, keys_Bx2, temperatures, forced_BxT,
             *, frames, batch):
    gates, uniform, h = operands_lib.inputs(
        conditioning, state, mel_BxFxM, keys_Bx2, frames, self.model, self._chip.multiple)
    pcm, h, logits, failed = self._chip.call(
        batch, weights, gates, uniform, h, state['pcm'][:, -1], self._positions, temperatures,
        forced_BxT)
    return pcm, operands_lib.crop_halves(h, self.model.config.units // 2), logits, failed


def reference_logits(model, params, state, pcm_BxT, mel_BxFxM, dtype):
  """Teacher-forced logits TxBx2xV of the model, with products of inputs of a type."""
  x_TxBxH, _ = model.gate_inputs(params, state, pcm_BxT, mel_BxFxM)
  return checks.forced_logits(model, params, jnp.asarray(state['h']), x_TxBxH, dtype)
