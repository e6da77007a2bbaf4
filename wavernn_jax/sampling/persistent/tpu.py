"""The persistent kernel for TPUs: Pallas, all weights in VMEM (§2.1).

The grid runs over frames, in order; a step of it makes the samples of a frame
in one `fori_loop`. The weights have the same block at every step, so they are
copied into VMEM once; state stays in VMEM from step to step. Every array is
two-dimensional, a row for each stream; a number of each stream is a column [B, 1].

Constraints of the chip that shape the code: no gathers, so a uniform number
is picked from its row of a frame by a mask; no cumulative sum, so that of the
draw is a product with a triangular matrix.
"""

import functools
import itertools
import types

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from wavernn_jax.likelihood import BYTE_VALUES
from wavernn_jax.models import cell
from wavernn_jax.sampling.persistent import operands as operands_lib, tpu_hearing

# Numbers of a register: along the last axis, and along the one before.
WIDTH, HEIGHT = tpu_hearing.WIDTH, 8
_VMEM = 100 * 2**20  # bytes; libtpu's compiler accepts it for v5e, v5p and v6e
_VMEM_USABLE = 88 * 2**20


def sample(weights: operands_lib.Operands, gates_FxBxG, uniform_Tx2xB, h_BxH, pcm_B,
           positions, temperatures, forced_BxT=None, added_TxBxP=None, filters=None,
           interpret: bool = False):
  """Draws F − 2 frames of samples of each stream in one kernel.

  Args:
    weights: padded to `WIDTH`; the type of `recurrent`, `hidden` and `output` is
      that of the products.
    gates_FxBxG: gate inputs of the frames −1, 0, ..; whoever has them at another
      rate gives frames of another length.
    uniform_Tx2xB: numbers in [0, 1), T = (F − 2) · hop; where they are negative the
      state stays and the sample is silent.
    h_BxH: state, padded.
    pcm_B: the last int16 samples; without use where there are filters.
    positions: of `operands.frame_positions`, for frames of hop samples.
    temperatures: [2].
    forced_BxT: None, or int16 samples taken in place of those drawn.
    added_TxBxP: None, or what is added to the hidden layer of the coarse byte.
    filters: None, or operands.Filters of a prediction.
    interpret: run as JAX on any backend.

  Returns:
    int16 BxT, h_BxH after the last, and with `forced_BxT` the logits TxBx2xV.
  """
  left, pairs = positions
  frames, hop, batch = gates_FxBxG.shape[0] - 2, len(left), len(h_BxH)
  rows = operands_lib.round_up(batch, HEIGHT)
  heard = (tpu_hearing.Bytes(pcm_B, rows) if filters is None
           else tpu_hearing.Residuals(filters, rows))
  near = jnp.zeros(hop, jnp.int32) if filters is None else jnp.asarray(filters.nearest)
  series = _series(uniform_Tx2xB, forced_BxT, added_TxBxP, frames, hop, rows)
  around = [x for x in (_pad(gates_FxBxG, 1, rows), *heard.frames) for _ in range(3)]
  constants = _constants(weights, _pad(h_BxH, 0, rows), heard)
  call = pl.pallas_call(
      functools.partial(_kernel, hop=hop, forced=forced_BxT is not None,
                        added=added_TxBxP is not None, heard=heard),
      grid=(frames,),
      in_specs=[*[_scalars()] * 4, *[_frame(x, i % 3) for i, x in enumerate(around)],
                *[_frame(x) for x in series], *[_constant(x) for x in constants]],
      **_results(frames, rows, series[0].shape[-1], h_BxH.shape[1], hop,
                 forced_BxT is not None, heard.tape),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=('arbitrary',), vmem_limit_bytes=_VMEM),
      interpret=interpret)
  pcm, h, *logits = call(jnp.asarray(temperatures, jnp.float32), jnp.asarray(left),
                         jnp.asarray(pairs).reshape(-1), near, *around, *series, *constants)
  return _unpadded(pcm, h, logits, batch, hop)


def _series(uniform_Tx2xB, forced_BxT, added_TxBxP, frames: int, hop: int, rows: int) -> list:
  """What a kernel reads a frame at a time, in the order of `_named`."""
  series = [_by_frame(uniform_Tx2xB[:, i], hop, rows) for i in (0, 1)]
  if forced_BxT is not None:
    series.append(_by_frame(forced_BxT.T, hop, rows))
  if added_TxBxP is not None:
    series.append(_pad(added_TxBxP, 1, rows).reshape(frames, hop, rows, -1))
  return series


def _constants(weights, h_first, heard) -> tuple:
  """What is the same in all frames, in the order of `_named`."""
  triangle = jnp.triu(jnp.ones((BYTE_VALUES, BYTE_VALUES), jnp.float32))
  return (weights.recurrent, weights.previous, weights.current[None], *weights.hidden,
          weights.hidden_bias, *weights.output, weights.output_bias, triangle, h_first,
          *heard.constants, *heard.tape)


