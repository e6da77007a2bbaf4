"""Finds recordings of the same sound, whatever their gain, their ends or their sample rate.

Fingerprints are those of Haitsma and Kalker (2002): differences of energy between
neighbouring bands, and for each frame the signs of their change since the last one.
Gain does not change them, and resampling hardly does, as the bands end at 2 kHz; a
cut shifts the frames by half a hop at most. Measured on speech, 0 to 15% of the signs
differ between such copies, and 39% or more between any two other recordings.

Two recordings are compared only at places where frames of both agree completely, and
frames that are common to many, such as hum, lead to few comparisons. Time and memory
grow with the length of the corpus.
"""

import collections
from collections.abc import Sequence

import numpy as np

_RATE = 6_000  # Hz; audio is analysed at this rate or a little more
_WINDOW, _HOP = 0.128, 0.016  # seconds
_EDGES = np.geomspace(300, 2_000, 18)  # Hz: 17 bands, 16 signs
_APART = 8  # frames between the two frames of a key; their windows do not overlap
_COMMON = 32  # at most this many occurrences of a key are looked at
_CLOSEST = 16  # at most this many places are compared for each recording
_HITS = 2  # keys that must agree at a place before it is compared
_LEAST = 32  # frames that a comparison needs
_DIFFERING = 0.25  # largest fraction of signs that may differ
_PLACES = 1 << 20  # more than any recording has frames


def fingerprint(pcm: np.ndarray, sample_rate: int) -> np.ndarray:
  """Signs of all frames as bits, uint16; 0 for a frame of digital silence."""
  step = max(1, sample_rate // _RATE)
  rate = sample_rate / step
  window, hop = round(_WINDOW * rate), round(_HOP * rate)
  wave = pcm[:len(pcm) // step * step].reshape(-1, step).mean(1, dtype=np.float32)
  if len(wave) < window + hop:
    return np.zeros(0, np.uint16)
  frames = np.lib.stride_tricks.sliding_window_view(wave, window)[::hop]
  spectrum = np.fft.rfft(frames * np.hanning(window).astype(np.float32))
  edges = np.searchsorted(np.fft.rfftfreq(window, 1 / rate), _EDGES)
  sums = np.cumsum(spectrum.real**2 + spectrum.imag**2, axis=1, dtype=np.float64)[:, edges - 1]
  slope = np.diff(np.diff(sums, axis=1), axis=1)
  signs = np.packbits(slope[1:] < slope[:-1], axis=1)
  return np.ascontiguousarray(signs).view(np.uint16)[:, 0]


def find_copies(queries: Sequence[np.ndarray], others: Sequence[np.ndarray]):
  """Yields index pairs (query, other) of fingerprints of the same sound.

  There are up to `_CLOSEST` of them for each query. At least half of the shorter
  recording, and half a second, must be in the other.
  """
  keys_K, owners_K, frames_K = _keys(others)
  order = np.argsort(keys_K, kind='stable')
  keys_K, owners_K, frames_K = keys_K[order], owners_K[order], frames_K[order]
  for i, query in enumerate(queries):
    found, _, at = _keys([query])
    first = np.searchsorted(keys_K, found)
    last = np.minimum(np.searchsorted(keys_K, found, 'right'), first + _COMMON)
    hits = np.repeat(first, last - first) + _counting(last - first)
    shift = frames_K[hits] - np.repeat(at, last - first)
    places = collections.Counter((owners_K[hits] * 2 * _PLACES + shift + _PLACES).tolist())
    same = {place // (2 * _PLACES) for place, count in places.most_common(_CLOSEST)
            if count >= _HITS and _agree(query, others[place // (2 * _PLACES)],
                                         place % (2 * _PLACES) - _PLACES)}
    yield from ((i, j) for j in sorted(same))


def _keys(prints):
  """The keys of all frames that have one, each with its recording and frame, int64."""
  keys, owners, frames = [np.zeros(0, np.int64)], [np.zeros(0, int)], [np.zeros(0, int)]
  for i, signs in enumerate(prints):
    early, late = signs[:-_APART].astype(np.int64), signs[_APART:].astype(np.int64)
    kept = np.flatnonzero((early != 0) & (late != 0))
    keys.append(early[kept] << 16 | late[kept])
    owners.append(np.full(len(kept), i))
    frames.append(kept)
  return np.concatenate(keys), np.concatenate(owners), np.concatenate(frames)


def _counting(lengths) -> np.ndarray:
  """Joins the ranges 0, 1, .. of each length."""
  return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _agree(query, other, shift: int) -> bool:
  """Whether frame f of a query is frame f + shift of the other."""
  first, last = max(0, -shift), min(len(query), len(other) - shift)
  a, b = query[first:last], other[first + shift:last + shift]
  heard = (a != 0) & (b != 0)
  least = max(_LEAST, min(np.count_nonzero(query), np.count_nonzero(other)) / 2)
  if heard.sum() < least:
    return False
  bits = np.unpackbits((a ^ b)[heard].view(np.uint8))
  return bits.mean() <= _DIFFERING
