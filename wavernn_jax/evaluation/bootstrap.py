"""Confidence intervals of nats/sample over utterances, as samples are not independent."""

import math

import numpy as np
from scipy import stats


def ratio_interval(sums_U: np.ndarray, counts_U: np.ndarray, resamples: int,
                   seed: int, level: float = 0.95) -> tuple[float, float]:
  """Percentile bootstrap interval of sum(sums)/sum(counts) over utterances.

  Args:
    sums_U: nats of each utterance, or, to compare two models, the difference
      of their nats on that utterance (of any sign).
    counts_U: audio samples of each utterance, positive.
    resamples: how often the utterances are resampled, with replacement.
    seed: of the resampling.
    level: coverage of the interval.

  Returns:
    (low, high) in nats/sample; NaNs for fewer than two utterances.
  """
  if len(sums_U) < 2:
    return math.nan, math.nan
  interval = stats.bootstrap(
      (sums_U, counts_U),
      lambda sums, counts, axis: np.sum(sums, axis) / np.sum(counts, axis),
      paired=True, vectorized=True, method='percentile', n_resamples=resamples,
      confidence_level=level, batch=128, rng=np.random.default_rng(seed),
  ).confidence_interval
  return float(interval.low), float(interval.high)
