"""Prediction from the spectrogram: weights against float64 solves."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.linalg
from spectrograms import KINDS, MEL, PRESETS, TAPS, filters, mels, predict_all

from wavernn_jax import audio, config
from wavernn_jax.models import prediction


def spectrum(mel_FxM, mel) -> np.ndarray:
  """The docstring's A² of each frame in numpy, band after band, FxK."""
  filters_MxK = np.float64(audio.filterbank(mel))
  log_e = np.float64(mel_FxM) * (np.log(10) if mel.log == '10' else 1)
  bins, area_M = np.arange(mel.n_fft // 2 + 1), filters_MxK.sum(axis=1)
  number_K = np.interp(bins, (filters_MxK * bins).sum(axis=1) / area_M, np.arange(mel.bands))
  made = []
  for row in log_e - np.log(area_M):
    values = row
    for step in range(5):
      spline = scipy.interpolate.make_interp_spline(
          np.arange(mel.bands), values, k=3, bc_type='natural')
      seen_K = np.exp(np.clip(spline(number_K), -25, 25))
      if step < 4:
        values = values + row - np.log([f @ seen_K / f.sum() for f in filters_MxK])
    made.append(seen_K**(2 / mel.power))
  return np.array(made)


def autocorrelation(mel_FxM, mel, lags) -> np.ndarray:
  """The docstring's r in numpy, F x (lags + 1)."""
  lag = np.arange(lags + 1)
  r_FxN = np.fft.irfft(spectrum(mel_FxM, mel), mel.n_fft)[:, :lags + 1]
  r_FxN = r_FxN * np.exp(-0.5 * (2 * np.pi * 5 * lag / mel.sample_rate)**2)
  r_FxN[:, 0] *= 1 + 1e-5
  window = np.float64(audio.hann(mel.window))
  own_N = np.correlate(window, window, 'full')[mel.window - 1:][:lags + 1]
  for r_N in r_FxN:
    corrected_N = r_N * np.minimum(own_N[0] / own_N, 4)
    if is_of_a_signal(corrected_N):
      r_N[:] = corrected_N
  return r_FxN


def is_of_a_signal(r_N) -> bool:
  """Whether the error of every number of taps is above half of the white noise."""
  try:
    factor = np.linalg.cholesky(scipy.linalg.toeplitz(r_N))
  except np.linalg.LinAlgError:
    return False
  return (np.diag(factor)**2 >= 0.5e-5 * r_N[0]).all()


# Weights


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('kind', ['speech', 'tilted', 'loud'])
def test_the_autocorrelation_is_the_inverse_transform_of_the_power(preset, kind):
  mel = config.mel_preset(preset)
  mel_FxM = mels(mel, kind, 3)
  with jax.enable_x64(True):
    found = jax.jit(lambda m: prediction.without_window(
        prediction.autocorrelation(m, 192, mel), mel))(np.float64(mel_FxM))
  expected = autocorrelation(mel_FxM, mel, 192)
  assert found.dtype == np.float64
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * expected.max())


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('kind', KINDS)
def test_weights_are_those_of_a_float64_solve_rounded(preset, kind):
  mel = config.mel_preset(preset)
  mel_FxM = mels(mel, kind, 3)
  found = filters(mel_FxM, mel)
  for r, taps_D, shift, scale, level in zip(
      autocorrelation(mel_FxM, mel, TAPS), *found, strict=True):
    w_D = scipy.linalg.solve_toeplitz(r[:-1], r[1:])[::-1]
    np.testing.assert_allclose(taps_D, w_D * 2.0**shift, atol=0.5 + 1e-3)
    window = np.square(audio.hann(mel.window)).sum()
    power = np.array([r[0] - w_D @ r[:0:-1], r[0]]) * 2**30 / window + 1 / 12
    np.testing.assert_allclose([scale, level], np.sqrt(power), rtol=1e-4)


@pytest.mark.parametrize('preset', PRESETS)
def test_the_spectrum_has_the_mel_that_it_was_made_of(preset):
  mel = config.mel_preset(preset)
  mel_FxM = mels(mel, 'speech')
  with jax.enable_x64(True):
    log_FxK = jax.jit(lambda m: prediction._log_spectrum(m, mel))(np.float64(mel_FxM))
  seen_FxM = np.log(np.exp(log_FxK) @ np.float64(audio.filterbank(mel)).T)
  seen_FxM /= np.log(10) if mel.log == '10' else 1
  assert np.abs(seen_FxM - mel_FxM).mean() < 0.03


def test_without_the_window_the_autocorrelation_is_that_of_the_signal():
  rng, lags = np.random.default_rng(0), 60
  coefficients = [1, -1.6, 0.8]
  wave = scipy.signal.lfilter([1], coefficients, rng.standard_normal(2_000 * MEL.window))
  frames_FxN = wave.reshape(-1, MEL.window) * audio.hann(MEL.window)
  r_FxN = np.fft.irfft(np.abs(np.fft.rfft(frames_FxN, 2 * MEL.window))**2)[:, :lags]
  found = r_FxN.mean(axis=0) * prediction.window_correction(lags - 1, MEL)
  response = scipy.signal.lfilter([1], coefficients, np.eye(1, 4_000)[0])
  expected = np.array([response[n:] @ response[:4_000 - n] for n in range(lags)])
  np.testing.assert_allclose(found / found[0], expected / expected[0], atol=0.01)


