"""What the spectrogram already says: linear prediction from the mel, exact in integers.

The mel spectrogram that conditions every model fixes, frame by frame, the power
spectrum of the speech, and a power spectrum fixes the best *linear* prediction of a
sample from any set D of known samples (Wiener):

    log A   a natural cubic spline over the bands, such that Σ_k M_bk A_k = exp(m_b)
    r     = irfft(A²) · lag window, r_0 · (1 + 1e−5)          autocorrelation, by cosines
    r_n   / Σ_t h_t h_{t+n}                                   of the signal, not of the window
    w     = R_DD⁻¹ r_D,  R_ij = r_|i−j|                       weights of the known samples
    v     = r_0 − w · r_D                                     expected square of what is left
    p̂_t   = Σ_d w_d s_{t+d}                                   of the frame nearest to t
    x_t   = (s_t − p̂_t) mod 2¹⁶                               coded in place of s_t

The filters of low bands are about as wide as the harmonics of a low voice are apart. A
spectrum that is only read off at their centres has lost half of the pitch; one of which the
filters would see this very mel has it. The window h has widened each harmonic, too: the
expected autocorrelation of what it shows is that of the signal times its own.

p̂_t depends on known samples alone and s ↔ x is one to one, so Σ ln P(x_t) is the exact
log-likelihood of the 16-bit audio. w is rounded to integers, so p̂_t is a sum of integer
products: the same in every order of summation, on every engine.

Nothing here is trained. Weights are solved in float64, whose rounding is far below
that of the integers, so another program gets the same weights from these equations.
"""

import typing

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from scipy import interpolate

from wavernn_jax import audio
from wavernn_jax.config import MelConfig

FRACTION_BITS = 12  # of a weight where they fit, fewer in a frame whose weights are larger
_LARGEST = 2**15 - 1  # of a weight
# Σ|w| up to which Σ w s of 16-bit samples, and its rounding, stay within 32 bits.
_LARGEST_SUM = 2**16 - 8
_LAG_WINDOW_HZ = 5.0  # widens every harmonic a little: the mel does not know it exactly
_WHITE_NOISE = 1e-5  # of the power, added: keeps the solution bounded
_INVERSIONS = 4  # steps towards the spectrum whose mel is given
_LARGEST_LOG = 25.0  # |log A| of a band's filter, twice that of any audio
_LARGEST_CORRECTION = 4.0  # of the window
_FULL_SCALE = 32_768


class Filter(typing.NamedTuple):
  """Prediction of a frame's samples; leading axes are those of the frames.

  taps: int32 [..., D], the weights times 2^shift, of the offsets in their order.
  shift: int32 [...].
  scale: float32 [...], σ: the expected size of the residual in 16-bit steps.
  level: float32 [...]: that of the samples.
  """

  taps: jax.Array
  shift: jax.Array
  scale: jax.Array
  level: jax.Array


def offsets(taps: int) -> np.ndarray:
  """The known samples of a model that draws in order: the last `taps`, −taps .. −1."""
  return np.arange(-taps, 0)


def known(lanes: int, step: int, horizon: int, offsets_D) -> np.ndarray:
  """Which offsets are known when a sample of each lane is drawn (§4), bool SxD.

  Args:
    lanes: S; lane s has the samples S·i + s.
    step: Δ: positions by which a lane is behind the one before.
    horizon: F: positions ahead up to which a lane knows those before it.
    offsets_D: in samples.
  """
  lane_Sx1 = np.arange(lanes)[:, None]
  position_SxD, of_SxD = np.divmod(lane_Sx1 + offsets_D, lanes)
  own_or_later_SxD = -1 - (of_SxD - lane_Sx1) * step
  return position_SxD <= np.where(of_SxD < lane_Sx1, horizon, own_or_later_SxD)


