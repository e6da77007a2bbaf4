"""Solves for the weights of a prediction (models/prediction.py), compiled.

The recursion is that of `prediction.levinson`, in float64. XLA's loop takes five times as
long: at 1024 units and 95% sparsity, 3% of the time of a sample.
"""

import numpy as np

from wavernn_jax.models import prediction
from wavernn_jax.sampling.cpu import cache


def solve(r_FxN):
  """Weights [F, D] of the last D = N − 1 samples, the latest last, and v and the least v [F].

  Args:
    r_FxN: autocorrelation of each frame, from lag 0 on.
  """
  r_FxN = np.ascontiguousarray(r_FxN, np.float64)
  w_FxD = np.zeros((len(r_FxN), r_FxN.shape[1] - 1))
  v_F, least_F = np.zeros((2, len(r_FxN)))
  _solve(r_FxN, w_FxD, v_F, least_F)
  return w_FxD, v_F, least_F


def solve_without_window(r_FxN, correction_N):
  """Weights and v of `r_FxN · correction_N`, in frames where no signal has that of `r_FxN`."""
  w_FxD, v_F, least_F = solve(r_FxN * correction_N)
  wrong_F = ~(least_F >= prediction.least_error(r_FxN))
  if wrong_F.any():
    w_FxD[wrong_F], v_F[wrong_F], _ = solve(r_FxN[wrong_F])
  return w_FxD, v_F


def _recursion(r_FxN, w_FxD, v_F, least_F):
  taps = w_FxD.shape[1]
  # a[j] belongs to the sample j + 1 ago, behind[taps - k + j] to the one k - j ago.
  a, behind = np.zeros(taps), np.zeros(taps)
  for frame in range(len(r_FxN)):
    r_N, backwards_N, v = r_FxN[frame], r_FxN[frame, ::-1].copy(), r_FxN[frame, 0]
    least = v
    for k in range(taps):
      mirrored, past = behind[taps - k:], backwards_N[taps - k:]  # r_k, r_{k−1}, ..
      total = 0.0
      for j in range(k):
        total += a[j] * past[j]
      reflection = (r_N[k + 1] - total) / v
      for j in range(k):
        a_j, b_j = a[j], mirrored[j]
        a[j], mirrored[j] = a_j - reflection * b_j, b_j - reflection * a_j
      a[k] = behind[taps - 1 - k] = reflection
      v *= 1 - reflection * reflection
      least = v if v < least or v != v else least
    w_FxD[frame], v_F[frame], least_F[frame] = a[::-1], v, least


_solve = cache.cached(_recursion, nogil=True, error_model='numpy', fastmath={'reassoc', 'contract'})
