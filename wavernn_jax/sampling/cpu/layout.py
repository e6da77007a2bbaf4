"""A WaveRNN laid out for `loop`: packed matrices as streams of blocks.

The three gate matrices become one stream in the order in which a step uses
them: rows u, r, e of units 0 to 15, then of units 16 to 31, and so on.
"""

import contextlib
import dataclasses
import mmap
import typing

import numpy as np

from wavernn_jax.sampling import blocksparse
from wavernn_jax.sampling.cpu import kernels

WIDTH = 16
LEVELS = 256
_ALIGNMENT, _HUGE_PAGE = 64, 1 << 21  # bytes

# bfloat16 as int16: activations up to 2^14 leave 2^17 for the sum of a row's
# weights. Of 512 inputs or fewer that loses less than bfloat16 itself did; for
# each doubling beyond, activations give one bit to the sum.
_FIXED_ACTIVATION, _FIXED_INPUTS, _INT32 = 1 << 14, 512, 1 << 31


@dataclasses.dataclass(frozen=True)
class Weights:
  """A model as exported. H units, P projection; gates in the order u, r, e.

  Attributes:
    recurrent: three packed [H, H], outputs first, as everywhere here.
    project: packed [P, H/2], coarse and fine (O1, O3).
    project_bias: float32 [2, P].
    logits: packed [256, P], coarse and fine (O2, O4).
    logits_bias: float32 [2, 256].
    input: float32 [K, 3, H], weights of what is heard: the previous coarse and fine
      byte, or past residuals, their sizes, the last sample and the prediction.
    current: float32 [3, H/2], weights of c_t in the fine half.
    reset_bias: None, or float32 [H], added to R_e h.
  """
  recurrent: tuple[blocksparse.PackedMatrix, ...]
  project: tuple[blocksparse.PackedMatrix, ...]
  project_bias: np.ndarray
  logits: tuple[blocksparse.PackedMatrix, ...]
  logits_bias: np.ndarray
  input: np.ndarray
  current: np.ndarray
  reset_bias: np.ndarray | None = None


class Head(typing.NamedTuple):
  """One output layer: logits = B relu(A h + a) + b."""
  project: typing.Any
  project_bias: np.ndarray
  logits: typing.Any
  logits_bias: np.ndarray
  limit: float  # greatest int16 that cannot overflow the sums of `logits`


class Network(typing.NamedTuple):
  """Everything constant that the compiled sampler reads."""
  recurrent: typing.Any
  coarse: Head
  fine: Head
  coarse_inputs: np.ndarray  # float32 [H/32, 3, rows, 16]: of `_input_table`
  fine_inputs: np.ndarray
  limit: float  # greatest int16 for a state of 1
  reset_bias: typing.Any  # None, or float32 [H]


def residuals(network) -> int:
  """R: past residuals that a step hears; 0 where it hears bytes."""
  return (network.coarse_inputs.shape[2] - 4) // 2  # rows of `_input_table`


