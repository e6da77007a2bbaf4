"""One WaveRNN sample in numba (§2 equations, §3 products).

The state h of H units is updated in blocks of 16, coarse half first. All
functions here are for nopython code and are inlined into the sampler's loop.
"""

import math
import typing

from numba import types
from numba.extending import overload, register_jitable
import numpy as np

from wavernn_jax.sampling.cpu import inputs, kernels, simd, simd_math
from wavernn_jax.sampling.cpu.kernels import row_dot
from wavernn_jax.sampling.cpu.simd import WIDTH, fma, load, splat, store

LEVELS = 256
LOG2E = 1.4426950408889634


class Activations(typing.NamedTuple):
  """A vector in both forms that matrices multiply; a form that none needs stays zero."""
  plain: np.ndarray  # float32 [N]
  short: np.ndarray  # int16 [N], times a limit of the network


class Scratch(typing.NamedTuple):
  """Working memory of one running utterance; arrays start at cache lines."""
  units: int            # H
  projection: int       # P
  h: Activations        # [2 * H], state before and after the sample
  hidden: Activations   # [P]
  logits: np.ndarray    # float32 [256]
  weights: np.ndarray   # float32 [256 + 16], exp of logits; sums over sixteens
  coarse_inputs: np.ndarray  # as in Network, with the frame terms filled in
  fine_inputs: np.ndarray
  coarse_rows: int      # of a gate
  fine_rows: int
  tape: np.ndarray      # float32 [R], past residuals over σ


# Activations for matrices, by their types.


def operand(matrix, x, start):
  """The form of an activation that a matrix multiplies, from `start` on."""
  raise NotImplementedError('for nopython code')


@overload(operand)
def _operand(matrix, x, start):  # pylint: disable=unused-argument
  if kernels.is_integer(matrix):
    return lambda matrix, x, start: simd.offset(x.short, start)
  return lambda matrix, x, start: simd.offset(x.plain, start)


def store_short(matrices, x, start, vector):
  """Write sixteen numbers as int16 if one of the matrices needs them."""
  raise NotImplementedError('for nopython code')


@overload(store_short)
def _store_short(matrices, x, start, vector):  # pylint: disable=unused-argument
  if any(map(kernels.is_integer, matrices.types)):
    return lambda matrices, x, start, vector: simd.store_int16(x.short, start, vector)
  return lambda matrices, x, start, vector: None


@register_jitable
def round_state(network, x, start, h):
  """Write sixteen units of the state as int16 if one of the matrices needs them."""
  h = simd.maximum(simd.minimum(h, splat(1.0)), splat(-1.0))
  store_short((network.recurrent, network.coarse.project, network.fine.project),
              x, start, h * splat(network.limit))


@register_jitable
def quantise(matrix, x, count, greatest, limit):
  """Fill the int16 form if the matrix needs it; returns the value of one step of it."""
  scale = limit / max(greatest, np.float32(1e-30))
  for start in range(0, count, WIDTH):
    store_short((matrix,), x, start, load(x.plain, start) * splat(scale))
  return greatest / limit


# Gates.


@register_jitable
def _exp2_clipped(x, scale, bound):
  """2^(scale * x), x clipped to ±bound."""
  x = simd.maximum(simd.minimum(x, splat(bound)), splat(-bound))
  return simd_math.exp2_scaled(x, splat(scale))


# h' = u h + (1 - u) e with two divisions: for a = exp(-u's argument) and
# b = exp(-2 e's argument), u = 1 / (1 + a) and e = (1 - b) / (1 + b). It stands
# in three stages because each is a long chain of dependent instructions: the
# processor hides it behind the rows of weights that are read in between.


@register_jitable
def reset_stage(g_u, g_r, x_u, x_r):
  """a of the comment above, and one over the reset gate."""
  return (_exp2_clipped(g_u + x_u, -LOG2E, 40.0),
          splat(1.0) + _exp2_clipped(g_r + x_r, -LOG2E, 40.0))


@register_jitable
def candidate_stage(reset, g_e, x_e):
  """b of the comment above."""
  return _exp2_clipped(x_e + g_e / reset, -2 * LOG2E, 20.0)


@register_jitable
def blend_stage(h, a, b):
  """The new state; the bounds on a and b keep every product finite."""
  one = splat(1.0)
  return fma(h, one + b, a * (one - b)) / ((one + a) * (one + b))


def add_bias(bias, start, vector):
  """R_e h of sixteen units, with the bias inside the reset gate where the model has one."""
  raise NotImplementedError('for nopython code')


@overload(add_bias)
def _add_bias(bias, start, vector):  # pylint: disable=unused-argument
  if isinstance(bias, types.NoneType):
    return lambda bias, start, vector: vector
  return lambda bias, start, vector: vector + load(bias, start)


