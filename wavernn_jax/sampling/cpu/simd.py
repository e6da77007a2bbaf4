"""Vectors of 16 numbers inside numba functions (§3: the CPU sampler).

Numba vectorises plain loops when it can prove them safe, which it cannot for
block-sparse products. Here two vector types, `f32x16` and `i32x16`, become
ordinary values of nopython code. Their operations are single LLVM instructions
on `<16 x float>`, which LLVM lowers to one AVX-512 register, two of AVX2, or
four of NEON or SSE: nothing assumes a register width.

Arrays enter by `borrow`, which leaves only their addresses: numba counts the
references of an array at every use, with atomic instructions that cost more
than the arithmetic here. Whoever calls compiled code must keep the arrays
alive. `load`, `store` and `item` check no bounds, do not wrap negative indices
and need no alignment.
"""

import operator

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

WIDTH = 16
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32 = ir.FloatType()
F32X16 = ir.VectorType(F32, WIDTH)
I32X16 = ir.VectorType(I32, WIDTH)

ROUNDER = 1.5 * 2.0 ** 23  # adding it leaves the nearest integer in the low bits


class Vector(types.Type):
  """Numba type of 16 elements of 32 bits held in registers."""

  def __init__(self, element):
    super().__init__(name=f'Vector({element}x{WIDTH})')


f32x16 = Vector('f32')
i32x16 = Vector('i32')


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):

  def __init__(self, manager, fe_type):
    super().__init__(
        manager, fe_type, F32X16 if fe_type == f32x16 else I32X16)


class Pointer(types.Type):
  """Numba type of the address of an array's first element."""

  def __init__(self, dtype):
    self.dtype = dtype
    super().__init__(name=f'Pointer({dtype})')


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):

  def __init__(self, manager, fe_type):
    element = manager.lookup(fe_type.dtype).get_data_type()
    super().__init__(manager, fe_type, element.as_pointer())


def _borrowed_type(kind):
  if isinstance(kind, types.Array):
    return Pointer(kind.dtype)
  if isinstance(kind, types.NamedTuple):
    return types.NamedTuple(
        [_borrowed_type(k) for k in kind.types], kind.instance_class)
  return kind


def _borrowed(context, builder, kind, value):
  if isinstance(kind, types.Array):
    return context.make_array(kind)(context, builder, value).data
  if isinstance(kind, types.NamedTuple):
    values = [_borrowed(context, builder, k, builder.extract_value(value, i))
              for i, k in enumerate(kind.types)]
    return context.make_tuple(builder, _borrowed_type(kind), values)
  return value


@intrinsic
def borrow(typingctx, value):  # pylint: disable=unused-argument
  """Contiguous arrays, also in nested named tuples, become `Pointer`s."""
  def codegen(context, builder, signature, args):
    return _borrowed(context, builder, value, args[0])
  return _borrowed_type(value)(value), codegen


@intrinsic
def offset(typingctx, array, index):  # pylint: disable=unused-argument
  """The pointer to `array[index]`."""
  def codegen(context, builder, signature, args):
    return builder.gep(args[0], [args[1]])
  return array(array, types.uintp), codegen


# Helpers that emit LLVM; also used by kernels.


def constant(kind, values):
  """An LLVM vector constant; `values` is one number or one per element."""
  if not isinstance(values, (list, tuple)):
    values = [values] * kind.count
  return ir.Constant(kind, [ir.Constant(kind.element, v) for v in values])


def shuffle(builder, a, b, elements):
  """Select elements by a constant list; elements of `b` follow those of `a`."""
  mask = constant(ir.VectorType(I32, len(elements)), list(elements))
  return builder.shuffle_vector(a, b, mask)


def broadcast(builder, scalar, elements=WIDTH):
  """An LLVM scalar in all elements."""
  kind = ir.VectorType(scalar.type, elements)
  first = builder.insert_element(
      ir.Constant(kind, ir.Undefined), scalar, I32(0))
  return shuffle(builder, first, first, [0] * elements)


def address(builder, array, index, kind):
  """Address of an element of a borrowed array, as a pointer to `kind`."""
  return builder.bitcast(builder.gep(array, [index]), kind.as_pointer())


def load_as(builder, array, index, kind):
  """An unaligned LLVM load of `kind` from an element of a borrowed array."""
  value = builder.load(address(builder, array, index, kind))
  value.align = 1
  return value


def call(builder, name, *args):
  """Call a function declared by name, such as an LLVM intrinsic."""
  kind = ir.FunctionType(args[0].type, [a.type for a in args])
  function = cgutils.get_or_insert_function(builder.module, kind, name)
  return builder.call(function, args)