@pytest.mark.parametrize('kind', KINDS)
def test_where_no_signal_has_it_the_window_stays(kind):
  """By eigenvalues: the corrected autocorrelation is taken where it is positive definite."""
  lags = 400
  with jax.enable_x64(True):
    r_FxN = np.asarray(prediction.autocorrelation(jnp.asarray(mels(MEL, kind), float), lags, MEL))
    found_FxN = np.asarray(prediction.without_window(jnp.asarray(r_FxN), MEL))
  corrected_FxN = r_FxN * prediction.window_correction(lags, MEL)
  for r, corrected, found in zip(r_FxN, corrected_FxN, found_FxN, strict=True):
    least = np.linalg.eigvalsh(scipy.linalg.toeplitz(corrected))[0] / r[0]
    if least < -1e-8:
      np.testing.assert_array_equal(found, r)
    elif least > 1e-5:
      np.testing.assert_array_equal(found, corrected)
    assert np.linalg.eigvalsh(scipy.linalg.toeplitz(found))[0] > 0


@pytest.mark.parametrize('known', ['random', 'lanes'])
def test_weights_of_any_known_samples_are_those_of_the_normal_equations(known):
  offsets = np.concatenate([np.arange(-20, 0), np.arange(1, 9)])
  if known == 'lanes':
    known_LxD = prediction.known(4, 3, 2, offsets) & _near(4, offsets)
  else:
    known_LxD = np.random.default_rng(0).random((1, len(offsets))) < 0.6
  mel_FxM = mels(MEL, 'speech', 2)
  found = jax.jit(lambda m: prediction.spectral_filter(m, known_LxD, offsets, MEL))(mel_FxM)
  for f, r in enumerate(autocorrelation(mel_FxM, MEL, 28)):
    for lane, known_D in enumerate(known_LxD):
      d = offsets[known_D]
      w = np.linalg.solve(r[np.abs(d[:, None] - d)], r[np.abs(d)])
      taps_D = np.asarray(found.taps[f, lane])
      assert not taps_D[~known_D].any()
      np.testing.assert_allclose(
          taps_D[known_D], w * 2.0**np.asarray(found.shift[f, lane]), atol=0.51)


def _near(lanes, offsets_D):
  """Of each lane the samples of a window that all lanes share, SxD."""
  at_SxD = np.arange(lanes)[:, None] + offsets_D
  return (at_SxD >= -20 + lanes - 1) & (at_SxD <= 8)


def test_lanes_of_which_one_knows_less_than_the_one_before_are_an_error():
  with pytest.raises(ValueError, match='each must know what the one before it knows'):
    prediction.solve(np.ones((1, 9)), np.array([-4, -3, -2]),
                     np.array([[True, False, False], [False, False, True]]))


@pytest.mark.parametrize('lanes, horizon', [(4, 3), (3, 0), (2, 2), (1, 0)])
def test_known_is_what_the_schedule_has_drawn(lanes, horizon):
  step, offsets = horizon + 1, np.arange(-40, 40)
  known_SxD = prediction.known(lanes, step, horizon, offsets)
  for s in range(lanes):
    for d, known in zip(offsets, known_SxD[s], strict=True):
      position, lane = divmod(100 * lanes + s + d, lanes)
      drawn = position + lane * step < 100 + s * step  # in an earlier step
      # More than F positions ahead an earlier lane is not heard, though it may be drawn.
      assert known == (drawn and not (lane < s and position > 100 + horizon)), (s, d)


def test_the_past_by_levinson_is_the_past_by_cholesky():
  with jax.enable_x64(True):
    r = jnp.asarray(autocorrelation(mels(MEL, 'speech'), MEL, 64))
    offsets = prediction.offsets(64)
    *found, least_F = prediction.levinson(r, 64)
    for a, b in zip(found, prediction.solve(r, offsets, np.ones((1, 64), bool)), strict=True):
      np.testing.assert_allclose(a, b[:, 0], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(least_F, found[1])  # more taps leave less


@pytest.mark.parametrize('kind', KINDS)
def test_a_sum_of_16_bit_samples_stays_within_32_bits(kind):
  found = filters(mels(MEL, kind), taps=192)
  assert np.isfinite(found.scale).all() and (found.scale >= np.float32(12**-0.5)).all()
  largest = np.abs(found.taps.astype(np.int64)).sum(-1) * 2**15 + (1 << found.shift) // 2
  assert (largest < 2**31).all() and (np.abs(found.taps) < 2**15).all()


def test_weights_that_need_it_stand_over_a_coarser_power_of_two():
  w = np.array([[0.5, -0.25, 0.1], [3.0, -9.0, 6.0], [40.0, -70.0, 35.0]])
  with jax.enable_x64(True):
    taps, shift = (np.asarray(a) for a in prediction.quantise(jnp.asarray(w)))
  assert shift.tolist() == [12, 11, 8]
  np.testing.assert_array_equal(taps, np.rint(w * 2.0**shift[:, None]))


@pytest.mark.parametrize('sigma', [20.0, 300.0])
def test_it_predicts_what_it_is_made_for(sigma):
  """The residual of coloured noise is about as large as σ says, and far below the signal."""
  rng = np.random.default_rng(0)
  pcm = scipy.signal.lfilter([1], [1, -1.6, 0.8], sigma * rng.standard_normal(48_000))
  pcm = np.int16(np.clip(pcm, -2**15, 2**15 - 1))
  mel_FxM = audio.utterance_log_mel(pcm, MEL)
  found = filters(mel_FxM)
  row_T = prediction.nearest_frame(np.arange(TAPS, len(pcm)), MEL)
  predicted = predict_all(found, pcm, row_T)
  residual = np.asarray(prediction.encode(pcm[TAPS:], predicted), np.float64)
  assert residual.std() < 1.15 * sigma < 0.5 * pcm.std()
  assert 0.7 < np.median(found.scale) / sigma < 1.2
