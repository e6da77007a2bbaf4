"""Free-running metrics: a recording against its copy-synthesis.

Likelihood (likelihood.py) is the measure that ranks models; these say whether
what a model samples is the utterance it was conditioned on. Signals are int16
PCM of one rate. A metric that is undefined for an input (silence, no voiced
frame, shorter than one analysis window) is NaN, and `average` makes it null.
"""

from collections.abc import Iterable
import functools
import math

import librosa
import numpy as np

from wavernn_jax import audio, files
from wavernn_jax.config import MelConfig

# (n_fft, hop, window) in samples, at every sample rate, as Parallel WaveGAN has them.
STFT_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
STFT_POWER_FLOOR = 1e-7  # of |STFT|², of audio in [-1, 1]; the same source
F0_MIN, F0_MAX = 60.0, 500.0  # Hz
F0_PERIODS = 4  # periods of F0_MIN in a pitch frame
SILENCE_DB = 40.0  # below the loudest frame


def _waveform(pcm_T: np.ndarray) -> np.ndarray:
  if pcm_T.dtype != np.int16 or pcm_T.ndim != 1:
    raise ValueError(
        f'expected one channel of int16 PCM, found {pcm_T.dtype} {pcm_T.shape}')
  return pcm_T.astype(np.float32) / 32_768


def log_mel_l1(target_FxM: np.ndarray, synthesis_FxM: np.ndarray) -> float:
  """Mean |Δ| over frames and bands, in the unit of the logs given (ln: nats)."""
  if target_FxM.shape != synthesis_FxM.shape:
    raise ValueError(f'mel shapes differ: {target_FxM.shape}, {synthesis_FxM.shape}')
  if not target_FxM.size:
    return math.nan
  difference_FxM = np.asarray(target_FxM, np.float64) - synthesis_FxM
  return float(np.mean(np.abs(difference_FxM)))


def _magnitude(wave_T: np.ndarray, n_fft: int, hop: int, window: int) -> np.ndarray:
  stft = librosa.stft(
      wave_T, n_fft=n_fft, hop_length=hop, win_length=window, pad_mode='reflect')
  return np.sqrt(np.maximum(np.abs(stft)**2, STFT_POWER_FLOOR))


def multi_resolution_stft_distance(
    target_T: np.ndarray, synthesis_T: np.ndarray) -> dict[str, float]:
  """Multi-resolution STFT distance (Parallel WaveGAN, Yamamoto et al. 2020).

  With magnitudes S of the target and Ŝ of the synthesis, at each resolution

    convergence    ‖S - Ŝ‖_F / ‖S‖_F        (a ratio)
    log magnitude  mean |ln S - ln Ŝ|       (nats)

  each averaged over the three resolutions; `stft_distance` is their sum, the
  paper's auxiliary loss. Both signals have the same length.
  """
  target_T, synthesis_T = _waveform(target_T), _waveform(synthesis_T)
  longest = max(n_fft for n_fft, _, _ in STFT_RESOLUTIONS)
  convergence = log_magnitude = math.nan
  if len(target_T) >= longest and target_T.any():
    parts = []
    for resolution in STFT_RESOLUTIONS:
      target = _magnitude(target_T, *resolution)
      synthesis = _magnitude(synthesis_T, *resolution)
      parts.append((
          np.linalg.norm(target - synthesis) / np.linalg.norm(target),
          np.mean(np.abs(np.log(target) - np.log(synthesis)))))
    convergence, log_magnitude = np.mean(parts, axis=0).tolist()
  return {
      'stft_distance': convergence + log_magnitude,
      'stft_convergence': convergence,
      'stft_log_magnitude': log_magnitude,
  }


def _pitch(pcm_T: np.ndarray, sample_rate: int, hop: int) -> np.ndarray:
  """F0 in Hz for each frame, NaN where unvoiced; no frames if too short."""
  frame_length = math.ceil(F0_PERIODS * sample_rate / F0_MIN)
  if len(pcm_T) < frame_length:
    return np.zeros(0)
  _compile_pyin()
  return _pyin(pcm_T, sample_rate, frame_length, hop)


@functools.cache
def _compile_pyin():
  """The first call in turn: librosa compiles for it, and numba's cache is not made for two.

  Processes that fill it at once may load each other's code and crash.
  """
  with files.turn('pyin'):
    _pyin(np.zeros(2048, np.int16), 8_000, 1024, 256)


