"""What a step of the compiled loop hears, and the sample that its bytes make.

Two kinds, as in models/hearing.py, told apart by the type of `predictor`: None, where
the bytes of samples are heard and drawn, and `Predictor`, where those of residuals are.
The samples stand in one array, `pcm`: those before the call, then those of the call, so
that a prediction reads its known samples where they are.
"""

import typing

from numba import types
from numba.extending import overload, register_jitable
import numpy as np

from wavernn_jax.models import hearing
from wavernn_jax.sampling.cpu import int16, simd
from wavernn_jax.sampling.cpu.simd import WIDTH, splat

BYTE_STEP = np.float32(1 / 255)
BOUND = np.float32(hearing.BOUND)
TAPS = 2 * WIDTH  # a prediction reads so many samples at a time
_MIDDLE = np.float32(2**15 - 127.5)  # less 256 c: the middle of a coarse byte's residuals


class Predictor(typing.NamedTuple):
  """The prediction of each frame of a call (models/prediction.py); F frames, D padded taps."""
  taps: np.ndarray    # int16 [F, D], of the samples before, zeros in front
  shifts: np.ndarray  # int32 [F]
  scales: np.ndarray  # float32 [F], σ
  levels: np.ndarray  # float32 [F], of samples
  slopes: np.ndarray  # float32 [F], of the priors
  ramps: np.ndarray   # float32 [2 * 256], of the coarse and the fine byte's prior
  width: int          # D
  lags: tuple         # 0 .. R − 1: of the past residuals; a tuple, for R to be compiled in


class Now(typing.NamedTuple):
  """What is known of a sample before it is drawn, from its prediction."""
  predicted: int
  scale: float
  level: float
  slope: float


class Heard(typing.NamedTuple):
  """Factors of the rows of an input table (layout.py).

  fixed: of the rows that are always read: two frames, the last sample, the prediction,
    the coarse byte.
  sizes, rows: of each past residual its size, and which of its rows that multiplies: the
    one for its sign.
  """
  fixed: tuple
  sizes: tuple
  rows: tuple


