"""What lanes (§4) hear: the excitation of the speech, as far as their residuals tell it.

Weights from both sides are the best where the excitation is as loud before a sample as after
it, and as white as the spectrogram says. In speech it is neither. A plain model knows better
from its last residuals, which *are* the excitation. Those of lanes are not, but they say
what it was. With e_τ the error of the plain prediction over its σ, and z_t = x_t/σ_t the
residual of a lane:

    g_k = cov(e_{t+k}, z_t)                                  how far z_t spreads over e
    ê_τ = Σ_t g_{τ−t} z_t                                    of all that are drawn
    u_τ = 1 − Σ_t g²_{τ−t}                                   what ê_τ leaves of the variance 1

If the loudness near τ is h_τ^{−1/2} in place of 1, for which ê² + u is smoothed, the
next residual is expected at δ, and its size is exp(λ), both over σ:

    δ = −Σ_k g_k ê_{t+k} (h_{t+k} − 1) / Σ_k g_k² h_{t+k}     one step of Newton's method
    λ = −½ ln Σ_k g_k² h_{t+k}

And if e has an autocorrelation that the spectrogram does not show, z_t depends in the first
order on its products with e at each lag j, by way of

    φ_j = Σ_k g_k (ê_{t+k+j} + ê_{t+k−j})        γ_j = Σ_k g_k g_{k+j}

For one lane, which knows all before and nothing after, g_0 = 1 and the others are 0, and φ_j
is the residual j samples ago.

`reach` is such that what a lane hears at its sample's turn is the same whether the lanes take
their turns (sampling) or all of a lane comes before the next one (teacher forcing).
"""

import typing

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax.config import MelConfig
from wavernn_jax.models import prediction

_BEFORE, _AFTER = 47, 95  # samples; a voice's period, at 24 kHz, and what little is before it
_GROUP = 4  # samples of one loudness
_WIDTHS = 3, 6, 12  # standard deviations, in samples, of the windows that loudness is heard in
_SOFTEST = 0.1  # of the expected power, at least
_LAGS = 32
_BOUND = 8.0
EXPECTED = 2 * len(_WIDTHS)  # inputs: δ and λ
CORRELATIONS = 2 * _LAGS  # inputs: φ and γ


class Spread(typing.NamedTuple):
  """Of each frame and lane; leading axes are those of the frames.

  g: [..., K] of the offsets `reach`.
  spectrum: complex [..., 2^n / 2 + 1], the conjugate of the transform of g.
  power: [..., Q], Σ g² of each group of samples.
  unknown: [..., Q], u, the mean of each group.
  gamma: [..., J].
  """

  g: jax.Array
  spectrum: jax.Array
  power: jax.Array
  unknown: jax.Array
  gamma: jax.Array