def _pyin(pcm_T, sample_rate: int, frame_length: int, hop: int):
  f0_F, _, _ = librosa.pyin(
      _waveform(pcm_T), fmin=F0_MIN, fmax=F0_MAX, sr=sample_rate,
      frame_length=frame_length, hop_length=hop)
  return f0_F


def f0_metrics(target_T: np.ndarray, synthesis_T: np.ndarray, sample_rate: int,
               hop: int) -> dict[str, float]:
  """F0 RMSE in cents over frames voiced in both, and F1 of the voicing decision.

  The target's voicing is the reference of F1. pYIN's grid is 10 cents, so an
  RMSE of a few cents is its rounding. Both signals have the same length.
  """
  target_F = _pitch(target_T, sample_rate, hop)
  synthesis_F = _pitch(synthesis_T, sample_rate, hop)
  cents_F = 1_200 * np.log2(synthesis_F / target_F)  # NaN unless voiced in both
  both, target_voiced, synthesis_voiced = (
      int(np.isfinite(x_F).sum()) for x_F in (cents_F, target_F, synthesis_F))
  voiced = target_voiced + synthesis_voiced
  return {
      'f0_rmse_cents': math.sqrt(np.nanmean(cents_F**2)) if both else math.nan,
      'voicing_f1': 2 * both / voiced if voiced else math.nan,
      'pitch_frames': len(target_F),
      'voiced_frames': both,  # those that f0_rmse_cents is over
  }


def _speech_seconds(pcm_T: np.ndarray, sample_rate: int) -> float:
  if not pcm_T.any():  # librosa's threshold is relative: it would trim nothing
    return 0.0
  trimmed_T, _ = librosa.effects.trim(_waveform(pcm_T), top_db=SILENCE_DB)
  return len(trimmed_T) / sample_rate


def duration_error_seconds(target_T: np.ndarray, synthesis_T: np.ndarray,
                           sample_rate: int) -> dict[str, float]:
  """Synthesis minus target, in seconds: whole, and without silence at the ends."""
  return {
      'length_error_seconds': (len(synthesis_T) - len(target_T)) / sample_rate,
      'speech_error_seconds': (_speech_seconds(synthesis_T, sample_rate)
                               - _speech_seconds(target_T, sample_rate)),
  }


def _mel_distance(target_T: np.ndarray, synthesis_T: np.ndarray, mel: MelConfig) -> float:
  if len(target_T) < mel.n_fft:
    return math.nan
  target_FxM, synthesis_FxM = (
      audio.utterance_log_mel(pcm_T, mel) for pcm_T in (target_T, synthesis_T))
  nats = math.log(10) if mel.log == '10' else 1.0
  return nats * log_mel_l1(target_FxM, synthesis_FxM)


def compare(target_T: np.ndarray, synthesis_T: np.ndarray,
            mel: MelConfig) -> dict[str, float]:
  """All metrics of one utterance; NaN where one is undefined.

  Lengths may differ: durations are of the whole signals, everything else is of
  their common beginning.

  Raises:
    ValueError: if a signal is not one channel of int16.
  """
  common = min(len(target_T), len(synthesis_T))
  start_T, synthesis_start_T = target_T[:common], synthesis_T[:common]
  return {
      'log_mel_l1': _mel_distance(start_T, synthesis_start_T, mel),
      **multi_resolution_stft_distance(start_T, synthesis_start_T),
      **f0_metrics(start_T, synthesis_start_T, mel.sample_rate, mel.hop),
      **duration_error_seconds(target_T, synthesis_T, mel.sample_rate),
  }


def average(utterances: Iterable[dict[str, float]]) -> dict[str, float | None]:
  """Mean of every metric over the utterances where it is defined, for JSON.

  Counts (`…_frames`) are summed; a metric defined nowhere is None. Errors are
  averaged without their sign, so that too long and too short do not cancel.
  """
  rows = list(utterances)
  result = {}
  for name in rows[0] if rows else ():
    values = np.array([row[name] for row in rows], np.float64)
    values = np.abs(values[np.isfinite(values)])
    total = values.sum() if name.endswith('_frames') else values.sum() / max(len(values), 1)
    result[name] = float(total) if len(values) else None
  return result