def _by_frame(x_TxB, hop: int, rows: int):
  """[frames, rows, width]: a frame's samples along the last axis."""
  x = x_TxB.astype(jnp.float32).reshape(-1, hop, x_TxB.shape[1]).transpose(0, 2, 1)
  return jnp.pad(x, ((0, 0), (0, rows - x.shape[1]), (0, -hop % WIDTH)))


def _pad(x, axis: int, size: int):
  """An array with zeros behind, up to a size of one axis."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, size - x.shape[axis])
  return jnp.pad(x, widths)


def _unpadded(pcm, h, logits, batch: int, hop: int):
  """The results of `sample` from those of the kernel."""
  pcm_BxT = pcm[:, :batch, :hop].transpose(1, 0, 2).reshape(batch, -1).astype(jnp.int16)
  if not logits:
    return pcm_BxT, h[:batch]
  by_sample = logits[0].reshape(-1, *logits[0].shape[2:])  # [T, 2, padded rows, V]
  return pcm_BxT, h[:batch], by_sample.swapaxes(1, 2)[:, :batch]


def fits(half: int, projection: int, itemsize: int, batch: int, hop: int, taps: int = 0) -> bool:
  """Whether weights and buffers of padded sizes stay in VMEM."""
  rows, width = operands_lib.round_up(batch, HEIGHT), operands_lib.round_up(hop, WIDTH)
  weights = 12 * half**2 + 2 * half * projection + 2 * projection * BYTE_VALUES
  buffers = rows * (3 * 2 * 6 * half + 6 * width + 16 * half) + 12 * half * HEIGHT
  if taps:  # three frames' filters, twice, and what is carried
    buffers += rows * (9 * operands_lib.round_up(taps, WIDTH) + 12 * WIDTH)
  # Blocks are double-buffered, also those that never change.
  return 2 * weights * itemsize + 4 * (buffers + 2 * BYTE_VALUES**2) <= _VMEM_USABLE


def _scalars():
  return pl.BlockSpec(memory_space=pltpu.SMEM)


def _frame(x, offset=0):
  """Block i + offset of the leading axis at step i."""
  return pl.BlockSpec((1, *x.shape[1:]), lambda i: (i + offset, *[0] * (x.ndim - 1)))


def _constant(x):
  return pl.BlockSpec(x.shape, lambda i: (0,) * x.ndim)


def _results(frames, rows, width, units, hop, forced, tape):
  shapes = [jax.ShapeDtypeStruct((frames, rows, width), jnp.int32),
            jax.ShapeDtypeStruct((rows, units), jnp.float32)]
  specs = [_frame(shapes[0]), _constant(shapes[1])]
  if forced:
    shapes.append(jax.ShapeDtypeStruct((frames, hop, 2, rows, BYTE_VALUES), jnp.float32))
    specs.append(_frame(shapes[2]))
  return {'out_shape': shapes, 'out_specs': specs, 'scratch_shapes': [
      pltpu.VMEM((rows, units), jnp.float32), *tpu_hearing.scratch(tape)]}


def _kernel(temperatures, left, pairs, near, *refs, hop, forced, added, heard):
  """One frame; the order of `refs` is that of `sample`."""
  at = _named(refs, forced, added, heard)

  @pl.when(pl.program_id(0) == 0)
  def _():
    at.h_kept[...] = at.h_first[...]
    tpu_hearing.keep(at.tape_kept, [first[...] for first in at.tape_first])

  half, shape = at.hidden[0].shape[0], at.pcm.shape[1:]
  carry = (at.h_kept[:, :half], at.h_kept[:, half:], tpu_hearing.recall(at.tape_kept, heard.tape),
           jnp.zeros(shape, jnp.float32))
  column = lax.broadcasted_iota(jnp.int32, shape, 1)
  step = functools.partial(_step, at, (temperatures, left, pairs, near), heard, column)
  h_coarse, h_fine, tape, made = lax.fori_loop(0, hop, step, carry)
  at.h_kept[:, :half], at.h_kept[:, half:] = h_coarse, h_fine
  tpu_hearing.keep(at.tape_kept, tape)
  at.h[...] = at.h_kept[...]
  at.pcm[0] = made.astype(jnp.int32) - 32768


def _named(refs, forced: bool, added: bool, heard) -> types.SimpleNamespace:
  """The references of a frame by name; those of two bytes, or of three frames, are lists."""
  refs = iter(refs)

  def take(count):
    return list(itertools.islice(refs, count))

  at = types.SimpleNamespace()
  at.gates, *at.filters = [take(3) for _ in (None, *heard.frames)]
  at.uniform, at.forced, at.added = take(2), take(forced), take(added)
  at.recurrent, at.previous, at.current = take(3)
  at.hidden, at.hidden_bias = take(2), next(refs)
  at.output, at.output_bias = take(2), next(refs)
  at.triangle, at.h_first = take(2)
  at.constants, at.tape_first = take(len(heard.constants)), take(len(heard.tape))
  at.pcm, at.h = take(2)
  at.logits = take(forced)
  at.h_kept, *at.tape_kept = refs
  return at


def _step(at, scalars, heard, column, t, carry):
  """One sample: the body of the loop over a frame."""
  temperatures, left, pairs, near = scalars
  h_coarse, h_fine, tape, made = carry
  half, chosen = at.hidden[0].shape[0], column == t
  uniform = [_pick(one[0], chosen) for one in at.uniform]
  live = uniform[0] >= 0
  x = _gate_inputs(t, left, pairs, *at.gates)
  g = _product(h_coarse, at.recurrent[:half]) + _product(h_fine, at.recurrent[half:])
  inputs, known = heard.before([tpu_hearing.nearest(near[t], three) for three in at.filters],
                               at.constants, tape)
  for k, value in enumerate(inputs):
    x = x + value * at.previous[k:k + 1]
  given = _pick(at.forced[0][0], chosen) + 32768 if at.forced else None

  def units(i, h, x):
    u, _, e, _ = cell.gates(_half(g, i), jnp.split(x, 3, axis=1))
    return jnp.where(live, cell.blend(h, u, e), h)

  def byte(i, y, prior):
    logits = _logits(at, i, y, t) + prior
    if at.forced:
      at.logits[0][0, t, i] = logits
      drawn = _byte(i, heard.coded(given, known))
    else:
      drawn = _draw(logits, uniform[i], temperatures[i], at.triangle[...])
    return jnp.where(live, drawn, 0 if i else BYTE_VALUES // 2)

  h_coarse = units(0, h_coarse, _half(x, 0))
  coarse = byte(0, h_coarse, heard.prior(0, None, known))
  h_fine = units(1, h_fine, _half(x, 1) + heard.current(coarse, known) * at.current[...])
  fine = byte(1, h_fine, heard.prior(1, coarse, known))
  value, tape = heard.after(coarse, fine, given, tape, known)
  return h_coarse, h_fine, tape, jnp.where(chosen, value, made)


def _logits(at, i, y_BxN, t):
  """Those of the coarse (0) or the fine (1) byte."""
  hidden = _product(y_BxN, at.hidden[i][...]) + at.hidden_bias[i:i + 1]
  if at.added and i == 0:
    hidden = hidden + at.added[0][0, t]
  return _product(jnp.maximum(hidden, 0), at.output[i][...]) + at.output_bias[i:i + 1]


def _gate_inputs(t, left, pairs, before, here, after):
  """Bx3H at sample t of the frame, from the two frames around it."""
  first = left[t] == 0
  return (jnp.where(first, before[0], here[0]) * pairs[2 * t]
          + jnp.where(first, here[0], after[0]) * pairs[2 * t + 1])


def _half(x_Bx3H, i):
  """Gates of the coarse (0) or fine (1) units, Bx3H/2."""
  parts = jnp.split(x_Bx3H, 6, axis=1)
  return jnp.concatenate(parts[i::2], axis=1)


def _product(x, kernel):
  """x W in the kernel's type, summed in float32."""
  precision = lax.Precision.HIGHEST if kernel.dtype == jnp.float32 else None
  return jnp.dot(x.astype(kernel.dtype), kernel, precision=precision,
                 preferred_element_type=jnp.float32)


def _byte(i, value):
  """The high (0) or the low (1) byte of 0..65535, whole numbers in float32."""
  coarse = jnp.floor(value / BYTE_VALUES)
  return value - BYTE_VALUES * coarse if i else coarse


def _pick(x_BxN, chosen_BxN):
  """The chosen number of each row, Bx1."""
  return jnp.sum(jnp.where(chosen_BxN, x_BxN, 0), axis=1, keepdims=True)


def _draw(logits_BxV, uniform_Bx1, temperature, triangle_VxV):
  """draw.categorical with one triangular product; a whole number in float32, Bx1."""
  inverse = jnp.where(temperature > 0, 1 / jnp.maximum(temperature, 1e-6), 1e6)
  p = jnp.exp((logits_BxV - logits_BxV.max(axis=1, keepdims=True)) * inverse)
  cumulative = _product(p, triangle_VxV)
  threshold = uniform_Bx1 * cumulative[:, BYTE_VALUES - 1:]
  below = jnp.sum(jnp.where(cumulative <= threshold, 1.0, 0.0), axis=1, keepdims=True)
  return jnp.minimum(below, BYTE_VALUES - 1)
