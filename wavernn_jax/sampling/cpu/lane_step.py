"""One sample of each lane of a subscale model in numba (§4, with the equations of §2).

As step.py, but for vectors that lie across the lanes: everything a lane has is
a column of 16. Lanes that a model does not have, and those that have not begun
or are at their end, are computed too, and keep their state.
"""

import math
import typing

from numba.extending import overload, register_jitable
import numpy as np

from wavernn_jax.sampling.cpu import kernels, simd, simd_math, step
from wavernn_jax.sampling.cpu.lane_kernels import row_dots
from wavernn_jax.sampling.cpu.simd import LANES, fma, load, splat, store, where_at_most

LEVELS = 256
_TILE = LANES * LANES  # numbers of 16 outputs


class Activations(typing.NamedTuple):
  """Rows of 16 lanes in both forms that a matrix may multiply."""
  plain: np.ndarray  # float32 [N, 16]
  short: np.ndarray  # int16 [N, 16], times a limit of the network


class Scratch(typing.NamedTuple):
  """Working memory of one running utterance; arrays start at cache lines."""
  units: int             # H
  projection: int        # P
  channels: int          # C
  inputs: int            # rows of `signals`
  h: Activations         # [2 * H], states before and after the sample
  context: Activations   # [C]
  hidden: Activations    # [P]
  tiles: np.ndarray      # float32 [3, 16, 16], products of 16 units
  heard: np.ndarray      # float32 [3 * H, 16], what the context adds to the gates, as `gates`
  frames: np.ndarray     # float32 [H, 3, 2, 16], gate inputs of an even and an odd frame
  loaded: np.ndarray     # int64 [16], earlier of the two frames
  frame_terms: np.ndarray  # float32 [2, 16], weights of the even and of the odd frame
  signals: np.ndarray    # float32 [inputs, 16], the terms of LaneNetwork.inputs
  live: np.ndarray       # float32 [16], 1: the lane draws
  uniforms: np.ndarray   # float32 [2, 16]
  codes: np.ndarray      # float32 [2, 16], bytes drawn
  logits: np.ndarray     # float32 [256, 16]
  weights: np.ndarray    # float32 [256 + 16, 16], exp of logits; sums over sixteens
  results: np.ndarray    # float32 [2, 16], greatest logit and sum of weights


def operand(matrix, x, start):
  """The form of activations that a matrix multiplies, from input `start` on."""
  raise NotImplementedError('for nopython code')


@overload(operand)
def _operand(matrix, x, start):  # pylint: disable=unused-argument
  if kernels.is_integer(matrix):
    return lambda matrix, x, start: simd.offset(x.short, start * LANES)
  return lambda matrix, x, start: simd.offset(x.plain, start * LANES)


def store_integers(matrices, x, row, vector):
  """Writes a row, rounded, if any of the matrices multiplies integers."""
  raise NotImplementedError('for nopython code')


@overload(store_integers)
def _store_integers(matrices, x, row, vector):  # pylint: disable=unused-argument
  if any(kernels.is_integer(m) for m in matrices.types):
    return lambda matrices, x, row, vector: simd.store_int16(x.short, row * LANES, vector)
  return lambda matrices, x, row, vector: None


@register_jitable
def quantise(matrices, x, count, greatest, limit):
  """Fills the integer form as far as it is needed; what 1 stands for in each lane."""
  greatest = simd.maximum(greatest, splat(1e-30))
  scale = splat(limit) / greatest
  for row in range(count):
    store_integers(matrices, x, row, load(x.plain, row * LANES) * scale)
  return greatest / splat(limit)


# Gates.


@register_jitable
def _gate_input(net, s, unit, gate, signals):
  """Two frames and the first `signals` bytes; the last, c_t, is for the fine half."""
  place, weight = (3 * unit + gate) * 2 * LANES, (3 * unit + gate) * s.inputs
  x = load(s.frames, place) * load(s.frame_terms, 0)
  x = fma(load(s.frames, place + LANES), load(s.frame_terms, LANES), x)
  for k in range(signals):
    x = fma(splat(simd.item(net.inputs, weight + k)), load(s.signals, k * LANES), x)
  return x


