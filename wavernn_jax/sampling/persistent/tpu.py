"""The persistent kernel for TPUs: Pallas, all weights in VMEM (§2.1).

The grid runs over frames, in order; a step of it makes the samples of a frame
in one `fori_loop`. The weights have the same block at every step, so they are
copied into VMEM once; state stays in VMEM from step to step. Every array is
two-dimensional, lanes B in sublanes; a lane's number is a column [B, 1].

Constraints of the chip that shape the code: no gathers, so a uniform number
is picked from its row of a frame by a mask; no cumulative sum, so that of the
draw is a product with a triangular matrix.
"""

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from wavernn_jax.likelihood import BYTE_VALUES
from wavernn_jax.models import cell
from wavernn_jax.sampling.persistent import operands as operands_lib, tpu_hearing

LANES, SUBLANES = tpu_hearing.LANES, 8
_VMEM = 100 * 2**20  # bytes; libtpu's compiler accepts it for v5e, v5p and v6e
_VMEM_USABLE = 88 * 2**20


def sample(weights: operands_lib.Operands, gates_FxBxG, uniform_Tx2xB, h_BxH, pcm_B,
           positions, temperatures, forced_BxT=None, added_TxBxP=None, filters=None,
           interpret: bool = False):
  """Draws F − 2 frames of samples of each lane in one kernel.

  Args:
    weights: padded to `LANES`; the type of `recurrent`, `hidden` and `output` is
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
  frames, hop = gates_FxBxG.shape[0] - 2, len(left)
  batch, lanes = len(h_BxH), operands_lib.round_up(len(h_BxH), SUBLANES)
  width = operands_lib.round_up(hop, LANES)

  def by_frame(x_TxB, dtype):
    """[frames, lanes, width]: a frame's samples along the lanes of the chip."""
    x = x_TxB.astype(dtype).reshape(frames, hop, batch).transpose(0, 2, 1)
    return jnp.pad(x, ((0, 0), (0, lanes - batch), (0, width - hop)))

  def by_lane(x, axis):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, lanes - batch)
    return jnp.pad(x, widths)

  heard = (tpu_hearing.Bytes(pcm_B, lanes) if filters is None
           else tpu_hearing.Residuals(filters, lanes))
  near = jnp.zeros(hop, jnp.int32) if filters is None else jnp.asarray(filters.nearest)
  streams = [by_frame(uniform_Tx2xB[:, i], jnp.float32) for i in (0, 1)]
  if forced_BxT is not None:
    streams.append(by_frame(forced_BxT.T, jnp.float32))
  if added_TxBxP is not None:
    streams.append(by_lane(added_TxBxP, 1).reshape(frames, hop, lanes, -1))
  gates = by_lane(gates_FxBxG, 1)
  triangle = jnp.triu(jnp.ones((BYTE_VALUES, BYTE_VALUES), jnp.float32))
  constants = (weights.recurrent, weights.previous, weights.current[None],
               *weights.hidden, weights.hidden_bias, *weights.output, weights.output_bias,
               triangle, by_lane(h_BxH, 0), *heard.constants, *heard.tape)

  call = pl.pallas_call(
      functools.partial(_kernel, hop=hop, forced=forced_BxT is not None,
                        added=added_TxBxP is not None, heard=heard),
      grid=(frames,),
      in_specs=[*[_scalars()] * 4,
                *[_frame(x, offset) for x in (gates, *heard.frames) for offset in range(3)],
                *[_frame(x) for x in streams], *[_constant(x) for x in constants]],
      **_results(frames, lanes, width, h_BxH.shape[1], hop, forced_BxT is not None, heard.tape),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=('arbitrary',), vmem_limit_bytes=_VMEM),
      interpret=interpret)
  pcm, h, *logits = call(jnp.asarray(temperatures, jnp.float32), jnp.asarray(left),
                         jnp.asarray(pairs).reshape(-1), near,
                         *[x for x in (gates, *heard.frames) for _ in range(3)], *streams,
                         *constants)
  pcm_BxT = pcm[:, :batch, :hop].transpose(1, 0, 2).reshape(batch, -1).astype(jnp.int16)
  if not logits:
    return pcm_BxT, h[:batch]
  return pcm_BxT, h[:batch], logits[0].reshape(-1, 2, lanes, BYTE_VALUES).swapaxes(1, 2)[:, :batch]


def fits(half: int, projection: int, itemsize: int, batch: int, hop: int, taps: int = 0) -> bool:
  """Whether weights and buffers of padded sizes stay in VMEM."""
  lanes, width = operands_lib.round_up(batch, SUBLANES), operands_lib.round_up(hop, LANES)
  weights = 12 * half**2 + 2 * half * projection + 2 * projection * BYTE_VALUES
  buffers = lanes * (3 * 2 * 6 * half + 6 * width + 16 * half) + 12 * half * SUBLANES
  if taps:  # three frames' filters, twice, and what is carried
    buffers += lanes * (9 * operands_lib.round_up(taps, LANES) + 12 * LANES)
  # Blocks are double-buffered, also those that never change.
  return 2 * weights * itemsize + 4 * (buffers + 2 * BYTE_VALUES**2) <= _VMEM_USABLE


