"""The matrix products of a sample alone, and a loop that only reads their weights."""

import numba
from numba import types
from numba.extending import intrinsic, register_jitable
import numpy as np

from wavernn_jax.sampling.cpu import kernels, layout, loop, simd, step
from wavernn_jax.sampling.cpu.simd import WIDTH

_OPTIONS = {'nogil': True, 'error_model': 'numpy'}
_READ = 256  # bytes a turn of the reading loop


@intrinsic
def _load_words(typingctx, words, index):  # pylint: disable=unused-argument
  """Sixteen int32 of a borrowed array."""
  def codegen(context, builder, signature, args):
    return simd.load_as(builder, *args, simd.I32X16)
  return simd.i32x16(words, types.uintp), codegen


@intrinsic
def _store_words(typingctx, words, vector):  # pylint: disable=unused-argument
  """Write sixteen int32 to the start of a borrowed array."""
  def codegen(context, builder, signature, args):
    place = simd.address(builder, args[0], simd.I64(0), simd.I32X16)
    builder.store(args[1], place).align = 4
    return context.get_dummy_value()
  return types.void(words, vector), codegen


@numba.njit(**_OPTIONS)
def _read(words, seen, repeats):
  """Load and add up all words, 256 bytes at a time."""
  source, target = simd.borrow(words), simd.borrow(seen)
  for _ in range(repeats):
    a = b = c = d = _load_words(target, 0)
    for start in range(0, len(words), 64):
      a = a + _load_words(source, start)
      b = b + _load_words(source, start + 16)
      c = c + _load_words(source, start + 32)
      d = d + _load_words(source, start + 48)
    _store_words(target, (a + b) + (c + d))


def words(network) -> np.ndarray:
  """All packed values and indices of a network, as int32 in one piece of memory."""
  matrices = (network.recurrent, network.coarse.project, network.coarse.logits,
              network.fine.project, network.fine.logits)
  arrays = [a for m in matrices for a in (m.values, getattr(m, 'indices', None)) if a is not None]
  joined = np.concatenate([a.view(np.uint8) for a in arrays])
  return layout.together(joined[:len(joined) // _READ * _READ].view(np.int32))


def read_words(words_N, repeats: int) -> None:
  """Reads all words `repeats` times."""
  _read(words_N, np.zeros(WIDTH, np.int32), repeats)


@register_jitable
def _multiply(matrix, activations, y, rows):
  x = step.operand(matrix, activations, 0)
  for row in range(rows):
    simd.store(y, WIDTH * row, kernels.row_dot(matrix, x, row, np.float32(1)))


@numba.njit(**_OPTIONS)
def _products(network, memory, y, repeats):
  """All five matrices of a sample, with nothing in between."""
  net, s, target = simd.borrow(network), simd.borrow(memory), simd.borrow(y)
  for _ in range(repeats):
    _multiply(net.recurrent, s.h, target, 3 * s.units // WIDTH)
    _multiply(net.coarse.project, s.h, target, s.projection // WIDTH)
    _multiply(net.coarse.logits, s.h, target, step.LEVELS // WIDTH)
    _multiply(net.fine.project, s.h, target, s.projection // WIDTH)
    _multiply(net.fine.logits, s.h, target, step.LEVELS // WIDTH)


class Products:
  """The five products of one thread, each on a state of its own."""

  def __init__(self, network):
    self._network, self._memory = network, loop.scratch(network)
    units = self._memory.units
    loop.load_state(network, self._memory, np.linspace(-0.5, 0.5, units))
    self._y = layout.aligned(3 * units, np.float32)

  def run(self, repeats: int) -> None:
    """Computes all products `repeats` times."""
    _products(self._network, self._memory, self._y, repeats)
