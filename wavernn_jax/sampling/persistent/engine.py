"""The persistent kernels as an engine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, draw, likelihood, rules
from wavernn_jax.errors import InputError
from wavernn_jax.models import prediction, wavernn
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.sampling.persistent import checks, chips, driver, lanes, operands as operands_lib
from wavernn_jax.voice import Voice

PLATFORMS = ('gpu', 'cuda', 'tpu')


# There is no kernel for the model, the chip cannot hold it, or the kernel cannot be compiled
# or does not compute what the model does.
UNUSABLE = (rules.Unsuited, chips.DoesNotFit, checks.CheckFailed, driver.CudaError,
            jax.errors.JaxRuntimeError)


def start(voice: Voice, temperatures=(1.0, 1.0), weights: str = 'bfloat16', batch: int = 1):
  """The persistent kernel for a batch, compiled and checked against the model.

  Args:
    voice: of a run or an export.
    temperatures: as of `Sampler`.
    weights: type of the recurrent and output matrices: float32, bfloat16 or int8.
    batch: utterances at a time.

  Returns:
    A `Sampler`, or `lanes.Sampler` for a subscale model.

  Raises:
    InputError: if the machine has no chip for which there is a kernel.
    UNUSABLE: if there is one, but the kernel cannot be used.
  """
  backend = jax.default_backend()
  if backend not in PLATFORMS:
    raise InputError(f'--engine=pallas: found the platform {backend!r}, expected an NVIDIA GPU or '
                     "a TPU (is JAX installed with its extra 'cuda12', 'cuda13' or 'tpu'?); use "
                     '--engine=scan, or --engine=cpu.')
  rules.check_suits(voice.config, 'persistent')
  kind = {'wavernn': Sampler, 'subscale': lanes.Sampler}[voice.config.model.kind]
  sampler = kind(voice.model, voice.params, open_chip(voice, weights), temperatures,
                 voice.config.evaluation.block_frames)
  sampler.warm_up(batch)
  sampler.check(batch, checks.rounded(voice.params, weights))
  return sampler


def open_chip(voice: Voice, weights: str):
  """The kernel for the machine's accelerator, of chips.py.

  Raises:
    InputError, CudaError: as of chips.py.
  """
  model = voice.model
  if jax.default_backend() == 'tpu':
    # The kernel takes the gate inputs of a frame together; lanes have them for each sample.
    hop = model.mel.hop if model.timing.lanes == 1 else 1
    return chips.Tpu(voice.params, weights, hop, taps=operands_lib.taps(model))
  return chips.Cuda(voice.params, weights, voice.masks, taps=operands_lib.taps(model))


class Sampler(Engine):
  """A model without lanes on a chip. States are those of models/wavernn.py."""

  name = 'pallas'

  def __init__(self, model, params, chip, temperatures=(1.0, 1.0), block_frames: int = 16):
    """Args:
      model: of wavernn_jax.models.
      params: its parameters; those of conditioning, and the prior of a prediction, are used.
      chip: of chips.py, with the weights.
      temperatures: of the coarse and the fine byte; 0 takes the most probable.
      block_frames: frames a call.
    """
    self.model, self.block_frames = model, block_frames
    self._chip, self._temperatures = chip, np.asarray(temperatures, np.float32)
    self._params = {name: params[name] for name in ('conditioning', 'prior') if name in params}
    self._positions = operands_lib.frame_positions(model.mel)
    self._run = jax.jit(self._block, static_argnames=('frames', 'batch'))
    self._coded = jax.jit(functools.partial(coded, model))
    self._weights = functools.cache(lambda batch: jax.device_put(chip.weights(batch)))

  def initial_state(self, batch: int):
    return self.model.sampling_state(batch)

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    """As of Engine.

    Raises:
      RuntimeError: if the kernel gave up.
    """
    pcm, state, _ = self.run(state, mel_BxFxM, keys_Bx2, self.block_frames)
    return pcm, state

  def score(self, state, pcm_BxN, mel_BxFxM):
    """As of Engine, a frame at a time: the logits of many would fill the memory."""
    hop, window, made = self.model.mel.hop, 1 + 2 * self.model.timing.margin, []
    keys = draw.keys(0, range(len(pcm_BxN)))
    for frame in range(pcm_BxN.shape[1] // hop):
      pcm = pcm_BxN[:, frame * hop:(frame + 1) * hop]
      mel = mel_BxFxM[:, frame:frame + window]
      targets_TxBx2 = np.stack(self._coded(state, pcm, mel), axis=-1)
      _, state, logits_TxBx2xV = self.run(state, mel, keys, 1, pcm)
      made.append(np.asarray(likelihood.categorical_nats(logits_TxBx2xV, targets_TxBx2)))
    nats_TxBx2 = np.concatenate(made)
    return {byte: nats_TxBx2[..., side].T for side, byte in enumerate(wavernn.BYTES)}, state

  def run(self, state, mel_BxFxM, keys_Bx2, frames: int, forced_BxT=None):
    """`next_block` of any number of frames, and optionally teacher-forced.

    Args:
      forced_BxT: None, or int16 samples taken in place of those drawn.

    Returns:
      int16 BxT, the next state, and with `forced_BxT` the logits TxBx2xV, else None.
    """
    batch = len(mel_BxFxM)
    streams = self._chip.fit(batch)
    pieces = []
    for first in range(0, batch, streams):
      # Streams are filled up with copies of the last utterance.
      which = np.minimum(np.arange(first, first + streams), batch - 1)
      pick = functools.partial(jax.tree.map, lambda a, which=which: np.asarray(a)[which])
      pieces.append(self._run(
          self._weights(batch), self._params, pick(state), pick(mel_BxFxM), pick(keys_Bx2),
          self._temperatures, pick(forced_BxT), frames=frames, batch=batch))
    if any(bool(failed) for *_, failed in pieces):
      raise RuntimeError('--engine=pallas: the multiprocessors of the GPU got out of step; use '
                         '--engine=scan, and report this.')
    pcm = np.concatenate([piece[0] for piece in pieces])[:batch]
    h = jnp.concatenate([piece[1] for piece in pieces])[:batch]
    known = np.concatenate([state['pcm'], pcm], axis=1)
    after = {'h': h, 'pcm': known[:, -self.model.timing.past:],
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
    shape = batch, 1 + 2 * self.model.timing.margin, mel.bands
    frames = np.random.default_rng(0).uniform(audio.mel_floor(mel), 0, shape).astype(np.float32)
    pcm, _, _ = self.run(state, frames, keys, 1)
    _, _, found = self.run(state, frames, keys, 1, pcm)
    expected = jax.jit(functools.partial(reference_logits, self.model, dtype=self._chip.dtype))(
        params, state, pcm, frames)
    uniform = draw.uniforms(keys, state['index'], pcm.shape[1])
    predicted = prediction.encode(
        pcm.T, audio.join_bytes(*self._coded(state, pcm, frames)).astype(np.int32))
    return checks.compare(found, expected, pcm.T, uniform, self._temperatures,
                          self._chip.tolerance, predicted)

  def _block(self, weights, params, state, mel_BxFxM, keys_Bx2, temperatures, forced_BxT,
             *, frames, batch):
    gates, uniform, h = operands_lib.inputs(
        params['conditioning'], state, mel_BxFxM, keys_Bx2, frames, self.model, self._chip.multiple)
    pcm, h, logits, failed = self._chip.call(
        batch, weights, gates, uniform, h, state['pcm'][:, -1], self._positions, temperatures,
        forced_BxT, filters=operands_lib.filters(params, state, mel_BxFxM, self.model))
    return pcm, operands_lib.crop_halves(h, self.model.config.units // 2), logits, failed


def reference_logits(model, params, state, pcm_BxT, mel_BxFxM, dtype):
  """Teacher-forced logits TxBx2xV of the model, with products of inputs of a type."""
  x_TxBxH, heard = model.gate_inputs(params, state, pcm_BxT, mel_BxFxM)
  return checks.forced_logits(model, params, jnp.asarray(state['h']), x_TxBxH, dtype,
                              priors=model.priors(params, heard.scale, heard.targets['coarse']))


def coded(model, state, pcm_BxT, mel_BxFxM):
  """The bytes TxB that are coded of given samples."""
  pcm_BxN = jnp.concatenate([state['pcm'], pcm_BxT], axis=1)
  targets = model.hearing.sequence(pcm_BxN, mel_BxFxM).targets
  return [targets[byte] for byte in wavernn.BYTES]