def _scalars():
  return pl.BlockSpec(memory_space=pltpu.SMEM)


def _frame(x, offset=0):
  """Block i + offset of the leading axis at step i."""
  return pl.BlockSpec((1, *x.shape[1:]), lambda i: (i + offset, *[0] * (x.ndim - 1)))


def _constant(x):
  return pl.BlockSpec(x.shape, lambda i: (0,) * x.ndim)


def _results(frames, lanes, width, units, hop, forced, tape):
  shapes = [jax.ShapeDtypeStruct((frames, lanes, width), jnp.int32),
            jax.ShapeDtypeStruct((lanes, units), jnp.float32)]
  specs = [_frame(shapes[0]), _constant(shapes[1])]
  if forced:
    shapes.append(jax.ShapeDtypeStruct((frames, hop, 2, lanes, BYTE_VALUES), jnp.float32))
    specs.append(_frame(shapes[2]))
  return {'out_shape': shapes, 'out_specs': specs, 'scratch_shapes': [
      pltpu.VMEM((lanes, units), jnp.float32), *tpu_hearing.scratch(tape)]}


def _kernel(temperatures, left, pairs, near, *refs, hop, forced, added, heard):
  """One frame; the order of `refs` is that of `sample`."""
  refs = list(refs)

  def take(count):
    taken, refs[:count] = refs[:count], []
    return taken

  (before, here, after), *filters = [take(3) for _ in (None, *heard.frames)]
  streams = take(2 + forced + added)
  (recurrent, previous, current, hidden_c, hidden_f, hidden_bias, output_c, output_f,
   output_bias, triangle, h_first) = take(11)
  constants, tape_first = take(len(heard.constants)), take(len(heard.tape))
  pcm_out, h_out = take(2)
  logits_out, (h_kept, *tape_kept) = take(forced), refs
  half = hidden_c.shape[0]
  hidden, output = (hidden_c, hidden_f), (output_c, output_f)

  @pl.when(pl.program_id(0) == 0)
  def _():
    h_kept[...] = h_first[...]
    tpu_hearing.keep(tape_kept, [first[...] for first in tape_first])

  column = lax.broadcasted_iota(jnp.int32, pcm_out.shape[1:], 1)

  def step(t, carry):
    h_coarse, h_fine, tape, made = carry
    chosen = column == t
    uniform = [_pick(stream[0], chosen) for stream in streams[:2]]
    live = uniform[0] >= 0
    x = _gate_inputs(t, left, pairs, before, here, after)
    g = (_product(h_coarse, recurrent[:half]) + _product(h_fine, recurrent[half:]))
    inputs, known = heard.before([tpu_hearing.nearest(near[t], three) for three in filters],
                                 constants, tape)
    for k, value in enumerate(inputs):
      x = x + value * previous[k:k + 1]
    given = _pick(streams[2][0], chosen) + 32768 if forced else None

    def units(i, h, x):
      u, _, e, _ = cell.gates(_half(g, i), jnp.split(x, 3, axis=1))
      return jnp.where(live, cell.blend(h, u, e), h)

    def byte(i, y, coarse=None):
      relu = _product(y, hidden[i][...]) + hidden_bias[i:i + 1]
      if added and i == 0:
        relu = relu + streams[-1][0, t]
      relu = jnp.maximum(relu, 0)
      logits = (_product(relu, output[i][...]) + output_bias[i:i + 1]
                + heard.prior(i, coarse, known))
      if forced:
        logits_out[0][0, t, i] = logits
        drawn = _byte(i, heard.coded(given, known))
      else:
        drawn = _draw(logits, uniform[i], temperatures[i], triangle[...])
      return jnp.where(live, drawn, 0 if i else BYTE_VALUES // 2)

    h_coarse = units(0, h_coarse, _half(x, 0))
    coarse = byte(0, h_coarse)
    h_fine = units(1, h_fine, _half(x, 1) + heard.current(coarse, known) * current[...])
    fine = byte(1, h_fine, coarse)
    value, tape = heard.after(coarse, fine, given, tape, known)
    return h_coarse, h_fine, tape, jnp.where(chosen, value, made)

  carry = (h_kept[:, :half], h_kept[:, half:], tpu_hearing.recall(tape_kept, heard.tape),
           jnp.zeros(pcm_out.shape[1:], jnp.float32))
  h_coarse, h_fine, tape, made = lax.fori_loop(0, hop, step, carry)
  h_kept[:, :half], h_kept[:, half:] = h_coarse, h_fine
  tpu_hearing.keep(tape_kept, tape)
  h_out[...] = h_kept[...]
  pcm_out[0] = made.astype(jnp.int32) - 32768


def _gate_inputs(t, left, pairs, before, here, after):
  """Bx3H at sample t of the frame, from the two frames around it."""
  first = left[t] == 0
  return (jnp.where(first, before[0], here[0]) * pairs[2 * t]
          + jnp.where(first, here[0], after[0]) * pairs[2 * t + 1])


def _half(x_Bx3H, i):
  """Gates of the coarse (0) or fine (1) units, Bx3K."""
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
