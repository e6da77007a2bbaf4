"""Synthesis by the jitted step under `lax.scan`: any backend, any batch, streaming.

Audio is made in blocks of a fixed number of frames. A block is one call of one
compiled function whatever the chunks in which the mel arrives, so a stream is
sample-identical to the whole-utterance call.
"""

import functools

import jax
import numpy as np

from wavernn_jax import audio, backend, draw


class Sampler:
  """A model and its parameters, ready to turn mel frames into audio.

  The state of a stream is the caller's. `params` may be replaced by others of
  the same shapes without compiling anew.
  """

  def __init__(self, model, params, temperatures=(1.0, 1.0), block_frames: int = 16,
               unroll: int | None = None, donate: bool = False, sample=None):
    """Args:
      model: of wavernn_jax.models.
      params: its parameters.
      temperatures: of the coarse and the fine byte; 0 takes the most probable.
      block_frames: frames a call; the latency of a stream beyond `lookahead`.
      unroll: samples made by one turn of the compiled loop; None for 1 on CPUs,
        where more only lengthens the code, and 4 elsewhere, where each turn has
        a fixed cost (not yet measured on a GPU).
      donate: reuse the memory of the state that is given to `next_block`, which
        must then not be used again. The samples are the same.
      sample: a function in place of `model.sample`.
    """
    self.model = model
    self.params = params
    self.block_frames = block_frames
    self._temperatures = np.asarray(temperatures, np.float32)
    unroll = unroll or (1 if jax.default_backend() == 'cpu' else 4)
    self._sample = backend.jit(functools.partial(
        sample or model.sample, samples=block_frames * model.mel.hop, unroll=unroll),
        donate_argnums=(1,) if donate else ())

  @property
  def lookahead(self) -> int:
    """Frames after a block that must be known before it is made."""
    return self.model.timing.margin

  @property
  def latency(self) -> float:
    """Seconds of audio whose mel a stream must know before its first sample comes."""
    return latency(self)

  def initial_state(self, batch: int):
    return self.model.sampling_state(batch)

  def warm_up(self, batch: int) -> None:
    """Compiles for a batch size, so that the first block is as fast as the rest."""
    before, after = around(self)
    frames = before + self.block_frames + after
    mel_BxFxM = np.zeros((batch, frames, self.model.mel.bands), np.float32)
    self.next_block(self.initial_state(batch), mel_BxFxM, draw.keys(0, range(batch)))

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    """(int16 B x block·hop, next state) from block frames and those around them.

    These are `model.timing.lag` + `lookahead` frames before and `lookahead` after; the
    samples are those of `model.timing.delay` samples ago. The given state is used up:
    its memory is the next one's.
    """
    pcm, state = self._sample(self.params, state, mel_BxFxM, keys_Bx2, self._temperatures)
    return np.asarray(pcm), state


def latency(sampler) -> float:
  """Seconds of audio whose mel a stream must know before its first sample comes."""
  mel = sampler.model.mel
  frames = sampler.block_frames + sampler.lookahead
  return (frames * mel.hop + sampler.model.timing.delay) / mel.sample_rate


def around(sampler) -> tuple[int, int]:
  """Frames before and after those of a block that it takes."""
  return sampler.model.timing.around


def stream(params, mel_chunks, *, model, seed: int = 0, utterance: int = 0,
           temperatures=(1.0, 1.0), block_frames: int = 16):
  """Turns chunks of mel frames into chunks of audio as they arrive.

  The concatenated output is sample-identical to `synthesize` of the
  concatenated mel, however it is cut.

  Args:
    params: parameters of the model.
    mel_chunks: iterable of log mels FxM, any F ≥ 0, in `model.mel`'s convention.
    model: of wavernn_jax.models.
    seed, utterance: with the sample index they determine every draw.
    temperatures: of the coarse and the fine byte.
    block_frames: frames made at a time. Latency: block_frames + model.timing.margin
      frames and model.timing.delay samples; model.timing.delay is 0 but for models of
      several lanes, whose first lane is ahead of the last.

  Yields:
    int16 arrays of block_frames · hop samples, the last one shorter, and after
    a delay also the first; F · hop samples in all.
  """
  sampler = Sampler(model, params, temperatures, block_frames)
  yield from stream_blocks(sampler, mel_chunks, draw.keys(seed, [utterance]))