def reach(lanes: int, step: int) -> np.ndarray:
  """Offsets K from a sample, those of e that it is heard in and that its lane hears.

  Their number is below S·Δ, the samples between two lanes at the same time.
  """
  room = max(0, lanes * step - 2)
  before = min(_BEFORE, room // 3)
  return np.arange(-before, min(_AFTER, room - before) + 1)


def filters(mel_NxM, known_LxD, offsets_D, reach_K, taps: int, mel: MelConfig):
  """The prediction of each frame for each of L lanes, and the Spread of its residuals.

  Args: as for `prediction.spectral_filter`, and
    reach_K: `reach` (static).
    taps: of the plain prediction.
  """
  with jax.enable_x64(True):
    lags = max(0, offsets_D[-1]) - reach_K[0] + taps
    r_NxK = prediction.signal_autocorrelation(mel_NxM, known_LxD, offsets_D, mel, int(lags))
    w_NxLxD, v_NxL = prediction.solve(r_NxK, offsets_D, known_LxD)
    power_NxL = jnp.broadcast_to(r_NxK[..., :1], v_NxL.shape)
    return (prediction.filter_of(w_NxLxD, v_NxL, power_NxL, mel),
            spread(r_NxK, w_NxLxD, v_NxL, offsets_D, reach_K, taps))


def spread(r_NxK, w_NxLxD, v_NxL, offsets_D, reach_K, taps: int) -> Spread:
  """Of each frame and lane.

  Args:
    r_NxK: autocorrelations.
    w_NxLxD: weights of the known samples of each lane.
    v_NxL: the expected square of what they leave.
    offsets_D: of the samples (static).
    reach_K: `reach` (static).
    taps: of the plain prediction.
  """
  a_NxT, plain_N, _ = prediction.levinson(r_NxK, taps)
  filter_NxT = jnp.concatenate([jnp.ones_like(a_NxT[..., :1]), -a_NxT[..., ::-1]], axis=-1)
  # cov(e_τ, s_{τ+m}); it is 0 of the past, m < 0.
  ahead_M = np.arange(max(0, offsets_D[-1]) - reach_K[0] + 1)
  cov_NxM = (r_NxK[..., ahead_M[:, None] + np.arange(taps + 1)] @ filter_NxT[..., None])[..., 0]

  def covariance(m):
    return jnp.where(m >= 0, cov_NxM[..., np.maximum(m, 0)], 0)
  g_NxLxK = covariance(-reach_K)[..., None, :] - w_NxLxD @ covariance(offsets_D[:, None] - reach_K)
  g_NxLxK = g_NxLxK / jnp.sqrt(plain_N[..., None] * v_NxL)[..., None]
  unknown_NxLxQ = _groups(_unknown(g_NxLxK, reach_K)) / _groups(np.ones(len(reach_K)))
  g_NxLxK, power_NxLxQ, unknown_NxLxQ = (
      a.astype(jnp.float32) for a in (g_NxLxK, _groups(g_NxLxK**2), unknown_NxLxQ))
  return from_shape(g_NxLxK, power_NxLxQ, unknown_NxLxQ)


def from_shape(g_NxK, power_NxQ, unknown_NxQ) -> Spread:
  """With what follows from g."""
  spectrum = _transform(g_NxK).conj()
  return Spread(g_NxK, spectrum, power_NxQ, unknown_NxQ,
                _at_lags(jnp.abs(spectrum)**2, g_NxK.shape[-1]))


def _unknown(g_NxLxK, reach_K):
  """u [..., L, K] of what each lane hears before its sample, were all frames alike."""
  lane_L = np.arange(g_NxLxK.shape[-2])
  lanes, square_NxLxK = len(lane_L), g_NxLxK**2
  # The samples of lanes before it: how much is known of e by its place among the lanes.
  place_LxK = (lane_L[:, None] + reach_K) % lanes
  known_NxLxL = jnp.einsum('...lk,lkp->...lp', square_NxLxK,
                           (place_LxK[..., None] == lane_L).astype(square_NxLxK.dtype))
  before_NxLxL = jnp.cumsum(known_NxLxL, axis=-2) - known_NxLxL
  result = 1 - before_NxLxL[..., lane_L[:, None], place_LxK]
  for own in range(lanes, len(reach_K), lanes):  # its own last ones
    result = result - _moved(square_NxLxK, own)
  return jnp.clip(result, 0, 1)


def _moved(a_NxK, by: int):
  """a_{k + by}, 0 beyond the end."""
  return jnp.pad(a_NxK[..., by:], [(0, 0)] * (a_NxK.ndim - 1) + [(0, by)])


def _groups(a_NxK):
  """Sums of each group of samples, [..., Q]."""
  padding = [(0, 0)] * (a_NxK.ndim - 1) + [(0, -a_NxK.shape[-1] % _GROUP)]
  return jnp.pad(a_NxK, padding).reshape(*a_NxK.shape[:-1], -1, _GROUP).sum(-1)


def sequence(pushed_IxSxBxK):
  """ê [I, S, B, K] before each sample of I positions, from g z of each; silence before them."""
  positions, lanes, batch, reached = pushed_IxSxBxK.shape
  blocks = -(-reached // lanes)
  pushed = jnp.pad(pushed_IxSxBxK, [(0, 0)] * 3 + [(0, lanes * blocks - reached)])
  pushed_SxIxQxSxB = jnp.moveaxis(
      pushed.reshape(positions, lanes, batch, blocks, lanes), (1, 3, 4, 2), (0, 2, 3, 4))
  rows = positions + blocks
  tape_NxB = jnp.zeros((lanes * (rows + 1), batch), pushed.dtype)
  heard = []
  for lane, own_IxQxSxB in enumerate(pushed_SxIxQxSxB):
    # From the lane's first offset on: row i + q has what its sample i hears in block q.
    view = tape_NxB[lane:lane + lanes * rows].reshape(rows, lanes, batch)
    read = jnp.stack([view[q:q + positions] for q in range(blocks)], axis=1)
    for ago in range(1, min(blocks, positions)):
      read = read.at[ago:, :blocks - ago].add(own_IxQxSxB[:-ago, ago:])
    heard.append(read.reshape(positions, lanes * blocks, batch)[:, :reached])
    for q in range(blocks):
      view = view.at[q:q + positions].add(own_IxQxSxB[:, q])
    tape_NxB = tape_NxB.at[lane:lane + lanes * rows].set(view.reshape(-1, batch))
  return jnp.stack(heard, axis=1).swapaxes(-1, -2)


def inputs(e_NxK, of: Spread):
  """What a sample hears of ê: (δ and λ for each width [..., 6], φ and γ [..., 2·J])."""
  loudness = _groups(e_NxK**2) / _groups(np.ones(e_NxK.shape[-1])) + of.unknown
  product_NxQ, found = _groups(of.g * e_NxK), []
  for smoothing_QxQ in _smoothings(loudness.shape[-1]):
    h_NxQ = 1 / (_SOFTEST + (1 - _SOFTEST) * loudness @ smoothing_QxQ)
    size_N = (of.power * h_NxQ).sum(-1) + 1e-3
    found += [-(product_NxQ * (h_NxQ - 1)).sum(-1) / size_N, -0.5 * jnp.log(size_N)]
  return (jnp.clip(jnp.stack(found, axis=-1), -_BOUND, _BOUND),
          jnp.clip(jnp.concatenate([_phi(e_NxK, of), of.gamma], axis=-1), -_BOUND, _BOUND))


def _smoothings(groups: int) -> list[np.ndarray]:
  """For each width QxQ, whose columns have the sum 1."""
  at = _GROUP * np.arange(groups)
  windows = [np.exp(-0.5 * ((at[:, None] - at) / width)**2) for width in _WIDTHS]
  return [np.float32(window / window.sum(axis=0)) for window in windows]


def _phi(e_NxK, of: Spread):
  return _at_lags(2 * (_transform(e_NxK) * of.spectrum).real, e_NxK.shape[-1])


def _transform(a_NxK):
  """Fourier transforms, since there would be as many products as offsets and lags."""
  return jnp.fft.rfft(a_NxK, _size(a_NxK.shape[-1]))


def _at_lags(spectrum, reached: int):
  """The correlations at the lags 1 .. J."""
  return jnp.fft.irfft(spectrum, _size(reached))[..., 1:_LAGS + 1]


def _size(reached: int) -> int:
  """Of transforms in which no lag comes round."""
  return 1 << int(np.ceil(np.log2(reached + _LAGS)))