# Operators and elementwise functions of vectors.


def _define_operator(symbol, emit, kind=f32x16):

  @type_callable(symbol)
  def _type(context):  # pylint: disable=unused-argument,unused-variable
    return lambda a, b: kind if a == b == kind else None

  @lower_builtin(symbol, kind, kind)
  def _lower(context, builder, signature, args):  # pylint: disable=unused-argument,unused-variable
    return emit(builder, *args)


_define_operator(operator.add, lambda b, x, y: b.fadd(x, y))
_define_operator(operator.add, lambda b, x, y: b.add(x, y), i32x16)
_define_operator(operator.sub, lambda b, x, y: b.fsub(x, y))
_define_operator(operator.mul, lambda b, x, y: b.fmul(x, y))
_define_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y))


@intrinsic
def fma(typingctx, a, b, c):  # pylint: disable=unused-argument
  """a * b + c, fused where the machine has the instruction."""
  def codegen(context, builder, signature, args):
    return call(builder, 'llvm.fmuladd.v16f32', *args)
  return f32x16(f32x16, f32x16, f32x16), codegen


@intrinsic
def maximum(typingctx, a, b):  # pylint: disable=unused-argument
  """Elementwise maximum; `b` where `a` is NaN."""
  def codegen(context, builder, signature, args):
    return builder.select(builder.fcmp_ordered('>', *args), *args)
  return f32x16(f32x16, f32x16), codegen


@intrinsic
def minimum(typingctx, a, b):  # pylint: disable=unused-argument
  """Elementwise minimum; `b` where `a` is NaN."""
  def codegen(context, builder, signature, args):
    return builder.select(builder.fcmp_ordered('<', *args), *args)
  return f32x16(f32x16, f32x16), codegen


@intrinsic
def splat(typingctx, scalar):  # pylint: disable=unused-argument
  """A number in all 16 elements, as float32."""
  def codegen(context, builder, signature, args):
    value = context.cast(builder, args[0], signature.args[0], types.float32)
    return broadcast(builder, value)
  return f32x16(scalar), codegen


@intrinsic
def load(typingctx, array, index):  # pylint: disable=unused-argument
  """Sixteen float32 from `array[index]` on."""
  def codegen(context, builder, signature, args):
    return load_as(builder, *args, F32X16)
  return f32x16(array, types.uintp), codegen


@intrinsic
def store(typingctx, array, index, vector):  # pylint: disable=unused-argument
  """Write sixteen float32 to `array[index]` and on."""
  def codegen(context, builder, signature, args):
    builder.store(args[2], address(builder, *args[:2], F32X16)).align = 4
    return context.get_dummy_value()
  return types.void(array, types.uintp, vector), codegen


@intrinsic
def item(typingctx, array, index):  # pylint: disable=unused-argument
  """One element of an array."""
  def codegen(context, builder, signature, args):
    return builder.load(builder.gep(args[0], [args[1]]))
  return array.dtype(array, types.uintp), codegen


@intrinsic
def put(typingctx, array, index, value):  # pylint: disable=unused-argument
  """Store one element, converted to the type of the array."""
  def codegen(context, builder, signature, args):
    value = context.cast(builder, args[2], signature.args[2], array.dtype)
    builder.store(value, builder.gep(args[0], [args[1]]))
    return context.get_dummy_value()
  return types.void(array, types.uintp, value), codegen


@intrinsic
def store_int16(typingctx, array, index, vector):  # pylint: disable=unused-argument
  """Write sixteen numbers rounded to int16; they must be in its range."""
  def codegen(context, builder, signature, args):
    kind = ir.VectorType(I16, WIDTH)
    bits = builder.fadd(args[2], constant(F32X16, ROUNDER))
    bits = builder.trunc(builder.bitcast(bits, I32X16), kind)
    builder.store(bits, address(builder, *args[:2], kind)).align = 2
    return context.get_dummy_value()
  return types.void(array, types.uintp, vector), codegen


@intrinsic
def keep_rolled(typingctx):  # pylint: disable=unused-argument
  """Forbid unrolling of the loop around this.

  Rows are short and of every length: the branch on what an unrolled loop
  leaves over is mispredicted, at the price of ten blocks.
  """
  def codegen(context, builder, signature, args):
    kind = ir.FunctionType(ir.VoidType(), [])
    nothing = builder.asm(kind, '', '', [], side_effect=True)
    nothing.attributes.add('convergent')
    return context.get_dummy_value()
  return types.void(), codegen