@register_jitable
def half_step(network, s, now, table, terms, first):
  """Steps one half of the state, sixteen units at a time, from block `first` on."""
  m, half = network.recurrent, s.units // 2
  old, new = now * s.units, (1 - now) * s.units
  x, unit = operand(m, s.h, old), np.float32(1) / network.limit
  width, last = inputs.table_rows(terms) * WIDTH, first + half // WIDTH
  a = b = reset = g_e = x_e = splat(1.0)
  for block in range(first, last):
    gates, place = 3 * block, 3 * width * (block - first)
    g_u = row_dot(m, x, gates, unit)
    b = candidate_stage(reset, g_e, x_e)
    g_r = row_dot(m, x, gates + 1, unit)
    if block > first:
      _store_state(network, s, old, new, block - 1, a, b)
    g_e = add_bias(network.reset_bias, block * WIDTH, row_dot(m, x, gates + 2, unit))
    a, reset = reset_stage(
        g_u, g_r, inputs.gate_input(table, place, terms),
        inputs.gate_input(table, place + width, terms))
    x_e = inputs.gate_input(table, place + 2 * width, terms)
  b = candidate_stage(reset, g_e, x_e)
  _store_state(network, s, old, new, last - 1, a, b)


@register_jitable
def _store_state(network, s, old, new, block, a, b):
  h = blend_stage(load(s.h.plain, old + block * WIDTH), a, b)
  store(s.h.plain, new + block * WIDTH, h)
  round_state(network, s.h, new + block * WIDTH, h)


@register_jitable
def set_frames(table, rows, frame0, frame1, units, first):
  """Write two frames' gate inputs [3 * H] into the table of one half."""
  place = 0
  for unit in range(first, first + units // 2, WIDTH):
    for gate in range(3):
      store(table, place, load(frame0, gate * units + unit))
      store(table, place + WIDTH, load(frame1, gate * units + unit))
      place += rows * WIDTH


# Output layers.


@register_jitable
def head_logits(head, s, first, limit, prior):
  """s.logits = B relu(A h + a) + b for the state from unit `first` on; returns the greatest.

  prior: None, or slope and ramp of what is added.
  """
  m, unit = head.project, np.float32(1) / limit
  x, top = operand(m, s.h, first), splat(0.0)
  for start in range(0, s.projection, WIDTH):
    v = row_dot(m, x, start // WIDTH, unit) + load(head.project_bias, start)
    v = simd.maximum(v, splat(0.0))
    top = simd.maximum(top, v)
    store(s.hidden.plain, start, v)
  m = head.logits
  greatest = simd_math.first(simd_math.maximum_of(top))
  unit = quantise(m, s.hidden, s.projection, greatest, head.limit)
  x, top = operand(m, s.hidden, 0), splat(-np.inf)
  for start in range(0, LEVELS, WIDTH):
    v = row_dot(m, x, start // WIDTH, unit) + load(head.logits_bias, start)
    v = _add_prior(prior, start, v)
    top = simd.maximum(top, v)
    store(s.logits, start, v)
  return simd_math.first(simd_math.maximum_of(top))


def _add_prior(prior, start, logits):
  """Sixteen logits with the prior."""
  raise NotImplementedError('for nopython code')


@overload(_add_prior)
def _overload_add_prior(prior, start, logits):  # pylint: disable=unused-argument
  if isinstance(prior, types.NoneType):
    return lambda prior, start, logits: logits
  return lambda prior, start, logits: fma(load(prior[1], start), prior[0], logits)


@register_jitable
def softmax_weights(s, greatest, temperature):
  """s.weights = exp((logits - greatest) / temperature); returns their sum.

  s.weights[256:] become the running sums over blocks of sixteen.
  """
  scale = splat(LOG2E / max(temperature, 1e-6))
  for start in range(0, LEVELS, WIDTH):
    x = load(s.logits, start) - splat(greatest)
    x = simd.maximum(x, splat(-120.0 / LOG2E * max(temperature, 1e-6)))
    store(s.weights, start, simd_math.exp2_scaled(x, scale))
  sums = simd_math.running_sum(simd_math.interleave_sum(
      simd_math.interleave_sum(_sums4(s.weights, 0), _sums4(s.weights, 64)),
      simd_math.interleave_sum(_sums4(s.weights, 128), _sums4(s.weights, 192))))
  store(s.weights, LEVELS, sums)
  return simd.item(s.weights, LEVELS + WIDTH - 1)


@register_jitable
def _sums4(x, start):
  """The sums of each four neighbours, of four blocks of 16 numbers."""
  return simd_math.interleave_sum(
      simd_math.interleave_sum(load(x, start), load(x, start + 16)),
      simd_math.interleave_sum(load(x, start + 32), load(x, start + 48)))


@register_jitable
def draw(weights, total, uniform):
  """How many running sums of the 256 weights are <= uniform * total, to 255.

  First among sums of blocks of sixteen, then within one block.
  """
  bound = np.float32(uniform * total)
  block = min(simd_math.count_at_most(load(weights, LEVELS), bound), WIDTH - 1)
  before = np.float32(0)
  if block > 0:
    before = simd.item(weights, LEVELS + block - 1)
  inside = simd_math.running_sum(load(weights, block * WIDTH)) + splat(before)
  return min(block * WIDTH + simd_math.count_at_most(inside, bound), LEVELS - 1)


@register_jitable
def most_likely(logits):
  """The first index of the greatest logit."""
  best = 0
  for level in range(1, LEVELS):
    if simd.item(logits, level) > simd.item(logits, best):
      best = level
  return best


@register_jitable
def log_probability(logits, code, greatest, total, temperature):
  """Natural logarithm of the softmax at `code`."""
  x = (simd.item(logits, code) - greatest) / max(temperature, 1e-6)
  return np.float32(x - math.log(total))
