"""Recordings like speech, and the errors that files lead to."""

import numpy as np
import pytest

from wavernn_jax.errors import InputError

PRESETS = ('wavernn24k', 'tacotron2', 'hifigan', 'parallel_wavegan24k', 'vocos24k', 'matcha')


def speech_like(seconds=1.0, rate=24_000, seed=0):
  """A gliding pulse train, loud and low noise, and silence; int16."""
  rng = np.random.default_rng(seed)
  t = np.arange(int(seconds * rate)) / rate
  phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 3 * t)) / rate
  voiced = sum(np.sin(k * phase) / k for k in range(1, 40)) * 0.25
  envelope = np.clip(np.sin(2 * np.pi * 2 * t), 0, 1)
  noise = rng.standard_normal(len(t)) * np.where(t % 0.5 > 0.4, 0.05, 1e-4)
  pcm = np.rint(np.clip(voiced * envelope + noise, -1, 1) * 32_767)
  pcm[int(0.6 * len(pcm)):int(0.7 * len(pcm))] = 0
  return pcm.astype(np.int16)


def expect_error(*parts):
  """An InputError whose message has all parts."""
  return pytest.raises(InputError, match='(?s)' + ''.join(f'(?=.*{p})' for p in parts))
