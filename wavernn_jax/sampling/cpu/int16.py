"""Sums of products of int16 vectors, exact in int32, in code for the processor at hand."""

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from wavernn_jax.sampling.cpu import simd
from wavernn_jax.sampling.cpu.simd import I16, I32, I32X16, WIDTH, i32x16

PAIR = 2 * WIDTH  # weights


def multiply_neighbours(context, builder, a_2L, b_2L, total_L):
  """total[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1], int16 into int32.

  x86 has this as one instruction, which LLVM's generic form below misses.
  """
  name, width = _pmaddwd(context)
  if not name:
    def half(vector, start):
      elements = simd.shuffle(builder, vector, vector, range(start, PAIR, 2))
      return builder.sext(elements, I32X16)
    even, odd = (builder.mul(half(a_2L, k), half(b_2L, k)) for k in (0, 1))
    return builder.add(total_L, builder.add(even, odd))
  kind = ir.FunctionType(
      ir.VectorType(I32, width // 2), [ir.VectorType(I16, width)] * 2)
  function = cgutils.get_or_insert_function(builder.module, kind, name)
  parts = []
  for start in range(0, PAIR, width):
    elements = range(start, start + width)
    parts.append(builder.call(
        function, [simd.shuffle(builder, v, v, elements) for v in (a_2L, b_2L)]))
  while len(parts) > 1:
    parts = [simd.shuffle(builder, a, b, range(2 * a.type.count))
             for a, b in zip(parts[::2], parts[1::2], strict=False)]
  return builder.add(total_L, parts[0])


def _pmaddwd(context):
  """The widest such instruction of the target: its name and int16 elements."""
  triple, _, features = context.codegen().magic_tuple()
  features = features.split(',')
  if not triple.startswith('x86_64'):
    return None, 0
  if '+avx512bw' in features:
    return 'llvm.x86.avx512.pmaddw.d.512', 32
  if '+avx2' in features:
    return 'llvm.x86.avx2.pmadd.wd', 16
  return 'llvm.x86.sse2.pmadd.wd', 8


@intrinsic
def no_products(typingctx):  # pylint: disable=unused-argument
  """An empty sum."""
  def codegen(context, builder, signature, args):
    return ir.Constant(I32X16, None)
  return i32x16(), codegen


@intrinsic
def add_products(typingctx, a, i, b, j, total):  # pylint: disable=unused-argument
  """A sum and 32 more products, of a[i], a[i + 1], .. and b[j], b[j + 1], .., modulo 2^32."""
  def codegen(context, builder, signature, args):
    a, i, b, j, total = args
    vectors = [simd.load_as(builder, *at, ir.VectorType(I16, PAIR)) for at in ((a, i), (b, j))]
    return multiply_neighbours(context, builder, *vectors, total)
  return i32x16(a, types.uintp, b, types.uintp, i32x16), codegen


@intrinsic
def sum_of_products(typingctx, total):  # pylint: disable=unused-argument
  """An int32: the sum of all elements, the same in any order."""
  def codegen(context, builder, signature, args):
    kind = ir.FunctionType(I32, [I32X16])
    function = cgutils.get_or_insert_function(
        builder.module, kind, 'llvm.vector.reduce.add.v16i32')
    return builder.call(function, args)
  return types.int32(total), codegen
