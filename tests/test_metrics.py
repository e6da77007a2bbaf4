"""Free-running metrics and pictures against independent computations."""

import functools
import json
import math

import hypothesis
from hypothesis import strategies as st
import librosa
import numpy as np
import pytest
from scipy import signal

from wavernn_jax.config import MelConfig, mel_preset
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import metrics, pictures

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


@pytest.mark.parametrize('cents, rate, hop', [(100, RATE, 300), (-250, 22_050, 256)])
def test_f0_rmse_is_the_shift_of_a_harmonic_tone(cents, rate, hop):
  shifted = _tone(150 * 2**(cents / 1_200), rate=rate)
  found = metrics.f0_metrics(_tone(150, rate=rate), shifted, rate, hop)
  assert found['f0_rmse_cents'] == pytest.approx(abs(cents), abs=6)  # grid: 10 cents
  assert found['voicing_f1'] == 1
  assert found['voiced_frames'] == found['pitch_frames'] == 1 + round(0.6 * rate) // hop


def test_voicing_f1_counts_the_frames_only_one_calls_voiced():
  tone_T = _tone(150)
  half_T = np.concatenate([tone_T[:7_200], _noise(7_200)])
  found = metrics.f0_metrics(tone_T, half_T, RATE, 300)
  both, frames = found['voiced_frames'], found['pitch_frames']
  assert frames == 49
  assert 22 <= both <= 28  # half, give or take the frames astride the border
  assert found['voicing_f1'] == pytest.approx(2 * both / (both + frames))
  assert found['f0_rmse_cents'] < 30


def test_f0_without_a_voiced_frame():
  found = metrics.f0_metrics(_noise(7_200), np.zeros(7_200, np.int16), RATE, 300)
  assert math.isnan(found['f0_rmse_cents']) and math.isnan(found['voicing_f1'])
  assert (found['pitch_frames'], found['voiced_frames']) == (25, 0)
  one_sided = metrics.f0_metrics(_tone(150, 0.3), np.zeros(7_200, np.int16), RATE, 300)
  assert math.isnan(one_sided['f0_rmse_cents']) and one_sided['voicing_f1'] == 0


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


def _rows(fine: float) -> list[dict]:
  train = [{'step': s, 'nll': 6.0, 'nll_coarse': 1.0 + 1 / s, 'nll_fine': fine}
           for s in (1, 2, 3)]
  return train + [{'step': 3, 'valid_nll_coarse': 1.2, 'valid_nll_fine': 5.3},
                  {'step': 2, 'nll_coarse': 9.0, 'nll_fine': fine}, {'step': 9, 'other': 1}]


def test_learning_curve_plots_each_byte_and_the_uniform_line_in_range():
  coarse, fine = pictures.learning_curve(_rows(fine=5.6)).axes
  train, valid, uniform = fine.lines
  assert train.get_xydata().tolist() == [[1, 5.6], [2, 5.6], [3, 5.6]]
  assert valid.get_xydata().tolist() == [[3, 5.3]]
  assert uniform.get_ydata()[0] == pytest.approx(math.log(256))
  assert coarse.lines[0].get_xydata()[1].tolist() == [2, 9.0]  # the later row of a step
  assert len(pictures.learning_curve(_rows(fine=5.4)).axes[1].lines) == 2
  pictures.to_array(pictures.learning_curve([]))


def test_spectrogram_pair_shares_scale_and_time():
  mel = MelConfig()
  target_FxM = np.random.default_rng(0).normal(size=(80, mel.bands))
  draw = functools.partial(pictures.spectrogram_pair, target_FxM, mel=mel, title='x')
  top, bottom = draw(target_FxM[:40] - 5).axes[:2]
  assert top.images[0].get_clim() == bottom.images[0].get_clim()
  np.testing.assert_array_equal(top.images[0].get_array(), target_FxM.T)
  assert bottom.get_xlim() == (0, 1.0)  # 80 frames of 300 samples at 24 kHz
  assert bottom.images[0].get_extent()[1] == 0.5
  band = dict(zip([t.get_text() for t in top.get_yticklabels()], top.get_yticks(), strict=True))
  edges_hz = librosa.mel_frequencies(mel.bands + 2, fmin=mel.fmin, fmax=mel.fmax)
  nearest = np.argmin(np.abs(edges_hz - 4_000)) - 1
  assert band['4,000'] == pytest.approx(nearest, abs=0.5)


def test_save_is_atomic(tmp_path, monkeypatch):
  figure, path = pictures.learning_curve(_rows(5.6)), tmp_path / 'curve.png'
  pictures.save(figure, path)
  old = path.read_bytes()
  assert old.startswith(b'\x89PNG')
  array = pictures.to_array(figure)
  assert array.dtype == np.uint8 and array.shape == (480, 1200, 3) and array.min() < 50

  def full(file, **_):
    file.write(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(figure, 'savefig', full)
  with pytest.raises(InputError, match='curve.png: cannot be written .disk full'):
    pictures.save(figure, path)
  assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
