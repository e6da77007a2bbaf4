"""Free-running metrics and pictures against independent computations."""

import json
import math

import hypothesis
from hypothesis import strategies as st
import librosa
import numpy as np
import pytest
from scipy import signal

from wavernn_jax.config import MelConfig, mel_preset
from wavernn_jax.evaluation import metrics

RATE = 24_000


def _tone(f0: float, seconds: float = 0.6, rate: int = RATE) -> np.ndarray:
  """Ten harmonics falling by 1/k, int16."""
  t_T = np.arange(round(seconds * rate)) / rate
  wave_T = sum(np.sin(2 * np.pi * f0 * k * t_T + k) / k for k in range(1, 11))
  return (wave_T * 6_000).astype(np.int16)


def _noise(samples: int, scale: float = 1_000, seed: int = 0) -> np.ndarray:
  return (np.random.default_rng(seed).normal(size=samples) * scale).astype(np.int16)


def test_log_mel_l1_by_hand():
  target_FxM = np.array([[0.0, -1.0], [2.0, 3.0]], np.float32)
  synthesis_FxM = np.array([[0.5, -3.0], [2.0, 2.5]], np.float32)
  assert metrics.log_mel_l1(target_FxM, synthesis_FxM) == pytest.approx(3.0 / 4)
  assert math.isnan(metrics.log_mel_l1(np.zeros((0, 2)), np.zeros((0, 2))))
  with pytest.raises(ValueError, match='shapes differ'):
    metrics.log_mel_l1(target_FxM, synthesis_FxM[:1])  # would broadcast


def _scipy_magnitude(wave_T, n_fft, hop, window):
  """The same framing by scipy: reflected ends, frames centred on f·hop."""
  padded_T = np.pad(wave_T, n_fft // 2, mode='reflect')
  window_N = np.zeros(n_fft)
  start = (n_fft - window) // 2
  window_N[start:start + window] = signal.get_window('hann', window)
  frames = np.lib.stride_tricks.sliding_window_view(padded_T, n_fft)[::hop]
  power = np.abs(np.fft.rfft(frames * window_N))**2
  return np.sqrt(np.maximum(power, 1e-7))


def test_stft_distance_equals_a_direct_computation():
  target_T, synthesis_T = _noise(4_000), _noise(4_000, 300, seed=1)
  ratios, logs = [], []
  for resolution in ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)):
    target, synthesis = (
        _scipy_magnitude(x / 32_768, *resolution) for x in (target_T, synthesis_T))
    ratios.append(np.sqrt(((target - synthesis)**2).sum() / (target**2).sum()))
    logs.append(np.abs(np.log(target / synthesis)).mean())
  found = metrics.multi_resolution_stft_distance(target_T, synthesis_T)
  assert found['stft_convergence'] == pytest.approx(np.mean(ratios), rel=1e-4)
  assert found['stft_log_magnitude'] == pytest.approx(np.mean(logs), rel=1e-4)
  assert found['stft_distance'] == pytest.approx(np.mean(ratios) + np.mean(logs), rel=1e-4)


@hypothesis.given(gain=st.integers(2, 25), length=st.integers(2_048, 6_000))
@hypothesis.settings(max_examples=10, deadline=None)
def test_stft_distance_of_a_louder_copy_is_its_gain(gain, length):
  target_T = _noise(length, 200)  # 25 times as much still fits 16 bits
  found = metrics.multi_resolution_stft_distance(target_T, target_T * np.int16(gain))
  assert found['stft_convergence'] == pytest.approx(gain - 1, rel=1e-3)
  assert found['stft_log_magnitude'] == pytest.approx(math.log(gain), rel=1e-3)


def _speech(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
  """Syllables of 0.2 s apart by 0.2 s: pulses gliding by some semitones, through formants."""
  t_T = np.arange(round(seconds * rate)) / rate
  f0_T = 180 + 40 * np.sin(2 * np.pi * 0.7 * t_T + seed)
  pulses_T = np.diff(np.floor(np.cumsum(f0_T) / rate), prepend=0)
  pulses_T *= signal.lfilter([1], [1, -0.99], t_T * rate * 0.2 // (0.08 * rate) % 2) / 100
  for hz, width in ((500, 80), (1_500, 120), (2_500, 200)):
    radius = np.exp(-np.pi * width / rate)
    pulses_T = signal.lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * hz / rate), radius**2],
                              pulses_T)
  return np.rint(pulses_T / np.abs(pulses_T).max() * 12_000).astype(np.int16)