def aligned(shape, dtype):
  """Zeros that start at a cache line."""
  count = int(np.prod(shape))
  size = count * np.dtype(dtype).itemsize
  memory = np.zeros(size + _ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % _ALIGNMENT
  return memory[start:start + size].view(dtype).reshape(shape)


def aligned_copy(array, dtype=None):
  """A copy that starts at a cache line."""
  array = np.asarray(array, dtype)
  copy = aligned(array.shape, array.dtype)
  copy[...] = array
  return copy


def together(tree):
  """A copy of nested named tuples, or of an array, in one piece of memory.

  In pages of 4 KiB scattered over physical memory, a megabyte of weights that
  would fit the second-level cache keeps displacing itself from it.
  """
  size = sum(-(-a.nbytes // _ALIGNMENT) * _ALIGNMENT for a in _arrays(tree))
  memory, used = _huge_pages(size), 0

  def place(node):
    nonlocal used
    if isinstance(node, tuple):
      return type(node)(*map(place, node))
    if not isinstance(node, np.ndarray):
      return node
    copy = memory[used:used + node.nbytes].view(node.dtype).reshape(node.shape)
    copy[...] = node
    used += -(-node.nbytes // _ALIGNMENT) * _ALIGNMENT
    return copy
  return place(tree)


def _arrays(tree):
  if isinstance(tree, tuple):
    return [array for node in tree for array in _arrays(node)]
  return [tree] if isinstance(tree, np.ndarray) else []


def _huge_pages(size):
  """Zeroed bytes, in huge pages where the system has them."""
  memory = mmap.mmap(-1, size + _HUGE_PAGE)
  if hasattr(mmap, 'MADV_HUGEPAGE'):
    with contextlib.suppress(OSError):  # a kernel without them
      memory.madvise(mmap.MADV_HUGEPAGE)
  memory = np.frombuffer(memory, np.uint8)
  start = -memory.ctypes.data % _HUGE_PAGE
  return memory[start:start + size]


def stream(*matrices):
  """Matrices of one shape, interleaved by rows of 16 outputs.

  Args:
    matrices: packed, of one kind.

  Returns:
    Columns, Squares or Dense; with M matrices, row M * i + m of it is row i of
    matrix m.

  Raises:
    ValueError: matrices of different kinds, or of outputs not in sixteens.
  """
  kinds = {(m.shape, m.block, m.dtype) for m in matrices}
  if len(kinds) > 1:
    raise ValueError(f'matrices read together must be of one kind, not {kinds}')
  (outputs, inputs), block, dtype = kinds.pop()
  if outputs % WIDTH or inputs > 1 << 16:
    raise ValueError(
        f'a matrix of {outputs} outputs and {inputs} inputs; the sampler needs '
        f'a multiple of {WIDTH} outputs and at most {1 << 16} inputs')
  values, indices, counts, scales = _interleave(matrices)
  if block == (16, 1) and (counts == inputs).all() and inputs % 2 == 0:
    return kernels.Dense(_interleave_pairs(values, dtype), inputs // 2, scales)
  if _as_integers(dtype, counts * block[1]):
    values, scales = _fixed_point(values, counts, block)
    dtype = 'int16'
  group = 4 if block == (16, 1) else 2
  values, indices, starts = _pad_rows(values, indices, counts, group)
  words = indices[0::2] | indices[1::2] << 16
  kind = kernels.Columns if block == (16, 1) else kernels.Squares
  return kind(_interleave_pairs(values, dtype), aligned_copy(words),
              aligned_copy(starts), scales)


def _interleave(matrices):
  """Blocks, inputs, blocks a row and scales, in the order of the stream."""
  block = matrices[0].block
  outputs, rows = matrices[0].shape[0], matrices[0].shape[0] // block[0]
  order = np.arange(len(matrices) * rows).reshape(
      len(matrices), outputs // WIDTH, WIDTH // block[0])
  order = order.transpose(1, 0, 2).ravel()
  counts = np.concatenate([np.diff(m.offsets.astype(np.int64)) for m in matrices])
  starts = np.cumsum(counts) - counts
  counts, starts = counts[order], starts[order]
  where = np.repeat(starts - (np.cumsum(counts) - counts), counts)
  where = where + np.arange(counts.sum())
  values = np.concatenate([m.values for m in matrices])[where]
  indices = np.concatenate([m.indices for m in matrices])[where]
  scales = [np.ones(outputs) if m.scales is None else m.scales for m in matrices]
  scales = np.concatenate(scales).reshape(-1, block[0])[order]
  scales = aligned_copy(scales.ravel(), np.float32)
  return values, indices.astype(np.uint32) * block[1], counts, scales


def _as_integers(dtype, inputs_R):
  """Whether bfloat16 becomes int16, of which an instruction multiplies twice as many."""
  return dtype == 'bfloat16' and inputs_R.max(initial=0) <= _FIXED_INPUTS


def _fixed_point(values_KxB, counts, block):
  """bfloat16 blocks as int16 and a scale for each output.

  The scale is a power of two, so that all but the smallest weights of an output
  (below about a hundredth of the greatest) are kept exactly, and such that no
  int32 sum with activations up to `_FIXED_ACTIVATION` overflows.
  """
  values_KxB = (values_KxB.astype(np.uint32) << 16).view(np.float32)
  row_K = np.repeat(np.arange(len(counts)), counts)
  magnitudes = np.abs(values_KxB.astype(np.float64)).reshape(-1, *block)
  sums, greatest = np.zeros((2, len(counts), block[0]))
  np.add.at(sums, row_K, magnitudes.sum(axis=2))
  np.maximum.at(greatest, row_K, magnitudes.max(axis=2, initial=0))
  room = _INT32 // _FIXED_ACTIVATION - 1 - counts * block[1]  # rounding may add 1/2 a weight
  least = np.maximum(greatest / np.iinfo(np.int16).max, sums / room[:, None])
  scales = np.exp2(np.ceil(np.log2(np.maximum(least, 2.0 ** -100))))
  fixed = values_KxB.reshape(-1, *block) / scales[row_K, :, None]
  return (np.rint(fixed).astype(np.int16).reshape(values_KxB.shape),
          aligned_copy(scales.ravel(), np.float32))


def _pad_rows(values, indices, counts, group):
  """Rows padded with zeros to whole groups of blocks, and where they start, in groups."""
  groups = -(-counts // group)
  starts = np.concatenate([[0], np.cumsum(groups)])
  shift = group * starts[:-1] - (np.cumsum(counts) - counts)
  where = np.arange(len(values)) + np.repeat(shift, counts)
  padded = np.zeros((group * starts[-1], WIDTH), values.dtype)
  inputs = np.zeros(group * starts[-1], np.uint32)
  padded[where], inputs[where] = values, indices
  return padded, inputs, starts.astype(np.uint32)


def _interleave_pairs(values, dtype):
  """Blocks two by two, as kernels.py reads them, as one flat array."""
  if dtype == 'float32':
    return aligned_copy(values.ravel())
  pairs = np.stack([values[0::2], values[1::2]], axis=2)
  if dtype == 'bfloat16':
    return aligned_copy(pairs).view(np.uint32).ravel()
  return aligned_copy(pairs).ravel()


def limit(*matrices):
  """The greatest activation with which sums of integer products cannot exceed int32."""
  if matrices[0].dtype == 'bfloat16':
    return np.float32(_FIXED_ACTIVATION)
  # In blocks, not inputs: a block of four inputs adds to four sums.
  longest = max(int(np.diff(m.offsets.astype(np.int64)).max()) for m in matrices)
  greatest = np.iinfo(np.int32).max // (kernels.INT8_MAX * max(longest, 1))
  return np.float32(min(greatest, np.iinfo(np.int16).max))


def head(weights, side):
  """The output layer of the coarse (0) or of the fine (1) byte."""
  return Head(
      stream(weights.project[side]),
      aligned_copy(weights.project_bias[side], np.float32),
      stream(weights.logits[side]),
      aligned_copy(weights.logits_bias[side], np.float32),
      limit(weights.logits[side]))


def _input_table(weights, units, current):
  """Static terms of the gate inputs of one half, [units / 16, 3, rows, 16].

  Rows of a gate: two frames, filled in later; two inputs; c_t in the fine half. Each past
  residual z has two rows: what multiplies |z| where z >= 0, and where z < 0. One of
  them is read, so that its weight and that of its size cost as much as one.
  """
  rows, residuals = list(weights.input[-2:]), (len(weights.input) - 2) // 2
  rows += [] if current is None else [current]
  for of_value, of_size in zip(weights.input[:residuals], weights.input[residuals:], strict=False):
    rows += [of_size + of_value, of_size - of_value]
  rows = [row if row is current else row[:, units] for row in rows]
  table = aligned((rows[0].shape[1] // WIDTH, 3, 2 + len(rows), WIDTH), np.float32)
  for term, row_3xU in enumerate(rows, start=2):
    table[:, :, term] = np.reshape(row_3xU, (3, -1, WIDTH)).swapaxes(0, 1)
  return table


def build(weights):
  """Lay out `Weights` for the sampler.

  Raises:
    ValueError: units not a multiple of 32, or matrices that do not fit.
  """
  _check_sizes(weights)
  half = weights.recurrent[0].shape[0] // 2
  return together(Network(
      stream(*weights.recurrent), head(weights, 0), head(weights, 1),
      _input_table(weights, slice(None, half), None),
      _input_table(weights, slice(half, None), weights.current),
      limit(*weights.recurrent, *weights.project),
      None if weights.reset_bias is None else np.float32(weights.reset_bias)))


def _check_sizes(weights):
  """Raises ValueError: units not a multiple of 32, or matrices that do not fit."""
  units = weights.recurrent[0].shape[0]
  if units % (2 * WIDTH):
    raise ValueError(f'{units} units; the CPU sampler needs a multiple of 32')
  half, projection = units // 2, weights.project[0].shape[0]
  expected = ([(units, units)] * 3 + [(projection, half)] * 2 + [(LEVELS, projection)] * 2)
  found = [m.shape for m in (*weights.recurrent, *weights.project, *weights.logits)]
  if found != expected:
    raise ValueError(f'matrices of shapes {found}, expected {expected}')
