"""Packing of block-sparse matrices (§3): only the kept blocks.

A packed matrix of O outputs and N inputs in blocks of b_o x b_n (16x1 or 4x4)
has O/b_o block rows. Its arrays, as in an exported file:

  offsets  uint32 [O/b_o + 1]      row r owns blocks offsets[r]:offsets[r + 1]
  indices  uint16|uint32 [K]       block column of each block, growing in a row
  values   float32|uint16|int8 [K, 16]   a block's weights, outputs outermost
  scales   float32 [O]             int8 only: weight = value * scale of its output

uint16 values are bfloat16 bits. A dense matrix is one with all blocks.
"""

import dataclasses

import ml_dtypes
import numpy as np

BLOCK_SIZE = 16
SHAPES = ((16, 1), (4, 4))
DTYPES = {'float32': np.float32, 'bfloat16': np.uint16, 'int8': np.int8}


@dataclasses.dataclass(frozen=True)
class PackedMatrix:
  """Kept blocks of an [O, N] matrix; fields as in the file's docstring."""
  shape: tuple[int, int]
  block: tuple[int, int]
  dtype: str
  offsets: np.ndarray
  indices: np.ndarray
  values: np.ndarray
  scales: np.ndarray | None = None

  @property
  def blocks(self):
    """Number of kept blocks."""
    return len(self.indices)

  @property
  def density(self):
    """Kept blocks over all blocks."""
    return self.blocks * BLOCK_SIZE / (self.shape[0] * self.shape[1])


def pack(dense_OxN, block=(16, 1), dtype='float32', mask=None):
  """Pack a matrix.

  Args:
    dense_OxN: float array, outputs first.
    block: outputs and inputs of a block, one of `SHAPES`.
    dtype: one of `DTYPES`.
    mask: bool [O / b_o, N / b_n], which blocks to keep; None keeps all.

  Returns:
    A PackedMatrix.

  Raises:
    ValueError: unknown type, a shape the blocks do not divide, or a mask of
      another shape.
  """
  dense_OxN = np.asarray(dense_OxN, np.float32)
  block = tuple(block)
  _check(dense_OxN.shape, block, dtype)
  rows, columns = (n // b for n, b in zip(dense_OxN.shape, block, strict=False))
  mask = np.ones((rows, columns), bool) if mask is None else np.asarray(mask)
  if mask.shape != (rows, columns):
    raise ValueError(
        f'mask of shape {mask.shape} for a matrix of {rows} by {columns} '
        f'blocks; masks are at block resolution')
  blocks = dense_OxN.reshape(rows, block[0], columns, block[1])
  blocks = blocks.transpose(0, 2, 1, 3).reshape(rows, columns, BLOCK_SIZE)
  row, column = np.nonzero(mask)
  offsets = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.uint32)
  narrow = columns <= np.iinfo(np.uint16).max + 1
  values, scales = _quantise(blocks[row, column], row, (rows, block[0]), dtype)
  return PackedMatrix(
      dense_OxN.shape, block, dtype, offsets,
      column.astype(np.uint16 if narrow else np.uint32), values, scales)


def unpack(packed):
  """The dense float32 [O, N] matrix that a PackedMatrix stands for."""
  rows, columns = (n // b for n, b in zip(packed.shape, packed.block, strict=False))
  blocks = np.zeros((rows, columns, BLOCK_SIZE), np.float32)
  row = np.repeat(np.arange(rows), np.diff(packed.offsets.astype(np.int64)))
  values = packed.values
  if packed.dtype == 'bfloat16':
    values = (values.astype(np.uint32) << 16).view(np.float32)
  elif packed.dtype == 'int8':
    values = values * _of_values(packed.scales.reshape(rows, -1)[row])
  blocks[row, packed.indices] = values
  blocks = blocks.reshape(rows, columns, *packed.block)
  return blocks.transpose(0, 2, 1, 3).reshape(packed.shape)


def _check(shape, block, dtype):
  if dtype not in DTYPES:
    raise ValueError(f'weights of type {dtype!r}; known are {list(DTYPES)}')
  if block not in SHAPES:
    raise ValueError(f'block {block}; known are {SHAPES}')
  if any(n % b for n, b in zip(shape, block, strict=False)):
    raise ValueError(
        f'blocks of {block[0]}x{block[1]} do not divide a matrix of '
        f'{shape[0]}x{shape[1]} (outputs x inputs)')


def _of_values(scales_KxO):
  """The scale of each value of blocks, from those of their outputs."""
  return np.repeat(scales_KxO, BLOCK_SIZE // scales_KxO.shape[1], axis=1)


def _quantise(values_KxB, row_K, outputs, dtype):
  """Values in their stored type, and the int8 scale of each output.

  outputs: (block rows, outputs of a block).
  """
  if dtype == 'float32':
    return values_KxB, None
  if dtype == 'bfloat16':
    return values_KxB.astype(ml_dtypes.bfloat16).view(np.uint16), None
  greatest = np.zeros(outputs, np.float32)
  magnitudes = np.abs(values_KxB).reshape(len(row_K), outputs[1], -1)
  np.maximum.at(greatest, row_K, magnitudes.max(axis=2, initial=0))
  scales = np.where(greatest > 0, greatest / 127, 1).astype(np.float32)
  steps = np.rint(values_KxB / _of_values(scales[row_K]))
  return np.clip(steps, -127, 127).astype(np.int8), scales.ravel()