def _with_noise(pcm_T: np.ndarray, snr_db: float, seed: int = 0) -> np.ndarray:
  level = np.std(pcm_T) * 10**(-snr_db / 20)
  return np.clip(pcm_T + level * np.random.default_rng(seed).normal(size=len(pcm_T)),
                 -32_768, 32_767).astype(np.int16)


def _whisper(pcm_T: np.ndarray, rate: int, seed: int = 1) -> np.ndarray:
  """Noise with the spectrogram of a signal, in windows too short for its harmonics."""
  noise_T = np.random.default_rng(seed).normal(size=len(pcm_T))
  window = round(0.006 * rate)
  target, noise = (librosa.stft(x_T, n_fft=window, hop_length=window // 4)
                   for x_T in (pcm_T / 32_768, noise_T))
  smooth = signal.lfilter(np.ones(9) / 9, [1], np.abs(target))  # no pulses either
  wave_T = librosa.istft(smooth * noise / np.abs(noise).mean(), hop_length=window // 4,
                         length=len(pcm_T))
  return np.rint(np.clip(wave_T, -1, 1) * 32_767).astype(np.int16)


@pytest.mark.parametrize('f0, cents, rate', [
    (150, 100, RATE), (220, -250, 22_050), (90, 40, 8_000), (360, -700, 16_000),
    (120, 0, 11_025), (200, 1_000, 44_100), (130, -600, 48_000)])
def test_f0_rmse_is_the_shift_of_a_harmonic_tone(f0, cents, rate):
  shifted_T = _tone(f0 * 2**(cents / 1_200), rate=rate)
  found = metrics.voice_metrics(_tone(f0, rate=rate), shifted_T, rate)
  assert found['f0_rmse_cents'] == pytest.approx(abs(cents), abs=15)  # the grid is 10
  assert found['voicing_f1'] == 1
  assert found['voiced_frames'] == found['pitch_frames'] == 61  # 0.6 s in steps of 10 ms
  assert found['periodicity_target'] > (0.95 if rate <= 16_000 else 0.99)  # whole lags only


@pytest.mark.parametrize('rate', [8_000, 16_000, 22_050, 48_000])
def test_f0_frames_of_a_glide_lie_where_its_pitch_is(rate):
  t_T = np.arange(rate) / rate
  phase_T = 2 * np.pi * (100 * t_T + 75 * t_T**2)  # 100 to 250 Hz
  glide_T = sum(np.sin(k * phase_T) / k for k in range(1, 8))
  f0_F = metrics._pitch((glide_T * 6_000).astype(np.int16), rate)
  inner = slice(10, 91)
  expected_F = 100 + 150 * np.arange(101) / 100
  cents_F = 1_200 * np.log2(f0_F[inner] / expected_F[inner])
  # Lateness by one frame of 10 ms would be 10 to 23 cents, an octave 1,200.
  assert abs(np.mean(cents_F)) < 6 and np.abs(cents_F).max() < 40


def test_f0_frames_begin_where_a_voice_does():
  for rate in (8_000, RATE, 44_100):
    silence_T = np.zeros(round(0.3 * rate), np.int16)
    voiced_F = np.isfinite(metrics._pitch(
        np.concatenate([silence_T, _tone(200, 0.4, rate), silence_T]), rate))
    first, last = np.flatnonzero(voiced_F)[[0, -1]]
    assert 27 <= first <= 32 and 68 <= last <= 73  # 0.3 and 0.7 s, half a frame aside
    assert first - 27 == pytest.approx(73 - last, abs=2)  # early as much as late


@pytest.mark.parametrize('rate', [8_000, 16_000, RATE, 48_000])
@pytest.mark.parametrize('snr_db, periodicities', [(6, (0.7, 0.88)), (3, (0.6, 0.82))])
def test_noise_below_a_voice_leaves_it_a_voice(rate, snr_db, periodicities):
  speech_T = _speech(2.0, rate)
  found = metrics.voice_metrics(speech_T, _with_noise(speech_T, snr_db), rate)
  # At 8 kHz half of the noise is below 2 kHz, at 24 kHz a sixth.
  assert found['voicing_f1'] >= (0.82 if rate == 8_000 else 0.93)
  assert found['f0_rmse_cents'] < 20
  low, high = periodicities
  assert low < found['periodicity'] < high < found['periodicity_target']


@pytest.mark.parametrize('rate', [8_000, 16_000, RATE])
def test_a_whisper_has_no_voice(rate):
  speech_T = _speech(2.0, rate)
  found = metrics.voice_metrics(speech_T, _whisper(speech_T, rate), rate)
  assert found['voicing_f1'] < 0.1
  assert found['periodicity'] < 0.2
  assert found['periodicity_target'] > 0.88


def test_digital_silence_in_a_recording_is_not_voiced():
  """What the resampling filter leaves of a voice there is below the last bit."""
  for rate in (8_000, 16_000, RATE):
    gap_T = np.zeros(rate, np.int16)
    f0_F = metrics._pitch(np.concatenate([_tone(150, 0.4, rate), gap_T]), rate)
    assert np.isfinite(f0_F[5:35]).all() and not np.isfinite(f0_F[45:]).any()


def test_periodicity_is_the_share_of_power_that_repeats():
  """Of a tone in white noise: SNR / (1 + SNR), a little more since the best lag is taken."""
  tone_T = _tone(150)
  f0_F = np.full(61, 150.0)
  f0_F[::2] = np.nan
  assert metrics.periodicity(tone_T, f0_F, RATE) == pytest.approx(1, abs=1e-4)
  for snr_db, share in ((6, 0.8), (0, 0.5), (-6, 0.2)):
    noisy_T = _with_noise(tone_T, snr_db)
    assert metrics.periodicity(noisy_T, f0_F, RATE) == pytest.approx(share, abs=0.04)
  offset_T = _noise(14_400, 100) + np.int16(5_000)  # a constant repeats but is no voice
  assert metrics.periodicity(offset_T, f0_F, RATE) < 0.15
  assert metrics.periodicity(0 * tone_T, f0_F, RATE) == 0
  assert math.isnan(metrics.periodicity(tone_T, np.full(61, np.nan), RATE))


def test_periodicity_is_at_the_pitch_of_the_recording():
  """A copy at another pitch repeats too, but not when it should; 4% off is near enough."""
  f0_F = np.full(61, 150.0)
  assert metrics.periodicity(_tone(150 * 1.04), f0_F, RATE) > 0.99
  assert metrics.periodicity(_tone(150 * 1.3), f0_F, RATE) < 0.5


def test_voicing_f1_counts_the_frames_only_one_calls_voiced():
  tone_T = _tone(150)
  half_T = np.concatenate([tone_T[:7_200], _noise(7_200)])
  found = metrics.voice_metrics(tone_T, half_T, RATE)
  both, frames = found['voiced_frames'], found['pitch_frames']
  assert frames == 61
  assert 27 <= both <= 34  # half, give or take the frames astride the border
  assert found['voicing_f1'] == pytest.approx(2 * both / (both + frames))
  assert found['f0_rmse_cents'] < 30


def test_voice_without_a_voiced_frame():
  silence_T = np.zeros(7_200, np.int16)
  found = metrics.voice_metrics(silence_T, silence_T, RATE)
  assert all(math.isnan(found[name]) for name in (
      'f0_rmse_cents', 'voicing_f1', 'periodicity', 'periodicity_target'))
  assert (found['pitch_frames'], found['voiced_frames']) == (31, 0)
  one_sided = metrics.voice_metrics(_tone(150, 0.3), silence_T, RATE)
  assert math.isnan(one_sided['f0_rmse_cents'])
  assert one_sided['voicing_f1'] == one_sided['periodicity'] == 0
  assert one_sided['periodicity_target'] > 0.99


def test_valid_scalars_are_averages_of_what_is_defined(mel):
  tone_T, silence_T = _tone(150, 0.4, mel.sample_rate), np.zeros(3_200, np.int16)
  found = metrics.valid_scalars([tone_T, silence_T, tone_T],
                                [tone_T[:2_400], silence_T, _noise(3_300)], mel)
  each = [metrics.compare(tone_T[:2_400], tone_T[:2_400], mel),
          metrics.compare(silence_T, silence_T, mel),
          metrics.compare(tone_T, _noise(3_300), mel)]
  assert found == {f'valid_{name}': metrics.average(each)[name] for name in (
      'log_mel_l1', 'f0_rmse_cents', 'voicing_f1', 'periodicity', 'periodicity_target')}
  assert found['valid_f0_rmse_cents'] == 0 and 0.4 < found['valid_voicing_f1'] <= 0.55
  silent = metrics.valid_scalars([silence_T], [silence_T], mel)
  assert silent == {'valid_log_mel_l1': 0}


def test_durations_with_and_without_silence():
  speech_T = _noise(24_000)
  padded_T = np.concatenate([np.zeros(12_000, np.int16), speech_T, np.zeros(6_000, np.int16)])
  found = metrics.duration_error_seconds(speech_T, padded_T, RATE)
  assert found['length_error_seconds'] == 0.75
  assert found['speech_error_seconds'] == pytest.approx(0, abs=0.09)  # 2 trim frames
  silent = metrics.duration_error_seconds(speech_T, 0 * speech_T, RATE)
  assert silent == {'length_error_seconds': 0, 'speech_error_seconds': -1}


@pytest.mark.parametrize('mel', [MelConfig(), mel_preset('parallel_wavegan24k')],
                         ids=lambda mel: mel.name)
def test_compare_a_cut_and_louder_copy(mel):
  """Constant gain: the log-mel distance is its logarithm in any log base."""
  target_T = _noise(9_600)
  found = metrics.compare(target_T, target_T[:7_200] * np.int16(4), mel)
  assert found['log_mel_l1'] == pytest.approx(math.log(4), abs=0.01)
  assert found['length_error_seconds'] == pytest.approx(-0.1)
  assert found['stft_convergence'] == pytest.approx(3, rel=1e-3)
  assert json.loads(json.dumps(found)).keys() == found.keys()


@pytest.mark.parametrize('samples', [0, 1, 700, 1_700])
def test_too_short_or_silent_is_null_and_never_a_crash(samples):
  silence_T = np.zeros(7_200, np.int16)
  for found in (metrics.compare(_noise(samples), silence_T, MelConfig()),
                metrics.compare(silence_T, _noise(samples), MelConfig())):
    row = json.loads(json.dumps(metrics.average([found]), allow_nan=False))
    assert row['log_mel_l1'] is row['stft_distance'] is row['f0_rmse_cents'] is None
    assert row['length_error_seconds'] == pytest.approx((7_200 - samples) / RATE)


def test_silence_against_itself():
  silence_T = np.zeros(7_200, np.int16)
  found = metrics.compare(silence_T, silence_T, MelConfig())
  assert found['log_mel_l1'] == found['speech_error_seconds'] == 0
  assert math.isnan(found['stft_distance'])


def test_compare_refuses_floats():
  with pytest.raises(ValueError, match='int16'):
    metrics.compare(np.zeros(7_200), np.zeros(7_200), MelConfig())


def test_average_skips_undefined_sums_counts_and_drops_signs():
  rows = [{'a': 1.0, 'b': math.nan, 'x_frames': 3, 'error': -2.0},
          {'a': 2.0, 'b': math.nan, 'x_frames': 0, 'error': 2.0},
          {'a': math.nan, 'b': math.nan, 'x_frames': 4, 'error': 0.5}]
  assert metrics.average(rows) == {'a': 1.5, 'b': None, 'x_frames': 7, 'error': 1.5}
  assert metrics.average([]) == {}
