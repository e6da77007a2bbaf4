"""Block-sparse products inside numba functions (§3).

A matrix at run time is a stream of blocks in the order in which they are used,
two blocks to a `pair`, sixteen outputs to a `row`. `row_dot` multiplies one row
by an activation vector; which loop it compiles to follows from the types:

  Columns   16x1 blocks     Squares   4x4 blocks     Dense   all 16x1 blocks

  values float32        weights as they are, float32 activations
  values uint32         two bfloat16 a word, one from each block of the pair
  values int8, int16    int16 activations, exact int32 sums, a scale for each output

Interleaving the pair's bfloat16 makes one load serve two blocks, and its
integers make the multiply-add of neighbouring int16 (`pmaddwd`) serve two
blocks.
"""

import typing

import llvmlite.ir as ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable
import numpy as np

from wavernn_jax.sampling.cpu import int16, simd, simd_math
from wavernn_jax.sampling.cpu.int16 import PAIR
from wavernn_jax.sampling.cpu.simd import (
  F32X16,
  I8,
  I16,
  I32,
  I32X16,
  I64,
  WIDTH,
  f32x16,
  i32x16,
)

INT8_MAX = 127
INTEGERS = (types.int8, types.int16)


class Columns(typing.NamedTuple):
  """16x1 blocks. Row r has the pairs 2 * starts[r] to 2 * starts[r + 1] − 1."""
  values: np.ndarray   # [pairs, ...]
  indices: np.ndarray  # uint32 [pairs], input of block 0 | input of block 1 << 16
  starts: np.ndarray   # uint32 [rows + 1]
  scales: np.ndarray   # float32 [16 * rows], used with integers only


class Squares(typing.NamedTuple):
  """4x4 blocks. Row r has four block rows of 4 outputs each, from 4 * r on."""
  values: np.ndarray
  indices: np.ndarray  # uint32 [pairs], first inputs of both blocks
  starts: np.ndarray   # uint32 [4 * rows + 1], in pairs
  scales: np.ndarray


class Dense(typing.NamedTuple):
  """All 16x1 blocks of a matrix, which need no indices."""
  values: np.ndarray
  pairs: int           # a row
  scales: np.ndarray


# One pair of blocks times its activations, added to accumulators.


def _weights(builder, kind, values, pair):
  """Both blocks of a pair as float vectors."""
  if kind.dtype == types.float32:
    start = builder.mul(pair, I64(PAIR))
    return [simd.load_as(builder, values, builder.add(start, I64(k)), F32X16) for k in (0, WIDTH)]
  start = builder.mul(pair, I64(WIDTH))
  words = simd.load_as(builder, values, start, I32X16)
  low = builder.shl(words, simd.constant(I32X16, 16))
  high = builder.and_(words, simd.constant(I32X16, -65536))
  return [builder.bitcast(v, F32X16) for v in (low, high)]


def is_integer(matrix):
  """Whether the numba type of a matrix holds integers, and so multiplies int16."""
  return matrix.types[0].dtype in INTEGERS


def _int16_weights(builder, kind, values, pair):
  """A pair of integer blocks as 32 int16, the two blocks in alternate elements."""
  start = builder.mul(pair, I64(PAIR))
  if kind.dtype == types.int16:
    return simd.load_as(builder, values, start, ir.VectorType(I16, PAIR))
  weights = simd.load_as(builder, values, start, ir.VectorType(I8, PAIR))
  return builder.sext(weights, ir.VectorType(I16, PAIR))


