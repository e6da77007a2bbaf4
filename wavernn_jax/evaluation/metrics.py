"""Free-running metrics: compares a recording with its copy-synthesis.

Likelihood (likelihood.py) is the measure that ranks models; these metrics say whether
a model samples the utterance that it was conditioned on. Signals are int16
PCM of one rate. A metric that is undefined for an input (silence, no voiced
frame, shorter than one analysis window) is NaN, and `average` makes it null.
"""

from collections.abc import Iterable
import functools
import math

import librosa
import numpy as np
import soxr

from wavernn_jax import audio, files
from wavernn_jax.config import MelConfig

# (n_fft, hop, window) in samples, at every sample rate, as Parallel WaveGAN has them.
STFT_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
STFT_POWER_FLOOR = 1e-7  # of |STFT|², of audio in [-1, 1]; the same source
# Pitch is looked for below 2 kHz. At 24 kHz, with noise in the rest of the band, pYIN
# misses a voice that anyone hears (F1 0.45 at 6 dB, 0 at 3 dB), and a hoarse voice is
# not a whisper.
PITCH_RATE = 4_000  # Hz
F0_MIN, F0_MAX = 80.0, 400.0  # Hz
# In samples of PITCH_RATE: 64 and 10 ms. With longer frames pauses count as voiced, and a
# whisper passes: one that scores 0.50 here scores 0.95 with 256 ms.
PITCH_FRAME, PITCH_HOP = 256, 40
PERIODICITY_WINDOW = 0.04  # seconds
LAG_TOLERANCE = 0.05  # of the recording's pitch lag
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


def _pitch(pcm_T: np.ndarray, sample_rate: int) -> np.ndarray:
  """F0 in Hz at 0, 10, 20, … ms, NaN where unvoiced; no frames if too short."""
  wave_T = soxr.resample(pcm_T.astype(np.float64), sample_rate, PITCH_RATE, 'VHQ')
  # Rounded as a recording is: in digital silence pYIN would find the filter's ringing voiced.
  wave_T = np.rint(wave_T) / 32_768
  if len(wave_T) < PITCH_FRAME:
    return np.zeros(0)
  _compile_pyin()
  return _pyin(wave_T)


@functools.cache
def _compile_pyin():
  """Makes the first call in turn with other processes: librosa compiles for it.

  Processes that fill numba's cache at the same time may load each other's code and crash.
  """
  with files.turn('pyin'):
    _pyin(np.zeros(2 * PITCH_FRAME))


def _pyin(wave_T: np.ndarray) -> np.ndarray:
  f0_F, _, _ = librosa.pyin(
      wave_T, fmin=F0_MIN, fmax=F0_MAX, sr=PITCH_RATE, frame_length=PITCH_FRAME,
      hop_length=PITCH_HOP)
  return f0_F


def _frame_periodicity(wave_T: np.ndarray, start: int, window: int, lags) -> float:
  """Greatest correlation of a window with those `lags` later, 0 where one is constant."""
  here_W = wave_T[start:start + window]
  later_LxW = np.lib.stride_tricks.sliding_window_view(
      wave_T[start + lags[0]:start + lags[-1] + window], window)
  here_W = here_W - here_W.mean()
  later_LxW = later_LxW - later_LxW.mean(axis=1, keepdims=True)
  scale_L = np.linalg.norm(here_W) * np.linalg.norm(later_LxW, axis=1)
  correlation_L = later_LxW @ here_W
  return float(np.max(np.divide(correlation_L, scale_L, out=np.zeros_like(scale_L),
                                where=scale_L > 0)))


def periodicity(pcm_T: np.ndarray, f0_F: np.ndarray, sample_rate: int) -> float:
  """How much of the signal repeats from one period of a given F0 to the next.

  In each voiced frame the greatest correlation coefficient of 40 ms with the 40 ms
  about one period later, within 5% of the lag that F0 says, both around the middle of
  the frame; the median over frames. Unlike a voicing decision it is gradual: 1 for a
  tone, about 0.9 for speech, 0.6 with noise 6 dB below it, 0.1 and less for a whisper.

  Args:
    pcm_T: int16.
    f0_F: of the *recording*, at 0, 10, 20, … ms, NaN where it is unvoiced.
    sample_rate: of `pcm_T`, Hz.

  Returns:
    NaN if no frame is voiced.
  """
  window = round(PERIODICITY_WINDOW * sample_rate)
  longest = math.ceil(sample_rate / F0_MIN * (1 + LAG_TOLERANCE))
  margin = window + longest
  wave_T = np.pad(_waveform(pcm_T).astype(np.float64), margin)
  values = []
  for frame in np.flatnonzero(np.isfinite(f0_F)):
    lag = sample_rate / f0_F[frame]
    lags = range(math.floor(lag * (1 - LAG_TOLERANCE)),
                 math.ceil(lag * (1 + LAG_TOLERANCE)) + 1)
    middle = margin + round(frame * PITCH_HOP * sample_rate / PITCH_RATE)
    start = middle - (window + round(lag)) // 2
    values.append(_frame_periodicity(wave_T, start, window, lags))
  return float(np.median(values)) if values else math.nan


def voice_metrics(target_T: np.ndarray, synthesis_T: np.ndarray,
                  sample_rate: int) -> dict[str, float]:
  """Whether a synthesis has the voice of its recording, and at the same pitch.

  `voicing_f1` is of pYIN's decision at 4 kHz, with the recording's as the reference;
  `f0_rmse_cents` is over frames voiced in both (pYIN's grid is 10 cents, so a few cents
  are its rounding); `periodicity` and, for comparison, the recording's own,
  `periodicity_target`, are over the recording's voiced frames. Both signals have the
  same length.
  """
  target_F = _pitch(target_T, sample_rate)
  synthesis_F = _pitch(synthesis_T, sample_rate)
  cents_F = 1_200 * np.log2(synthesis_F / target_F)  # NaN unless voiced in both
  both, target_voiced, synthesis_voiced = (
      int(np.isfinite(x_F).sum()) for x_F in (cents_F, target_F, synthesis_F))
  voiced = target_voiced + synthesis_voiced
  return {
      'f0_rmse_cents': math.sqrt(np.nanmean(cents_F**2)) if both else math.nan,
      'voicing_f1': 2 * both / voiced if voiced else math.nan,
      'periodicity': periodicity(synthesis_T, target_F, sample_rate),
      'periodicity_target': periodicity(target_T, target_F, sample_rate),
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
      **voice_metrics(start_T, synthesis_start_T, mel.sample_rate),
      **duration_error_seconds(target_T, synthesis_T, mel.sample_rate),
  }


def valid_scalars(recordings: Iterable[np.ndarray], syntheses: Iterable[np.ndarray],
                  mel: MelConfig) -> dict[str, float]:
  """What a training run reports of its copies of valid utterances: `valid_…`, averaged.

  The distance of log mels and the measures of the voice; those that are undefined for
  all pairs are left out. Takes about 0.3 s for each second of audio.
  """
  rows = []
  for target_T, synthesis_T in zip(recordings, syntheses, strict=True):
    common = min(len(target_T), len(synthesis_T))
    pair = target_T[:common], synthesis_T[:common]
    rows.append({'log_mel_l1': _mel_distance(*pair, mel),
                 **voice_metrics(*pair, mel.sample_rate)})
  return {f'valid_{name}': value for name, value in average(rows).items()
          if value is not None and not name.endswith('_frames')}


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