@register_jitable
def hear(net, s, unit):
  """What the context adds to all gates, in one piece: each matrix is read from end to end."""
  seen = operand(net.gates, s.context, 0)
  for row in range(3 * s.units // LANES):
    row_dots(net.gates, seen, row, unit, simd.offset(s.heard, row * _TILE))


@register_jitable
def half_step(net, s, now, half):
  """The coarse (0) or the fine (1) half of the state, sixteen units at a time."""
  old, new = now * s.units, (1 - now) * s.units
  h, unit = operand(net.recurrent, s.h, old), splat(np.float32(1) / net.limit)
  blocks = s.units // (2 * LANES)
  for block in range(half * blocks, (half + 1) * blocks):
    for gate in range(3):
      row_dots(net.recurrent, h, 3 * block + gate, unit, simd.offset(s.tiles, gate * _TILE))
    for k in range(LANES):
      _unit(net, s, old, new, block * LANES + k, 3 * block * _TILE + k * LANES, k * LANES,
            s.inputs - 1 + half)


@register_jitable
def _unit(net, s, old, new, unit, heard, tile, signals):
  """A new unit of the state, from products at `tile` and what stands at `heard`."""
  x_u = load(s.heard, heard) + _gate_input(net, s, unit, 0, signals)
  x_r = load(s.heard, heard + _TILE) + _gate_input(net, s, unit, 1, signals)
  x_e = load(s.heard, heard + 2 * _TILE) + _gate_input(net, s, unit, 2, signals)
  a, reset = step.reset_stage(load(s.tiles, tile), load(s.tiles, _TILE + tile), x_u, x_r)
  b = step.candidate_stage(reset, load(s.tiles, 2 * _TILE + tile), x_e)
  before = load(s.h.plain, (old + unit) * LANES)
  h = where_at_most(load(s.live, 0), splat(0.0), before, step.blend_stage(before, a, b))
  store(s.h.plain, (new + unit) * LANES, h)
  store_state(net, s, new + unit, h)


@register_jitable
def store_state(net, s, row, h):
  """A row of the state as the integers that are needed."""
  h = simd.maximum(simd.minimum(h, splat(1.0)), splat(-1.0))
  store_integers((net.recurrent, net.coarse.project, net.fine.project),
                 s.h, row, h * splat(net.limit))


# Output layers.


@register_jitable
def hear_coarse(net, s, unit):
  """What the context adds to the hidden layer of the coarse byte."""
  seen = operand(net.coarse_context, s.context, 0)
  for row in range(s.projection // LANES):
    row_dots(net.coarse_context, seen, row, unit, simd.offset(s.hidden.plain, row * _TILE))


@register_jitable
def hear_nothing(s):
  """The context adds nothing to the hidden layer of the fine byte."""
  for row in range(s.projection):
    store(s.hidden.plain, row * LANES, splat(0.0))


@register_jitable
def head_logits(net, head, s, first):
  """s.logits from the state of unit `first` on, beside what the context has added to s.hidden.

  The greatest logits go to s.results.
  """
  y, unit = operand(head.project, s.h, first), splat(np.float32(1) / net.limit)
  top = splat(0.0)
  for row in range(s.projection // LANES):
    row_dots(head.project, y, row, unit, s.tiles)
    hidden = simd.offset(s.hidden.plain, row * _TILE)
    for k in range(LANES):
      v = load(s.tiles, k * LANES) + load(hidden, k * LANES)
      v = simd.maximum(v + splat(simd.item(head.project_bias, row * LANES + k)), splat(0.0))
      top = simd.maximum(top, v)
      store(hidden, k * LANES, v)
  unit = quantise((head.logits,), s.hidden, s.projection, top, head.limit)
  x, top = operand(head.logits, s.hidden, 0), splat(-np.inf)
  for row in range(LEVELS // LANES):
    logits = simd.offset(s.logits, row * _TILE)
    row_dots(head.logits, x, row, unit, logits)
    for k in range(LANES):
      v = load(logits, k * LANES) + splat(simd.item(head.logits_bias, row * LANES + k))
      top = simd.maximum(top, v)
      store(logits, k * LANES, v)
  store(s.results, 0, top)


@register_jitable
def softmax_weights(s, temperature):
  """s.weights = exp((logits - greatest) / temperature); their sums to s.results.

  s.weights[256:] become the sums over the blocks of sixteen before each.
  """
  scale, total = splat(step.LOG2E / max(temperature, 1e-6)), splat(0.0)
  least = splat(-120.0 / step.LOG2E * max(temperature, 1e-6))
  greatest = load(s.results, 0)
  for block in range(LEVELS // LANES):
    store(s.weights, (LEVELS + block) * LANES, total)
    inside = splat(0.0)
    for place in range(block * _TILE, (block + 1) * _TILE, LANES):
      x = simd.maximum(load(s.logits, place) - greatest, least)
      weight = simd_math.exp2_scaled(x, scale)
      store(s.weights, place, weight)
      inside = inside + weight
    total = total + inside
  store(s.results, LANES, total)


@register_jitable
def draw(s, uniform):
  """How many running sums of the 256 weights are <= uniform * total, to 255, as floats."""
  bound, below = uniform * load(s.results, LANES), splat(0.0)
  for block in range(LEVELS // LANES):
    before, inside = load(s.weights, (LEVELS + block) * LANES), splat(0.0)
    for place in range(block * _TILE, (block + 1) * _TILE, LANES):
      inside = inside + load(s.weights, place)
      below = below + where_at_most(before + inside, bound, splat(1.0), splat(0.0))
  return simd.minimum(below, splat(LEVELS - 1.0))


@register_jitable
def most_likely(s):
  """The first index of the greatest logit, as floats."""
  greatest, best = load(s.results, 0), splat(0.0)
  for level in range(LEVELS - 1, -1, -1):
    best = where_at_most(greatest, load(s.logits, level * LANES), splat(level), best)
  return best


@register_jitable
def log_probability(s, lane, code):
  """Natural logarithm of the softmax at temperature 1 at the code of a lane."""
  x = simd.item(s.logits, code * LANES + lane) - simd.item(s.results, lane)
  return np.float32(x - math.log(simd.item(s.results, LANES + lane)))