def stream_blocks(sampler: Sampler, mel_chunks, keys_1x2):
  """`stream` with a sampler that may serve many streams."""
  model, block, (before, after) = sampler.model, sampler.block_frames, around(sampler)
  floor = np.full((before, model.mel.bands), audio.mel_floor(model.mel), np.float32)
  waiting = floor  # what is before the next block, then frames not yet used
  state, window, frames = sampler.initial_state(1), before + block + after, 0
  start, step = -model.timing.delay, block * model.mel.hop  # of the next block's samples
  for chunk in mel_chunks:
    waiting = np.concatenate([waiting, audio_frames(chunk, model.mel)])
    frames += len(chunk)
    while len(waiting) >= window:
      pcm, state = sampler.next_block(state, waiting[None, :window], keys_1x2)
      waiting, start = waiting[block:], start + step
      if start > 0:
        yield pcm[0, max(0, step - start):]
  total = frames * model.mel.hop
  state = model.ended(state, np.array([total]))
  while frames and start < total:
    missing = np.repeat(floor[:1], max(0, window - len(waiting)), axis=0)
    padded = np.concatenate([waiting, missing])
    pcm, state = sampler.next_block(state, padded[None, :window], keys_1x2)
    waiting, start = waiting[block:], start + step
    if start > 0:
      yield pcm[0, max(0, step - start):step - max(0, start - total)]


def audio_frames(chunk, mel) -> np.ndarray:
  """A chunk of a stream as float32 FxM.

  Raises:
    ValueError: if it has another shape or holds NaN.
  """
  chunk = np.asarray(chunk, np.float32)
  if chunk.ndim != 2 or chunk.shape[1] != mel.bands:
    raise ValueError(f'mel chunk: found shape {chunk.shape}, expected [frames, {mel.bands}]')
  if not np.isfinite(chunk).all():
    raise ValueError('mel chunk: found NaN or infinite values, expected a finite log mel')
  return chunk


def synthesize(sampler: Sampler, mels, keys_Bx2, progress=lambda samples: None):
  """Audio of several utterances of any lengths as one batch.

  Args:
    sampler: of the model.
    mels: list of log mels FxM.
    keys_Bx2: of `draw.keys`, one for each utterance.
    progress: called with the samples of all utterances made by each block.

  Returns:
    List of int16 arrays of F · hop samples.
  """
  model, block, (before, after) = sampler.model, sampler.block_frames, around(sampler)
  samples, step = np.array([len(m) for m in mels]) * model.mel.hop, block * model.mel.hop
  blocks = -(-(samples.max() + model.timing.delay * samples.any()) // step)
  padded = np.full((len(mels), before + blocks * block + after, model.mel.bands),
                   audio.mel_floor(model.mel), np.float32)
  for lane, m in enumerate(mels):
    padded[lane, before:before + len(m)] = m
  state, pieces = model.ended(sampler.initial_state(len(mels)), samples), []
  for b in range(blocks):
    window = padded[:, b * block:before + (b + 1) * block + after]
    pcm, state = sampler.next_block(state, window, keys_Bx2)
    pieces.append(pcm)
    start = b * step - model.timing.delay
    ends = np.clip([start, start + step], 0, samples[:, None])
    progress(int((ends[:, 1] - ends[:, 0]).sum()))
  joined = np.concatenate([np.zeros((len(mels), 0), np.int16), *pieces], axis=1)
  return [joined[lane, model.timing.delay:model.timing.delay + n] for lane, n in enumerate(samples)]