def _tile(builder, a, b):
  """32 elements from two int16 vectors, `a` in even elements, `b` in odd."""
  width = a.type.count
  elements = [k // 2 % width + width * (k % 2) for k in range(PAIR)]
  if width == PAIR:  # constant vectors: x86 broadcasts from memory for nothing
    elements = [k + PAIR * (k % 2) for k in range(PAIR)]
  return simd.shuffle(builder, a, b, elements)


def _activations(builder, x, index, width):
  """`width` neighbouring activations, as an LLVM vector of 4 or of 32."""
  element = x.type.pointee
  if width > 1:
    return simd.load_as(builder, x, index, ir.VectorType(element, width))
  scalar = simd.load_as(builder, x, index, element)
  return simd.broadcast(builder, scalar, PAIR)


def _add_pair(context, builder, values_type, values, pair, x, indices, width,
              totals):
  """The accumulators after one more pair of blocks, which have `width` inputs each."""
  a, b = (_activations(builder, x, index, width) for index in indices)
  if values_type.dtype in INTEGERS:
    weights = _int16_weights(builder, values_type, values, pair)
    total = int16.multiply_neighbours(
        context, builder, weights, _tile(builder, a, b), totals[0])
    return [total, totals[1]]
  weights = _weights(builder, values_type, values, pair)
  tiles = [simd.shuffle(builder, v, v, [k % width for k in range(WIDTH)])
           for v in (a, b)]
  return [simd.call(builder, 'llvm.fmuladd.v16f32', *operands)
          for operands in zip(weights, tiles, totals, strict=False)]


@intrinsic
def add_square_pair(typingctx, values, indices, x, pair, total0, total1):  # pylint: disable=unused-argument
  """The accumulators after one more pair of 4x4 blocks."""
  def codegen(context, builder, signature, args):
    values, indices, x, pair, *totals = args
    word = simd.load_as(builder, indices, pair, I32)
    inputs = [builder.zext(half, I64) for half in (
        builder.trunc(word, I16), builder.lshr(word, I32(16)))]
    totals = _add_pair(context, builder, signature.args[0], values, pair, x, inputs, 4, totals)
    return context.make_tuple(builder, signature.return_type, totals)
  pair_type = types.UniTuple(total0, 2)
  return pair_type(values, indices, x, types.uintp, total0, total1), codegen


@intrinsic
def add_column_group(typingctx, values, indices, x, group, totals):  # pylint: disable=unused-argument
  """The four accumulators after two more pairs of 16x1 blocks."""
  def codegen(context, builder, signature, args):
    values, indices, x, group, totals = args
    totals = cgutils.unpack_tuple(builder, totals)
    first = builder.shl(group, I64(1))
    word = simd.load_as(builder, indices, first, I64)  # four inputs by one load
    inputs = [builder.and_(builder.lshr(word, I64(16 * k)), I64(0xFFFF)) for k in range(4)]
    for k, pair in enumerate((first, builder.add(first, I64(1)))):
      part = slice(2 * k, 2 * k + 2)
      totals[part] = _add_pair(context, builder, signature.args[0], values, pair, x,
                               inputs[part], 1, totals[part])
    return context.make_tuple(builder, signature.return_type, totals)
  return totals(values, indices, x, types.uintp, totals), codegen


@intrinsic
def add_dense_pair(typingctx, values, x, pair, column, total0, total1):  # pylint: disable=unused-argument
  """`add_column_pair` of the inputs 2 * column and 2 * column + 1."""
  def codegen(context, builder, signature, args):
    values, x, pair, column, *totals = args
    start = builder.mul(column, I64(2))
    if signature.args[0].dtype in INTEGERS:
      neighbours = simd.broadcast(
          builder, simd.load_as(builder, x, start, I32))
      total = int16.multiply_neighbours(
          context, builder, _int16_weights(builder, signature.args[0], values, pair),
          builder.bitcast(neighbours, ir.VectorType(I16, PAIR)), totals[0])
      totals = [total, totals[1]]
    else:
      totals = _add_pair(
          context, builder, signature.args[0], values, pair, x,
          (start, builder.add(start, I64(1))), 1, totals)
    return context.make_tuple(builder, signature.return_type, totals)
  pair_type = types.UniTuple(total0, 2)
  return pair_type(
      values, x, types.uintp, types.uintp, total0, total1), codegen


@intrinsic
def zero(typingctx, values):  # pylint: disable=unused-argument
  """An empty accumulator for weights of the type of `values`."""
  kind = i32x16 if values.dtype in INTEGERS else f32x16
  def codegen(context, builder, signature, args):
    return ir.Constant(F32X16 if kind == f32x16 else I32X16, None)
  return kind(values), codegen


@intrinsic
def as_floats(typingctx, total):  # pylint: disable=unused-argument
  """An accumulator as float32."""
  def codegen(context, builder, signature, args):
    return args[0] if args[0].type == F32X16 else builder.sitofp(args[0], F32X16)
  return f32x16(total), codegen


def scaled(matrix, total, row, unit):
  """Sixteen sums as floats; integers are multiplied by their outputs' scales and by `unit`."""
  raise NotImplementedError('for nopython code')


@overload(scaled)
def _scaled(matrix, total, row, unit):  # pylint: disable=unused-argument
  if is_integer(matrix):
    return lambda matrix, total, row, unit: total * (
        simd.load(matrix.scales, row * WIDTH) * simd.splat(unit))
  return lambda matrix, total, row, unit: total


# Rows of 16 outputs.


@register_jitable
def _columns_row(m, x, row, unit):
  a = b = c = d = zero(m.values)
  for group in range(simd.item(m.starts, row), simd.item(m.starts, row + 1)):
    simd.keep_rolled()
    a, b, c, d = add_column_group(m.values, m.indices, x, group, (a, b, c, d))
  return scaled(m, as_floats((a + b) + (c + d)), row, unit)


@register_jitable
def _square_row(m, x, row):
  a = b = zero(m.values)
  for pair in range(simd.item(m.starts, row), simd.item(m.starts, row + 1)):
    simd.keep_rolled()
    a, b = add_square_pair(m.values, m.indices, x, pair, a, b)
  return as_floats(a + b)


@register_jitable
def _squares_row(m, x, row, unit):
  top = simd_math.interleave_sum(_square_row(m, x, 4 * row), _square_row(m, x, 4 * row + 1))
  bottom = simd_math.interleave_sum(
      _square_row(m, x, 4 * row + 2), _square_row(m, x, 4 * row + 3))
  return scaled(m, simd_math.interleave_sum(top, bottom), row, unit)


@register_jitable
def _dense_row(m, x, row, unit):
  a = b = c = d = zero(m.values)
  start = row * m.pairs
  for column in range(0, m.pairs & ~3, 4):  # int8 has one sum a call: take turns
    simd.keep_rolled()
    pair = start + column
    a, b = add_dense_pair(m.values, x, pair, column, a, b)
    c, d = add_dense_pair(m.values, x, pair + 1, column + 1, c, d)
    b, a = add_dense_pair(m.values, x, pair + 2, column + 2, b, a)
    d, c = add_dense_pair(m.values, x, pair + 3, column + 3, d, c)
  for column in range(m.pairs & ~3, m.pairs):
    simd.keep_rolled()
    a, b = add_dense_pair(m.values, x, start + column, column, a, b)
  return scaled(m, as_floats((a + b) + (c + d)), row, unit)


_ROWS = {Columns: _columns_row, Squares: _squares_row, Dense: _dense_row}


def row_dot(matrix, x, row, unit):
  """Sixteen outputs of a matrix, as a vector; only inside numba functions.

  Args:
    matrix: Columns, Squares or Dense, borrowed.
    x: borrowed float32 [N], or int16 [N] where the values are integers.
    row: which sixteen outputs.
    unit: float32, what an int16 activation of 1 stands for.
  """
  raise NotImplementedError('row_dot is for nopython code')


@overload(row_dot, inline='never')
def _row_dot(matrix, x, row, unit):  # pylint: disable=unused-argument
  implementation = _ROWS[matrix.instance_class]
  return lambda matrix, x, row, unit: implementation(matrix, x, row, unit)


@njit(nogil=True, error_model='numpy')
def product(matrix, x, y, unit):
  """y [O] = matrix times x [N]."""
  m, activations, out = simd.borrow(matrix), simd.borrow(x), simd.borrow(y)
  for row in range(len(y) // WIDTH):
    simd.store(out, row * WIDTH, row_dot(m, activations, row, unit))
