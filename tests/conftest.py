"""A tiny corpus of synthetic speech, a small mel convention and a tiny configuration."""

import os
import tempfile

# What one test compiles, the others find, those of other processes too. Set before JAX
# is imported; workers and child processes inherit it.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _COMPILED = tempfile.TemporaryDirectory()
  os.environ.update(JAX_COMPILATION_CACHE_DIR=_COMPILED.name,
                    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
                    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1')

# Most of the suite's time is XLA's: with few of its optimisations it compiles in less than two
# thirds of it. `XLA_FLAGS= python -m pytest …` compiles as it does for users.
os.environ.setdefault(
    'XLA_FLAGS', '--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false')

# pylint: disable=wrong-import-position
import numpy as np
import pytest
import soundfile

from wavernn_jax import config as config_lib

RATE = 8_000  # Hz
SECONDS = {'train': (0.5, 0.9, 0.31, 0.7), 'valid': (0.4, 0.63), 'test': (0.45,)}


def make_speech(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
  """A gliding pulse train, swelling, in noise: int16, other samples for another seed."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * rate)) / rate
  phase = 2 * np.pi * np.cumsum(110 + 10 * seed + 30 * np.sin(2 * np.pi * 3 * t)) / rate
  voiced = sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.2
  envelope = np.clip(np.sin(2 * np.pi * (2 + 0.3 * seed) * t), 0, 1)
  noise = 3e-3 * rng.standard_normal(len(t))
  return np.rint((voiced * envelope + noise) * 20_000).astype(np.int16)


@pytest.fixture(scope='session')
def speech():
  """speech(seconds, rate=8000, seed=0) -> int16 samples."""
  return make_speech


@pytest.fixture
def mel():
  """A convention of small frames, for speed."""
  return config_lib.MelConfig(name='small', sample_rate=RATE, n_fft=256, window=200, hop=50,
                              bands=20, fmax=4_000.0)


@pytest.fixture(scope='session')
def corpus(tmp_path_factory):
  """A folder with train, valid and test: 16-bit mono at 8 kHz, wav and flac. Do not write."""
  root = tmp_path_factory.mktemp('corpus')
  seed = 0
  for split, lengths in SECONDS.items():
    (root / split).mkdir()
    for i, seconds in enumerate(lengths):
      seed += 1
      soundfile.write(root / split / f'{split}_{i}.{("wav", "flac")[i % 2]}',
                      make_speech(seconds, seed=seed), RATE, 'PCM_16')
  return root


@pytest.fixture
def tiny_config(corpus, mel):
  """Trains on `corpus` in seconds."""
  return config_lib.Config(
      model=config_lib.ModelConfig(units=16, projection=16, channels=8, layers=1),
      mel=mel,
      data=config_lib.DataConfig(dir=str(corpus)),
      optimizer=config_lib.OptimizerConfig(learning_rate=3e-3, warmup_steps=5),
      train=config_lib.TrainConfig(steps=30, batch=4, crop=200, log_every=2, eval_every=10,
                                   save_every=3),
      evaluation=config_lib.EvaluationConfig(batch=2, block_frames=8, bootstrap=50,
                                             synthesize=1, synthesize_seconds=0.1))
