"""Audio and spectrograms as the bytes that a page embeds."""

import io

import numpy as np
import soundfile

from wavernn_jax import audio
from wavernn_jax.config import MelConfig
from wavernn_jax.evaluation import pictures


def wav(pcm: np.ndarray, sample_rate: int) -> bytes:
  """The samples as a WAV file."""
  if pcm.dtype != np.int16:
    raise TypeError(f'expected int16 samples, found {pcm.dtype}')
  file = io.BytesIO()
  soundfile.write(file, pcm, sample_rate, 'PCM_16', format='WAV')
  return file.getvalue()


def display_mel(sample_rate: int) -> MelConfig:
  """A convention for pictures: windows of 50 ms, a frame every 12.5 ms, 80 bands."""
  window = sample_rate // 20
  n_fft = 1 << max(9, (window * 3 // 2 - 1).bit_length())
  return MelConfig(name='display', sample_rate=sample_rate, n_fft=n_fft, window=window,
                   hop=sample_rate // 80, fmax=sample_rate / 2)


def strips(clips: dict[str, np.ndarray], mel: MelConfig) -> dict[str, tuple[bytes, float]]:
  """Spectrograms of one sentence on one colour scale.

  Returns:
    name -> (PNG of one pixel a frame and band, its share of the longest clip's width).
  """
  log_mels = {name: audio.utterance_log_mel(pcm, mel) for name, pcm in clips.items()}
  limits = pictures.colour_limits(*log_mels.values())
  longest = max(len(pcm) for pcm in clips.values())
  return {name: (pictures.spectrogram_strip(log_mel_FxM, limits), len(clips[name]) / longest)
          for name, log_mel_FxM in log_mels.items()}
