"""Three short recordings, and their utterances as the package loads them."""

import soundfile

from wavernn_jax.config import DataConfig
from wavernn_jax.data import corpus

RATE = 8_000
SAMPLES = 200  # of a crop


def write(folder, speech):
  """Wav files of 0.3, 0.7 and 1.1 s; returns the folder."""
  for i, seconds in enumerate((0.3, 0.7, 1.1)):
    soundfile.write(folder / f'u{i}.wav', speech(seconds, seed=i), RATE, 'PCM_16')
  return folder


def load(folder, mel, min_samples=SAMPLES, keep_pcm=True, **config):
  """The utterances of a folder; config: fields of DataConfig."""
  paths = corpus.find_audio(folder)
  return corpus.load_utterances(paths, DataConfig(**config), mel, min_samples, keep_pcm)
