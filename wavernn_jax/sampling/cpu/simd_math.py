"""Functions of vectors of 16 floats that take more than one instruction."""

from numba import njit, types
from numba.extending import intrinsic

from wavernn_jax.sampling.cpu import simd
from wavernn_jax.sampling.cpu.simd import (
  F32X16,
  I16,
  I32,
  I32X16,
  I64,
  ROUNDER,
  WIDTH,
  constant,
  f32x16,
  fma,
  shuffle,
  splat,
)

# 2^f on [-1/2, 1/2], least greatest relative error (2e-9 before rounding).
_EXP2 = (1.0, 0.6931471824645996, 0.24022646248340607, 0.05550328642129898,
         0.009618489071726799, 0.0013399930903688073, 0.0001534581242594868)


@intrinsic
def fold_exponent(typingctx, mantissa, shifted):  # pylint: disable=unused-argument
  """mantissa * 2^n, where n stands in the low bits of `shifted`."""
  def codegen(context, builder, signature, args):
    mantissa, shifted = (builder.bitcast(a, I32X16) for a in args)
    exponent = builder.shl(shifted, constant(I32X16, 23))
    return builder.bitcast(builder.add(mantissa, exponent), F32X16)
  return f32x16(f32x16, f32x16), codegen


@njit(error_model='numpy')
def exp2_scaled(x, scale):
  """2^(x * scale), |x * scale| < 126, relative error below 1e-7."""
  shifted = fma(x, scale, splat(ROUNDER))
  f = fma(x, scale, splat(ROUNDER) - shifted)
  p = fma(f, splat(_EXP2[6]), splat(_EXP2[5]))
  p = fma(f, p, splat(_EXP2[4]))
  p = fma(f, p, splat(_EXP2[3]))
  p = fma(f, p, splat(_EXP2[2]))
  p = fma(f, p, splat(_EXP2[1]))
  p = fma(f, p, splat(_EXP2[0]))
  return fold_exponent(p, shifted)


# Reductions over the 16 elements, by halving: the same order on every machine.


def _halve(builder, vector, combine):
  for width in (8, 4, 2, 1):
    elements = [(i + width) % WIDTH for i in range(WIDTH)]
    vector = combine(builder, vector, shuffle(builder, vector, vector, elements))
  return vector


@intrinsic
def maximum_of(typingctx, vector):  # pylint: disable=unused-argument
  """The greatest of the 16 elements, in all elements."""
  def codegen(context, builder, signature, args):
    def greater(b, x, y):
      return b.select(b.fcmp_ordered('>', x, y), x, y)
    return _halve(builder, args[0], greater)
  return f32x16(f32x16), codegen


@intrinsic
def first(typingctx, vector):  # pylint: disable=unused-argument
  """Element 0."""
  def codegen(context, builder, signature, args):
    return builder.extract_element(args[0], I32(0))
  return types.float32(f32x16), codegen


@intrinsic
def running_sum(typingctx, vector):  # pylint: disable=unused-argument
  """Cumulative sum over elements, in four doubling steps."""
  def codegen(context, builder, signature, args):
    vector, zero = args[0], constant(F32X16, 0.0)
    for width in (1, 2, 4, 8):
      elements = [WIDTH] * width + list(range(WIDTH - width))
      vector = builder.fadd(vector, shuffle(builder, vector, zero, elements))
    return vector
  return f32x16(f32x16), codegen


@intrinsic
def count_at_most(typingctx, vector, bound):  # pylint: disable=unused-argument
  """Number of elements <= `bound`."""
  def codegen(context, builder, signature, args):
    bits = builder.fcmp_ordered('<=', args[0], simd.broadcast(builder, args[1]))
    bits = builder.zext(builder.bitcast(bits, I16), I64)
    return simd.call(builder, 'llvm.ctpop.i64', bits)
  return types.int64(f32x16, types.float32), codegen


@intrinsic
def interleave_sum(typingctx, a, b):  # pylint: disable=unused-argument
  """Sums of neighbouring elements of `a` (first eight) and of `b` (last eight)."""
  def codegen(context, builder, signature, args):
    even, odd = (shuffle(builder, *args, list(range(start, 2 * WIDTH, 2)))
                 for start in (0, 1))
    return builder.fadd(even, odd)
  return f32x16(f32x16, f32x16), codegen
