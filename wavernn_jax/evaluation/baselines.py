"""Baselines of likelihood: what is possible without a network.

A 16-bit sample costs 2 ln 256 = 11.09 nats if both bytes are uniform, and the
fine byte of speech stays near its ln 256 = 5.55 for every model that codes the
bytes of samples, so a total above 5 nats/sample is normal. All results are in
nats/sample.
"""

from collections.abc import Iterable
import io
import math

import numpy as np
import soundfile

from wavernn_jax.audio import split_bytes
from wavernn_jax.likelihood import BYTE_VALUES


def _report(coarse: float, fine: float) -> dict[str, float]:
  return {'nll': coarse + fine, 'nll_coarse': coarse, 'nll_fine': fine}


def uniform() -> dict[str, float]:
  """Every value of both bytes equally likely."""
  return _report(math.log(BYTE_VALUES), math.log(BYTE_VALUES))


def _count(pcm_utterances: Iterable[np.ndarray]) -> np.ndarray:
  """Occurrences of each coarse (row 0) and fine (row 1) value, 2xV."""
  counts_2xV = np.zeros((2, BYTE_VALUES), np.int64)
  for pcm_T in pcm_utterances:
    for row, byte_T in zip(counts_2xV, split_bytes(pcm_T), strict=True):
      row += np.bincount(np.asarray(byte_T), minlength=BYTE_VALUES)
  return counts_2xV


class ByteHistogram:
  """Marginal distribution of each byte over the training audio, add-one smoothed."""

  def __init__(self, pcm_utterances: Iterable[np.ndarray]):
    counts_2xV = _count(pcm_utterances) + 1
    self.log_probability_2xV = np.log(
        counts_2xV / counts_2xV.sum(axis=1, keepdims=True))

  def nll(self, pcm_utterances: Iterable[np.ndarray]) -> dict[str, float]:
    """Mean over the samples of held-out audio; NaN if there are none."""
    counts_2xV = _count(pcm_utterances)
    samples = counts_2xV[0].sum()
    if not samples:
      return _report(math.nan, math.nan)
    nats_2 = -(counts_2xV * self.log_probability_2xV).sum(axis=1)
    return _report(*(nats_2 / samples).tolist())


def flac(pcm_utterances: Iterable[np.ndarray], sample_rate: int) -> dict[str, float]:
  """Size of the utterances as FLAC files (level 5): the cost of common lossless coding.

  Returns:
    `nll`: of whole files, and `nll_header`: the part of it that is metadata, not
    audio; NaN without samples.
  """
  size = header = samples = 0
  for pcm_T in pcm_utterances:
    file = io.BytesIO()
    soundfile.write(file, pcm_T, sample_rate, 'PCM_16', format='FLAC')
    size += len(file.getvalue())
    header += _flac_header(file.getvalue())
    samples += len(pcm_T)
  nats = 8 * math.log(2) / samples if samples else math.nan
  return {'nll': nats * size, 'nll_header': nats * header}


def _flac_header(file: bytes) -> int:
  """Bytes before the first frame of audio: the marker fLaC and the metadata blocks."""
  end, last = 4, False
  while not last:
    last = bool(file[end] & 128)  # then three bytes of length, then the block
    end += 4 + int.from_bytes(file[end + 1:end + 4])
  return end
