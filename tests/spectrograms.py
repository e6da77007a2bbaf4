"""Spectrograms that audio has, and some that none has, and the predictions from them."""

import jax
import numpy as np

from wavernn_jax import audio
from wavernn_jax.config import MelConfig
from wavernn_jax.models import prediction

MEL = MelConfig()
PRESETS = ('wavernn24k', 'tacotron2', 'hifigan', 'parallel_wavegan24k', 'vocos24k')
TAPS = 32
KINDS = ('speech', 'silence', 'floor', 'noise', 'loud', 'tilted', 'one band')


def mels(mel: MelConfig, kind: str, frames: int = 6, seed: int = 0) -> np.ndarray:
  """Spectrograms that audio has, and some that none has, FxM."""
  rng, floor = np.random.default_rng(seed), audio.mel_floor(mel)
  shape = frames, mel.bands
  made = {
      'speech': audio.utterance_log_mel(_voiced(mel, frames), mel)[:frames],
      'silence': np.full(shape, floor + 0.3) + 0.1 * rng.random(shape),
      'floor': np.full(shape, floor),
      'noise': rng.uniform(floor, 3, shape),
      'loud': np.full(shape, 8.0),
      'tilted': np.linspace(4, floor, mel.bands) + np.zeros(shape),
      'one band': np.where(np.arange(mel.bands) == mel.bands // 2, 2.0, floor) + np.zeros(shape)}
  return np.float32(made[kind])


def _voiced(mel: MelConfig, frames: int) -> np.ndarray:
  t = np.arange((frames + 2) * mel.hop + mel.n_fft) / mel.sample_rate
  wave = sum(np.sin(2 * np.pi * 130 * k * t + k) / k for k in range(1, 30))
  noise = np.random.default_rng(1).standard_normal(len(t))
  return np.int16(3_000 * wave + 30 * noise)


def filters(mel_FxM, mel=MEL, taps=TAPS) -> prediction.Filter:
  """Of the last samples; leading axis F."""
  known = np.ones((1, taps), bool)
  found = jax.jit(lambda m: prediction.spectral_filter(
      m, known, prediction.offsets(taps), mel))(mel_FxM)
  return jax.tree.map(lambda a: np.asarray(a)[:, 0], found)


def predict_all(found: prediction.Filter, pcm, row_T) -> np.ndarray:
  """p̂ of the samples after the first TAPS."""
  run = jax.jit(lambda taps, shift, pcm: prediction.predict_all(
      taps.T[:, None], shift[row_T][:, None], pcm[:, None], row_T, prediction.offsets(TAPS),
      TAPS))
  return np.asarray(run(found.taps, found.shift, pcm))[:, 0]