def padded(taps: int) -> int:
  """Taps, filled up to a whole number of vectors."""
  return -(-taps // TAPS) * TAPS


def lead(past: int) -> int:
  """Samples of `pcm` before those of a call: `past` known ones, and those that padding reads."""
  return past + TAPS


@register_jitable
def _bounded(x):
  return min(max(np.float32(x), -BOUND), BOUND)


@register_jitable
def _signal(byte):
  """audio.scale_byte: one rounding, so that all engines agree to the last bit."""
  return np.float32(2 * byte - 255) * BYTE_STEP


@register_jitable
def _wrapped(x):
  """A difference of samples modulo 2^16, as int16."""
  return ((x + 32768) & 65535) - 32768


@register_jitable
def _predict(p, place, frame, pcm):
  """What is known of the sample at a place of `pcm`, by the filter of a frame."""
  total = int16.no_products()
  for k in range(0, p.width, TAPS):
    total = int16.add_products(p.taps, frame * p.width + k, pcm, place - p.width + k, total)
  shift = np.int64(simd.item(p.shifts, frame))
  total = (np.int64(int16.sum_of_products(total)) + ((1 << shift) >> 1)) >> shift
  return Now(min(max(total, -32768), 32767), simd.item(p.scales, frame),
             simd.item(p.levels, frame), simd.item(p.slopes, frame))


@register_jitable
def _remember(tape, residuals, now, sample):
  """Puts a residual over σ in front of those heard before."""
  for k in range(residuals - 1, 0, -1):
    simd.put(tape, k, simd.item(tape, k - 1))
  residual = np.float32(_wrapped(sample - now.predicted))
  simd.put(tape, 0, _bounded(residual / now.scale))


@register_jitable
def _nearest(position, hop, frames):
  return min(max((2 * position + hop) // (2 * hop), 0), frames - 1)


def start(predictor, tape, pcm, lead, position, hop, frames):
  """Fills the tape with what precedes the call."""
  raise NotImplementedError('for nopython code')


@overload(start)
def _start(predictor, tape, pcm, lead, position, hop, frames):  # pylint: disable=unused-argument
  if isinstance(predictor, types.NoneType):
    return lambda predictor, tape, pcm, lead, position, hop, frames: None

  def implementation(predictor, tape, pcm, lead, position, hop, frames):
    residuals = len(predictor.lags)
    for t in range(-residuals, 0):
      now = _predict(predictor, lead + t, _nearest(position + t, hop, frames), pcm)
      _remember(tape, residuals, now, np.int64(simd.item(pcm, lead + t)))
  return implementation


def before(predictor, place, position, hop, frames, pcm):
  """What is known of the sample at a place of `pcm` that is `position` samples after frame 0."""
  raise NotImplementedError('for nopython code')


@overload(before)
def _before(predictor, place, position, hop, frames, pcm):  # pylint: disable=unused-argument
  if isinstance(predictor, types.NoneType):
    return lambda predictor, place, position, hop, frames, pcm: None
  return lambda predictor, place, position, hop, frames, pcm: _predict(
      predictor, place, _nearest(position, hop, frames), pcm)


def sizes(lags, tape):
  """The sizes of the past residuals, as vectors."""
  raise NotImplementedError('for nopython code')


@overload(sizes)
def _sizes(lags, tape):  # pylint: disable=unused-argument
  if not len(lags):
    return lambda lags, tape: ()
  return lambda lags, tape: (splat(abs(simd.item(tape, lags[0]))),) + sizes(lags[1:], tape)


def signed_rows(lags, tape):
  """Where the rows of a table begin that multiply them: those for their signs."""
  raise NotImplementedError('for nopython code')


@overload(signed_rows)
def _signed_rows(lags, tape):  # pylint: disable=unused-argument
  if not len(lags):
    return lambda lags, tape: ()
  return lambda lags, tape: (
      WIDTH * (2 * lags[0] + (simd.item(tape, lags[0]) < 0)),) + signed_rows(lags[1:], tape)


def terms(predictor, now, tape, pcm, place, right, left):
  """Factors of the input table of the coarse half; `left` and `right` are those of two frames."""
  raise NotImplementedError('for nopython code')


@overload(terms)
def _terms(predictor, now, tape, pcm, place, left, right):  # pylint: disable=unused-argument
  if isinstance(now, types.NoneType):
    def of_bytes(predictor, now, tape, pcm, place, left, right):
      last = np.int64(simd.item(pcm, place - 1)) + 32768
      return (splat(left), splat(right), splat(_signal(last >> 8)), splat(_signal(last & 255)))
    return of_bytes

  def of_residuals(predictor, now, tape, pcm, place, left, right):
    last = np.float32(simd.item(pcm, place - 1))
    predicted = np.float32(now.predicted)
    return Heard(
        (splat(left), splat(right), splat(_bounded(last / now.level)),
         splat(_bounded(predicted / now.level))),
        sizes(predictor.lags, tape), signed_rows(predictor.lags, tape))
  return of_residuals


def with_coarse(now, terms, coarse):
  """Factors of the input table of the fine half."""
  raise NotImplementedError('for nopython code')


@overload(with_coarse)
def _with_coarse(now, terms, coarse):  # pylint: disable=unused-argument
  if isinstance(now, types.NoneType):
    return lambda now, terms, coarse: terms + (splat(_signal(coarse)),)

  def of_residuals(now, terms, coarse):
    middle = np.float32(256 * coarse) - _MIDDLE
    return Heard(terms.fixed + (splat(_bounded(middle / now.scale)),), terms.sizes, terms.rows)
  return of_residuals


def prior(predictor, now, side, coarse):
  """Slope and ramp of the prior of the coarse (0) or the fine (1) byte; None without one."""
  raise NotImplementedError('for nopython code')


@overload(prior)
def _prior(predictor, now, side, coarse):  # pylint: disable=unused-argument
  if isinstance(now, types.NoneType):
    return lambda predictor, now, side, coarse: None

  def of_residuals(predictor, now, side, coarse):
    slope = -now.slope if side == 1 and coarse >= 128 else now.slope
    return splat(slope), simd.offset(predictor.ramps, 256 * side)
  return of_residuals


def code(now, sample):
  """The number whose two bytes are coded for a known sample."""
  raise NotImplementedError('for nopython code')


@overload(code)
def _code(now, sample):  # pylint: disable=unused-argument
  if isinstance(now, types.NoneType):
    return lambda now, sample: sample + 32768
  return lambda now, sample: _wrapped(sample - now.predicted) + 32768


def sample(now, code):
  """The sample that drawn bytes stand for, clipped to 16 bits."""
  raise NotImplementedError('for nopython code')


@overload(sample)
def _sample(now, code):  # pylint: disable=unused-argument
  if isinstance(now, types.NoneType):
    return lambda now, code: code - 32768
  return lambda now, code: min(max(now.predicted + code - 32768, -32768), 32767)


def remember(predictor, now, tape, sample):
  """Puts the residual of a sample onto the tape."""
  raise NotImplementedError('for nopython code')


@overload(remember)
def _overload_remember(predictor, now, tape, sample):  # pylint: disable=unused-argument
  if isinstance(now, types.NoneType):
    return lambda predictor, now, tape, sample: None
  return lambda predictor, now, tape, sample: _remember(tape, len(predictor.lags), now, sample)
