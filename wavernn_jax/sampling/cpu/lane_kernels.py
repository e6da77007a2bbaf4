"""Block-sparse products with the activations of 16 lanes at once (§3, for §4).

The vectors of these products lie across the lanes of a subscale model:
activations X [N, 16] have a row of lanes for each input. A weight that is read
is multiplied with a whole row, so that one load of it serves all lanes:

    y[o, :] = Σ_n w[o, n] X[n, :]          16 sums, one for each output of a row

Matrices are `kernels.Columns` or `kernels.Squares` with values of two types:
float32, and int16 with exact int32 sums. The two inputs of a pair of integers
are interleaved lane by lane, as `pmaddwd` wants them beside the pair's weights.
"""

import llvmlite.ir as ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

from wavernn_jax.sampling.cpu import kernels, simd
from wavernn_jax.sampling.cpu.kernels import PAIR, zero
from wavernn_jax.sampling.cpu.simd import F32, F32X16, I16, I32, I64, LANES


def _inputs(builder, indices, pair):
  """First inputs of both blocks of a pair."""
  word = simd.load_as(builder, indices, pair, I32)
  return [builder.zext(half, I64) for half in (
      builder.trunc(word, I16), builder.trunc(builder.lshr(word, I32(16)), I16))]


def _row(builder, x, index):
  """The 16 lanes of an input."""
  kind = ir.VectorType(x.type.pointee, LANES)
  return simd.load_as(builder, x, builder.mul(index, I64(LANES)), kind)


def _weight(builder, values, place, kind):
  """One word of the weights in all lanes."""
  return simd.broadcast(builder, simd.load_as(builder, values, place, kind))


def _add_floats(builder, values, start, rows, stride, totals):
  """The totals after both blocks of a pair of float32, at one input of each."""
  for block, row in enumerate(rows):
    for o, total in enumerate(totals):
      place = builder.add(start, I64(LANES * block + stride * o))
      totals[o] = simd.call(
          builder, 'llvm.fmuladd.v16f32', _weight(builder, values, place, F32), row, total)
  return totals


def _add_integers(context, builder, values, start, rows, stride, totals):
  """The same of int16, which stand in twos, one of each block."""
  lanes = simd.shuffle(builder, *rows, [k // 2 + LANES * (k % 2) for k in range(PAIR)])
  for o, total in enumerate(totals):
    word = _weight(builder, values, builder.add(start, I64(2 * stride * o)), I32)
    totals[o] = kernels.multiply_neighbours(
        context, builder, builder.bitcast(word, lanes.type), lanes, total)
  return totals


@intrinsic
def _add_pair(typingctx, values, indices, x, pair, totals):  # pylint: disable=unused-argument
  """The totals of a block row after a pair of its blocks.

  There are 16 totals for blocks of 16x1. For blocks of 4x4 there are 8, one set
  of four for every other input, so that sums do not wait for one another.
  """
  width = 1 if len(totals) == LANES else 4
  integers = values.dtype in kernels.INTEGERS

  def codegen(context, builder, signature, args):
    values, indices, x, pair, totals = args
    totals = cgutils.unpack_tuple(builder, totals)
    inputs, start = _inputs(builder, indices, pair), builder.mul(pair, I64(PAIR))
    for i in range(width):
      rows = [_row(builder, x, builder.add(first, I64(i))) for first in inputs]
      part = slice(4 * (i % 2), 4 * (i % 2) + 4) if width == 4 else slice(0, LANES)
      if integers:
        totals[part] = _add_integers(
            context, builder, values, builder.add(start, I64(2 * i)), rows, width, totals[part])
      else:
        totals[part] = _add_floats(
            builder, values, builder.add(start, I64(i)), rows, width, totals[part])
    return context.make_tuple(builder, signature.return_type, totals)
  return totals(values, indices, x, types.uintp, totals), codegen


@intrinsic
def _store(typingctx, y, place, totals, scales, row, unit):  # pylint: disable=unused-argument
  """Writes totals as floats, 16 lanes each, to y[place] and on."""
  def codegen(context, builder, signature, args):
    y, place, totals, scales, row, unit = args
    for o, total in enumerate(cgutils.unpack_tuple(builder, totals)):
      where = simd.address(builder, y, builder.add(place, I64(LANES * o)), F32X16)
      builder.store(kernels.finished(builder, total, scales, row, unit), where).align = 4
    return context.get_dummy_value()
  return types.void(y, types.uintp, totals, scales, types.uintp, unit), codegen


# Rows of 16 outputs.


@register_jitable
def _pairs(m, x, first, last, totals):
  for pair in range(first, last):
    simd.keep_rolled()
    totals = _add_pair(m.values, m.indices, x, pair, totals)
  return totals


@register_jitable
def _columns_row(m, x, row, unit, y):
  z = zero(m.values)
  totals = _pairs(m, x, 2 * simd.item(m.starts, row), 2 * simd.item(m.starts, row + 1),
                  (z, z, z, z, z, z, z, z, z, z, z, z, z, z, z, z))
  _store(y, 0, totals, m.scales, row, unit)


@register_jitable
def _squares_row(m, x, row, unit, y):
  z = zero(m.values)
  for part in range(4):
    block_row = 4 * row + part
    a, b, c, d, e, f, g, h = _pairs(
        m, x, simd.item(m.starts, block_row), simd.item(m.starts, block_row + 1),
        (z, z, z, z, z, z, z, z))
    _store(y, 4 * LANES * part, (a + e, b + f, c + g, d + h), m.scales, block_row, unit)


_ROWS = {kernels.Columns: _columns_row, kernels.Squares: _squares_row}


def row_dots(matrix, x, row, unit, y):
  """Sixteen outputs of a matrix in 16 lanes; only inside numba functions.

  Args:
    matrix: Columns or Squares, borrowed, of float32 or int16.
    x: borrowed float32 or int16 [N, 16], as the values of the matrix.
    row: which sixteen outputs.
    unit: vector, what an int16 activation of 1 stands for in each lane.
    y: borrowed float32 [16, 16], gets outputs by lanes.
  """
  raise NotImplementedError('row_dots is for nopython code')


@overload(row_dots, inline='never')
def _row_dots(matrix, x, row, unit, y):  # pylint: disable=unused-argument
  implementation = _ROWS[matrix.instance_class]
  return lambda matrix, x, row, unit, y: implementation(matrix, x, row, unit, y)


@njit(nogil=True, error_model='numpy')
def product(matrix, x, y, unit):
  """y [O, 16] = matrix times x [N, 16]."""
  m, activations, out = simd.borrow(matrix), simd.borrow(x), simd.borrow(y)
  for row in range(len(y) // LANES):
    row_dots(m, activations, row, simd.splat(unit), simd.offset(out, row * LANES * LANES))
