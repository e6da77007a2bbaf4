"""What a step of the kernel for TPUs hears, and of what its bytes are: models/hearing.py.

The tape that is carried from step to step is a tuple of arrays [B, N], N = 1 for a number
of each stream. Whole numbers stand in float32, but for the integer sum of a prediction.
"""

from jax import lax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio
from wavernn_jax.likelihood import BYTE_VALUES
from wavernn_jax.models import hearing, prediction
from wavernn_jax.sampling.persistent import operands as operands_lib

WIDTH = 128
_FULL_SCALE = 32_768


class Bytes:
  """The bytes of the last sample; the tape is what is heard of them."""

  def __init__(self, pcm_B, rows: int):
    """Args:
      pcm_B: the last int16 samples.
      rows: B, padded.
    """
    self.frames, self.constants = (), ()
    self.tape = tuple(pad_rows(scale_byte(byte[:, None].astype(jnp.float32)), rows)
                      for byte in audio.split_bytes(pcm_B))

  def before(self, at, constants, tape):
    """What all units hear, [B, 1] each; what `coded` and `after` need."""
    del at, constants
    return tape, None

  def prior(self, side: int, coarse, known):
    """What is added to the logits."""
    del side, coarse, known
    return 0.0

  def current(self, coarse, known):
    """What the fine units hear of the coarse byte."""
    del known
    return scale_byte(coarse)

  def coded(self, value, known):
    """The bytes' value, 0..65535, of a sample's."""
    del known
    return value

  def after(self, coarse, fine, given, tape, known):
    """The sample's value, 0..65535, and the next tape."""
    del given, tape, known
    return coarse * BYTE_VALUES + fine, (scale_byte(coarse), scale_byte(fine))


class Residuals:
  """The last residuals over σ, and the last samples BxD, D padded, the latest last."""

  def __init__(self, filters: operands_lib.Filters, rows: int):
    """Args:
      filters: of the model.
      rows: B, padded.
    """
    taps = filters.taps.shape[-1]
    wide = operands_lib.round_up(taps, WIDTH) - taps

    def before(x):  # padding before the first tap: history moves that way
      return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(wide, 0)])

    numbers = jnp.stack([filters.shift.astype(jnp.float32), filters.scale, filters.level,
                         filters.slope], axis=-1)
    numbers = jnp.pad(numbers, ((0, 0), (0, 0), (0, WIDTH - numbers.shape[-1])))
    self.frames = pad_rows(before(filters.taps), rows, 1), pad_rows(numbers, rows, 1)
    ramps = jnp.asarray(np.stack([hearing.COARSE_RAMP, hearing.FINE_RAMP]), jnp.float32)
    self.constants = (ramps,)
    past = pad_rows(filters.past, rows)
    self.tape = (pad_rows(before(filters.pcm), rows),
                 *jnp.split(past, past.shape[1], axis=1))

  def before(self, at, constants, tape):
    """As of `Bytes`; `at` are the filter's taps and numbers of the sample."""
    taps, numbers = at
    shift, scale, level, slope = (numbers[:, i:i + 1] for i in range(4))
    history, *past = tape
    total = jnp.sum(taps * history, axis=1, keepdims=True)
    predicted = prediction.finish(total, shift.astype(jnp.int32)).astype(jnp.float32)
    last = history[:, -1:].astype(jnp.float32)
    waveform = [jnp.clip(x / level, -hearing.BOUND, hearing.BOUND) for x in (last, predicted)]
    return (*past, *map(jnp.abs, past), *waveform), (predicted, scale, slope, constants[0])

  def prior(self, side: int, coarse, known):
    *_, slope, ramps = known
    if side:
      slope = jnp.where(coarse >= BYTE_VALUES // 2, -slope, slope)
    return slope * ramps[side:side + 1]

  def current(self, coarse, known):
    return hearing.over_scale(BYTE_VALUES * coarse - (_FULL_SCALE - 127.5), known[1])

  def coded(self, value, known):
    return _wrapped(value - known[0])

  def after(self, coarse, fine, given, tape, known):
    predicted, scale = known[:2]
    history, *past = tape
    drawn = predicted + coarse * BYTE_VALUES + fine - _FULL_SCALE
    sample = jnp.clip(drawn, -_FULL_SCALE, _FULL_SCALE - 1)
    if given is not None:
      sample = given - _FULL_SCALE
    residual = _wrapped(sample + _FULL_SCALE - predicted) - _FULL_SCALE
    width = history.shape[1]
    newest = lax.broadcasted_iota(jnp.int32, history.shape, 1) == width - 1
    history = jnp.where(newest, sample.astype(jnp.int32), pltpu.roll(history, width - 1, 1))
    return sample + _FULL_SCALE, (history, hearing.over_scale(residual, scale), *past[:-1])


def scale_byte(byte):
  """audio.scale_byte of whole numbers in float32."""
  return (2 * byte - 255) * jnp.float32(1 / 255)


def _wrapped(value):
  """Whole numbers in float32 modulo 2¹⁶."""
  return value - 2 * _FULL_SCALE * jnp.floor(value * (0.5 / _FULL_SCALE))


def pad_rows(x, rows: int, axis: int = 0):
  """An array with the last of its rows repeated up to so many."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, rows - x.shape[axis])
  return jnp.pad(x, widths, mode='edge')


def scratch(tape) -> list:
  """Memory that keeps a tape from frame to frame."""
  return [pltpu.VMEM((len(x), operands_lib.round_up(x.shape[1], WIDTH)), x.dtype) for x in tape]


def keep(kept, tape) -> None:
  """Writes a tape into `scratch`."""
  for ref, x in zip(kept, tape, strict=True):
    ref[...] = jnp.broadcast_to(x, ref.shape)


def recall(kept, tape) -> tuple:
  """A tape from `scratch`; of the shapes of a tape."""
  return tuple(ref[:, :x.shape[1]] for ref, x in zip(kept, tape, strict=True))


def nearest(row, refs):
  """Of the blocks of three frames that of number `row`."""
  before, here, after = (ref[0] for ref in refs)
  return jnp.where(row == 0, before, jnp.where(row == 1, here, after))
