"""Samples of two engines whose arithmetic rounds apart: the same but for ties, which are proved.

A tie is a uniform number within rounding of a boundary between two values of the
cumulative distribution. Where samples first differ, the number that drew the expected
one is moved by that much, and by no more, at that sample alone: unless the scan sampler
then draws what was found, the engine is wrong. From there on it has the same past, and
all samples after it are compared in the same way.
"""

import functools
from unittest import mock

import jax.numpy as jnp
import numpy as np

from wavernn_jax import draw
from wavernn_jax.sampling import scan, stream

ROUNDING = 1e-5  # of cumulative distributions in float32
_MOST = 3  # ties of an utterance: more are no coincidence
_DRAWS = 4  # of a sample, at most: a fused model's nibbles


def assert_same(found, expected, reference: scan.ScanEngine, mels, keys_Bx2,
                temperatures=(1.0, 1.0)) -> None:
  """Samples of `stream.batch`, int16 [N] each, of utterances of any lengths.

  Args:
    found: of an engine.
    expected: of `reference`.
    reference: the scan sampler of the same weights.
    mels, keys_Bx2: of the utterances.
    temperatures: of both.
  """
  moved = None
  for b, (one, other) in enumerate(zip(found, expected, strict=True)):
    assert one.dtype == np.int16 and one.shape == other.shape
    if not np.array_equal(one, other):
      moved = moved or Moved(reference, temperatures)
      _follow(one, functools.partial(moved.drawn, mels[b], keys_Bx2[b:b + 1]),
              reference.model.timing)


def drawn_at(timing, samples):
  """The steps at which samples of an utterance are drawn, one lane behind another."""
  position, lane = np.divmod(samples, timing.lanes)
  apart = timing.delay // (timing.lanes * max(1, timing.lanes - 1))  # of lanes, in positions
  return position + apart * lane


def _follow(found, drawn, timing) -> None:
  """Moves a number at each sample that differs, the first one first, until none does."""
  moves, expected = {}, drawn({})
  while (first := _first_difference(found, expected, timing)) is not None:
    assert first not in moves and len(moves) < _MOST, f'sample {first} differs after {moves}'
    for move in ((n, sign) for n in range(_DRAWS) for sign in (-1, 1)):
      tried = drawn(moves | {first: move})
      if tried[first] == found[first]:
        break
    else:
      raise AssertionError(f'sample {first}: {found[first]} is not drawn of any number within '
                           f'{ROUNDING} of the one that draws {expected[first]}')
    moves[first], expected = move, tried


def _first_difference(found, expected, timing) -> int | None:
  """The sample drawn first of those that differ."""
  differing = np.flatnonzero(found != expected)
  return int(min(differing, key=lambda n: drawn_at(timing, n))) if len(differing) else None


class Moved:
  """The scan sampler of a model, some of whose uniform numbers are moved."""

  def __init__(self, reference: scan.ScanEngine, temperatures):
    self._params, self._temperatures = reference.params, temperatures
    self._engine = scan.ScanEngine(reference.model, None, temperatures, reference.block_frames,
                                sample=self._sample)

  def drawn(self, mel_FxM, key_1x2, moves: dict):
    """The samples of an utterance; moves: sample -> (draw, sign)."""
    samples_K = np.full(_MOST + 1, 2**32 - 1, np.uint32)
    signs_KxD = np.zeros((_MOST + 1, _DRAWS), np.float32)
    for k, (sample, (n, sign)) in enumerate(moves.items()):
      samples_K[k], signs_KxD[k, n] = sample, sign
    self._engine.params = self._params, samples_K, signs_KxD
    return stream.batch(self._engine, [mel_FxM], key_1x2)[0]

  def _sample(self, params, *arguments, **options):
    params, samples_K, signs_KxD = params
    with mock.patch.object(draw, 'uniforms_at', functools.partial(
        self._uniforms_at, draw.uniforms_at, samples_K, signs_KxD)):
      return self._engine.model.sample(params, *arguments, **options)

  def _uniforms_at(self, uniforms_at, samples_K, signs_KxD, keys_Bx2, index_TxB, draws=2):
    # Logits round, and are divided by the temperature; at 0 only equal ones are left.
    amounts_D = np.array([ROUNDING / max(self._temperatures[2 * n // draws], ROUNDING)
                          for n in range(draws)], np.float32)
    moves_KxD = signs_KxD[:, :draws] * amounts_D
    here_KxTxB = samples_K[:, None, None] == index_TxB
    found_TxDxB = uniforms_at(keys_Bx2, index_TxB, draws)
    return jnp.clip(found_TxDxB + jnp.einsum('ktb,kd->tdb', here_KxTxB.astype(np.float32),
                                             moves_KxD), 0, 1 - 2**-24)