def spectral_filter(mel_NxM, known_LxD, offsets_D, mel: MelConfig) -> Filter:
  """The prediction of each frame from the known samples, for each of L lanes.

  Args:
    mel_NxM: log mel frames, any leading axes.
    known_LxD: bool, which of the offsets are known to each lane (static): to each at
      least what the one before it knows.
    offsets_D: from a lane's own sample, ascending (static). Lanes are a sample apart.
    mel: their convention.

  Returns:
    A Filter with leading axes [..., L]; taps of what is not known are 0.
  """
  with jax.enable_x64(True):
    r_NxK = signal_autocorrelation(mel_NxM, known_LxD, offsets_D, mel)
    taps = len(offsets_D)
    if known_LxD.all() and (len(known_LxD), *offsets_D[[0, -1]]) == (1, -taps, -1):
      w_NxD, v_N, _ = levinson(r_NxK, taps)
      w_NxLxD, v_NxL = w_NxD[..., None, :], v_N[..., None]
    else:
      w_NxLxD, v_NxL = solve(r_NxK, offsets_D, known_LxD)
    return filter_of(w_NxLxD, v_NxL, jnp.broadcast_to(r_NxK[..., :1], v_NxL.shape), mel)


def signal_autocorrelation(mel_NxM, known_LxD, offsets_D, mel: MelConfig, lags: int = 0):
  """r of the signal, without the window, with all lags that `solve` takes, or more: float64."""
  least = max(-offsets_D[0], offsets_D[-1] - offsets_D[0] + len(known_LxD) - 1)
  r_NxK = autocorrelation(mel_NxM.astype(jnp.float64), int(max(least, lags)), mel)
  return without_window(r_NxK, mel)


def filter_of(w_NxD, v_N, r_N, mel: MelConfig) -> Filter:
  """The Filter of weights, what they leave, and r_0; float64."""
  return Filter(*quantise(w_NxD), _size(v_N, mel), _size(r_N, mel))


def _size(power_N, mel: MelConfig):
  """The size in 16-bit steps of what has a power under the window."""
  window = np.square(audio.hann(mel.window)).sum()
  # A sample is rounded to an integer: nothing is smaller than that.
  return jnp.sqrt(power_N * (_FULL_SCALE**2 / window) + 1 / 12).astype(jnp.float32)


def autocorrelation(mel_NxM, lags: int, mel: MelConfig):
  """r_0 .. r_lags of each frame under its window, [..., lags + 1], of samples in [−1, 1]."""
  power_NxK = jnp.exp(2 / mel.power * _log_spectrum(mel_NxM, mel))
  # A product: XLA for TPUs has no Fourier transform in float64.
  r_NxL = jnp.matmul(power_NxK, _cosines(mel.n_fft, lags), precision=lax.Precision.HIGHEST)
  lag = np.arange(lags + 1)
  window = np.exp(-0.5 * (2 * np.pi * _LAG_WINDOW_HZ * lag / mel.sample_rate)**2)
  window[0] += _WHITE_NOISE
  return r_NxL * window


def _log_spectrum(mel_NxM, mel: MelConfig):
  """Log of what the filters sum, at each bin [..., K], such that their sums are the mel's.

  What the filters miss of the mel is added to the spline's values again and again: each
  sees its own band most, so the rest shrinks.
  """
  filters_MxK = np.float64(audio.filterbank(mel))
  area_M = filters_MxK.sum(axis=1)
  full = np.flatnonzero(area_M)  # at a low n_fft the narrowest may hold no bin
  filters_MxK, area_M = filters_MxK[full], area_M[full]
  spline_MxK = _spline(filters_MxK)

  def spectrum(value_NxM):
    return jnp.clip(value_NxM @ spline_MxK, -_LARGEST_LOG, _LARGEST_LOG)
  log_e = mel_NxM * (np.log(10) if mel.log == '10' else 1)
  target_NxM = value_NxM = log_e[..., full] - np.log(area_M)
  for _ in range(_INVERSIONS):
    seen_NxM = jnp.log(jnp.exp(spectrum(value_NxM)) @ (filters_MxK / area_M[:, None]).T)
    value_NxM = value_NxM + target_NxM - seen_NxM
  return spectrum(value_NxM)


