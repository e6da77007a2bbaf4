"""Streams and batches of utterances with any engine.

Audio is made in blocks of a fixed number of frames, however the mel is chunked, so a
stream is sample-identical to one call for the whole utterance.
"""

import numpy as np

from wavernn_jax import audio
from wavernn_jax.sampling.engine import Engine


def stream(engine: Engine, mel_chunks, key_1x2):
  """Turns chunks of mel frames into chunks of audio as they arrive.

  However the mel is cut, the concatenated output is sample-identical to `batch` of the
  whole mel. Audio comes `engine.latency` seconds after its mel.

  Args:
    engine: from `sampling.open`; it may serve many streams.
    mel_chunks: iterable of log mels FxM, any F ≥ 0, in the model's convention.
    key_1x2: from `draw.keys`.

  Yields:
    int16 arrays of block_frames · hop samples, F · hop samples in all. The last one is
    shorter, and so is the first one of a model with a delay.

  Raises:
    ValueError: if a chunk has another shape or holds NaN.
  """
  model, block = engine.model, engine.block_frames
  (before, _), delay = model.timing.around, model.timing.delay
  floor = np.full((before, model.mel.bands), audio.mel_floor(model.mel), np.float32)
  waiting = floor  # the frames before the next block, then those not used yet
  state, window, frames = engine.initial_state(1), engine.window, 0
  start, step = -delay, block * model.mel.hop  # of the next block's samples
  for chunk in mel_chunks:
    waiting = np.concatenate([waiting, _frames(chunk, model.mel)])
    frames += len(chunk)
    while len(waiting) >= window:
      pcm, state = engine.next_block(state, waiting[None, :window], key_1x2)
      waiting, start = waiting[block:], start + step
      if start > 0:
        yield pcm[0, max(0, step - start):]
  total = frames * model.mel.hop
  state = model.ended(state, np.array([total]))
  while frames and start < total:
    missing = np.repeat(floor[:1], max(0, window - len(waiting)), axis=0)
    padded = np.concatenate([waiting, missing])
    pcm, state = engine.next_block(state, padded[None, :window], key_1x2)
    waiting, start = waiting[block:], start + step
    if start > 0:
      yield pcm[0, max(0, step - start):step - max(0, start - total)]


def _frames(chunk, mel) -> np.ndarray:
  """A chunk of a stream as float32 FxM."""
  chunk = np.asarray(chunk, np.float32)
  if chunk.ndim != 2 or chunk.shape[1] != mel.bands:
    raise ValueError(f'mel chunk: found shape {chunk.shape}, expected [frames, {mel.bands}]')
  if not np.isfinite(chunk).all():
    raise ValueError('mel chunk: found NaN or infinite values, expected a finite log mel')
  return chunk


def batch(engine: Engine, mels, keys_Bx2, progress=lambda samples: None):
  """Samples several utterances of any lengths together.

  Args:
    engine: from `sampling.open`.
    mels: list of log mels FxM.
    keys_Bx2: from `draw.keys`, one for each utterance.
    progress: called after each block with the number of samples made.

  Returns:
    List of int16 arrays of F · hop samples.
  """
  model, delay = engine.model, engine.model.timing.delay
  step = engine.block_frames * model.mel.hop
  samples = np.array([len(m) for m in mels]) * model.mel.hop
  blocks = -(-(samples.max() + delay * samples.any()) // step)
  padded = padded_mels(mels, blocks * engine.block_frames, model.timing.around, model.mel)
  state, pieces = model.ended(engine.initial_state(len(mels)), samples), []
  for b in range(blocks):
    first = b * engine.block_frames
    pcm, state = engine.next_block(state, padded[:, first:first + engine.window], keys_Bx2)
    pieces.append(pcm)
    ends = np.clip([b * step - delay, (b + 1) * step - delay], 0, samples[:, None])
    progress(int((ends[:, 1] - ends[:, 0]).sum()))
  joined = np.concatenate([np.zeros((len(mels), 0), np.int16), *pieces], axis=1)
  return [joined[i, delay:delay + n] for i, n in enumerate(samples)]


def padded_mels(mels, frames: int, around: tuple[int, int], mel) -> np.ndarray:
  """Joins mels of any lengths into one BxFxM of `frames` and those around, padded with silence."""
  before, after = around
  padded = np.full((len(mels), before + frames + after, mel.bands), audio.mel_floor(mel),
                   np.float32)
  for row, m in zip(padded, mels, strict=True):
    row[before:before + len(m)] = m
  return padded
