"""Bulk synthesis with an engine that is quick: noise as loud as the mel."""

import types

import numpy as np
import soundfile

from wavernn_jax import executors
from wavernn_jax.config import MelConfig
from wavernn_jax.models.system import Timing
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.synthesis import bulk

RATE = 8_000
MEL = MelConfig(name='small', sample_rate=RATE, n_fft=256, window=200, hop=50, bands=20,
                fmax=4_000.0)


class Loudness(Engine):
  """An engine whose audio is the mean of each mel frame: quick, and a function of its input."""

  name, block_frames, at_once = 'loud', 4, 4
  model = types.SimpleNamespace(mel=MEL, timing=Timing(margin=0),
                                ended=lambda state, samples: state)
  opened = []

  def warm_up(self, batch):
    self.opened.append(batch)

  def initial_state(self, batch):
    return batch

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    assert len(mel_BxFxM) == len(keys_Bx2) == state
    frames = (100 * mel_BxFxM.mean(axis=2)).astype(np.int16) + keys_Bx2[:, :1].astype(np.int16)
    return np.repeat(frames, MEL.hop, axis=1), state

  def score(self, state, pcm_BxN, mel_BxFxM):
    raise NotImplementedError


def speak(inputs, output, seed=0, executor=None, **options):
  return bulk.synthesize(bulk.find_inputs(inputs), output, Loudness, MEL, {
      'model': 'm', 'seed': seed, 'engine': 'loud'}, executor or executors.InProcess(), seed,
      batch=4, **options)


def write_recordings(folder, speech):
  """Seven wav files in a new folder and one in it; returns the folder."""
  (folder / 'more').mkdir(parents=True)
  for i in range(7):
    name = f'more/{i}.wav' if i % 2 else f'{i}.wav'
    soundfile.write(folder / name, speech(0.1 + 0.05 * i, seed=i), RATE, 'PCM_16')
  return folder


def sounds(folder):
  return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*.wav')}