def _cosines(n_fft: int, lags: int) -> np.ndarray:
  """Float64 [n_fft/2 + 1, lags + 1]: the first lags of an inverse transform of a real spectrum."""
  bin_K = np.arange(n_fft // 2 + 1)
  # All bins stand for two, but the first, and the last of an even transform.
  weight_K = np.where((bin_K == 0) | (2 * bin_K == n_fft), 1, 2) / n_fft
  turns_KxL = bin_K[:, None] * np.arange(lags + 1) % n_fft / n_fft
  return weight_K[:, None] * np.cos(2 * np.pi * turns_KxL)


def _spline(filters_MxK) -> np.ndarray:
  """Weights MxK of the bands at each bin: a natural cubic spline over the numbers of bands.

  A bin's number is linear between the centres of the filters, and held outside.
  """
  bands, bins = filters_MxK.shape
  centre_M = filters_MxK @ np.arange(bins) / filters_MxK.sum(axis=1)
  number_K = np.interp(np.arange(bins), centre_M, np.arange(bands))
  of_band = interpolate.CubicSpline(np.arange(bands), np.eye(bands), bc_type='natural')
  return of_band(number_K).T


def window_correction(lags: int, mel: MelConfig) -> np.ndarray:
  """What the autocorrelation of a windowed frame is multiplied with to be that of the signal."""
  window = np.pad(np.float64(audio.hann(mel.window)), (0, lags))
  own = np.array([window[:mel.window] @ window[n:n + mel.window] for n in range(lags + 1)])
  return np.minimum(own[0] / np.maximum(own, 1e-9), _LARGEST_CORRECTION)


def least_error(r_NxK):
  """v [...] that is less than any of a power spectrum with the white noise."""
  return 0.5 * _WHITE_NOISE * r_NxK[..., 0]


def without_window(r_NxK, mel: MelConfig):
  """r times `window_correction`, but in frames where no signal has that."""
  lags = r_NxK.shape[-1] - 1
  corrected_NxK = r_NxK * window_correction(lags, mel)
  *_, least_N = levinson(corrected_NxK, lags)
  return jnp.where((least_N >= least_error(r_NxK))[..., None], corrected_NxK, r_NxK)


def levinson(r_NxK, taps: int):
  """Weights [..., taps] of the last samples, the latest last, and v [...] (Durbin's recursion).

  Returns:
    Both, and the least v of any number of taps up to this: below 0 if r is of no signal.
  """
  def step(k, carry):
    a_NxD, v_N, least_N = carry  # a_j of the sample j + 1 ago; those from k on are 0
    reversed_NxD = jnp.roll(a_NxD[..., ::-1], k - taps, axis=-1)
    past_NxD = jnp.roll(r_reversed_NxD, k - taps, axis=-1)  # r_k, r_{k−1}, .., from index 0
    here = jnp.arange(taps) < k
    reflection_N = (lax.dynamic_index_in_dim(r_NxK, k + 1, -1, keepdims=False)
                    - jnp.where(here, a_NxD * past_NxD, 0).sum(-1)) / v_N
    a_NxD = a_NxD - reflection_N[..., None] * jnp.where(here, reversed_NxD, 0)
    a_NxD = jnp.where(jnp.arange(taps) == k, reflection_N[..., None], a_NxD)
    v_N = v_N * (1 - reflection_N**2)
    return a_NxD, v_N, jnp.minimum(least_N, v_N)

  r_reversed_NxD = r_NxK[..., taps:0:-1]
  start = jnp.zeros((*r_NxK.shape[:-1], taps), r_NxK.dtype), r_NxK[..., 0], r_NxK[..., 0]
  a_NxD, v_N, least_N = lax.fori_loop(0, taps, step, start)
  return a_NxD[..., ::-1], v_N, least_N


def solve(r_NxK, offsets_D, known_LxD):
  """Weights [..., L, D] of any known samples, and v [..., L]; 0 where one is not known.

  One Cholesky factor serves all lanes: with the samples in the order in which lanes come
  to know them, what a lane knows is a leading part of them, and the factor of a leading
  part is the leading part of the factor.

  Raises:
    ValueError: if a lane does not know all that the one before it knows.
  """
  lane_L = np.arange(len(known_LxD))
  at_LxD = lane_L[:, None] + offsets_D  # time, counted from the first lane's sample
  at_A, first_A = np.unique(at_LxD[known_LxD], return_index=True)
  at_A = at_A[np.argsort(first_A)]  # lane by lane
  place_LxDxA = (at_LxD[..., None] == at_A) & known_LxD[..., None]
  inside_LxA = np.arange(len(at_A)) < known_LxD.sum(axis=1)[:, None]
  if (place_LxDxA.any(axis=1) != inside_LxA).any():
    raise ValueError('lanes: each must know what the one before it knows.')
  factor = jnp.linalg.cholesky(r_NxK[..., np.abs(at_A[:, None] - at_A)])

  def divide(x_NxAxL, transpose):
    return lax.linalg.triangular_solve(factor, x_NxAxL, left_side=True, lower=True,
                                       transpose_a=transpose)
  # Of a leading part, the forward substitution is that of all; the backward one is not.
  half_NxAxL = divide(r_NxK[..., np.abs(at_A[:, None] - lane_L)], False) * inside_LxA.T
  w_NxLxA = divide(half_NxAxL, True).swapaxes(-1, -2)
  v_NxL = r_NxK[..., :1] - (half_NxAxL**2).sum(-2)
  place_LxD = place_LxDxA.argmax(axis=-1)
  return w_NxLxA[..., lane_L[:, None], place_LxD] * known_LxD, v_NxL


def quantise(w_NxD):
  """int32 weights [..., D] and the power of two [...] that they stand over."""
  largest_N = jnp.abs(w_NxD).max(-1)
  # Rounding adds up to 1/2 to each.
  room_N = (_LARGEST_SUM - w_NxD.shape[-1] / 2) / jnp.maximum(jnp.abs(w_NxD).sum(-1), 1e-9)
  room_N = jnp.minimum(room_N, _LARGEST / jnp.maximum(largest_N, 1e-9))
  shift_N = jnp.clip(jnp.floor(jnp.log2(room_N)), 0, FRACTION_BITS)
  w_NxD = w_NxD * jnp.exp2(jnp.minimum(shift_N, jnp.floor(jnp.log2(room_N))))[..., None]
  return jnp.rint(w_NxD).astype(jnp.int32), shift_N.astype(jnp.int32)


def finish(sum_N, shift_N):
  """p̂ from Σ w s: divided by 2^shift, rounded, and clipped to 16 bits; int32."""
  rounding = jnp.where(shift_N > 0, 1 << jnp.maximum(shift_N - 1, 0), 0)
  return jnp.clip((sum_N + rounding) >> shift_N, -2**15, 2**15 - 1)


def predict(taps_NxD, shift_N, known_NxD):
  """p̂ [...] from the known samples themselves, in the order of the offsets; int32."""
  return finish((taps_NxD * known_NxD.astype(jnp.int32)).sum(-1), shift_N)


def predict_all(taps_DxBxF, shift_TxB, pcm_NxB, row_T, offsets_D, first: int):
  """p̂ TxB of the samples first .. first + T − 1 of int16 pcm_NxB; int32.

  What `predict` gives for each, without a copy of the known samples for each.

  Args:
    taps_DxBxF: of each frame (of each lane, where there are lanes).
    shift_TxB: of each sample's frame.
    pcm_NxB: samples; N reaches the known samples of all.
    row_T: the frame of each sample (static).
    offsets_D: of the known samples (static).
    first: the sample that the first prediction is of.
  """
  steps = len(shift_TxB)
  start_D = jnp.asarray(first + offsets_D, jnp.int32)
  pcm_NxB = pcm_NxB.astype(jnp.int32)

  def add(i, sum_TxB):
    taps_BxF = lax.dynamic_index_in_dim(taps_DxBxF, i, keepdims=False)
    return sum_TxB + taps_BxF.T[row_T] * lax.dynamic_slice_in_dim(pcm_NxB, start_D[i], steps)

  return finish(lax.fori_loop(0, len(offsets_D), add, jnp.zeros_like(shift_TxB)), shift_TxB)


def outlast(mel_FxBxM, mel: MelConfig):
  """Frames 1, 2, .. of F, where one that is at the floor in all bands is as the one before.

  The last samples of an utterance may be nearer to a frame beyond its end, which says
  nothing of them.
  """
  silent_FxBx1 = (mel_FxBxM <= audio.mel_floor(mel) + 1e-6).all(axis=-1, keepdims=True)
  return jnp.where(silent_FxBx1[1:], mel_FxBxM[:-1], mel_FxBxM[1:])


def nearest_frame(sample, mel: MelConfig):
  """The frame whose centre is nearest to a sample from a frame boundary; −1 and more."""
  return np.floor((sample - audio.frame_offset(mel)) / mel.hop + 0.5).astype(int)


def encode(s, predicted):
  """The residual x = (s − p̂) mod 2¹⁶ as int16."""
  return (s.astype(jnp.int32) - predicted).astype(jnp.int16)


def decode(x, predicted):
  """The sample of a *drawn* residual: p̂ + x, held within 16 bits.

  Where `encode` wraps, a drawn value that would is a click at full scale.
  """
  return jnp.clip(predicted + x.astype(jnp.int32), -2**15, 2**15 - 1).astype(jnp.int16)
