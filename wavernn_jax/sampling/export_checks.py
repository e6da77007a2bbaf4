"""Checks of an export's header and tensors; the format stands in export.py.

All functions raise ValueError (InputError is one) that says what is wrong.
"""

import hashlib
import json

import numpy as np

from wavernn_jax import config as config_lib, rules
from wavernn_jax.sampling import blocksparse

FORMAT, VERSION = 'wavernn-jax', 2
_TYPES = {'F32': np.float32, 'BF16': np.uint16, 'I8': np.int8, 'U16': np.uint16,
          'U32': np.uint32}
_STORED = {'float32': 'F32', 'bfloat16': 'BF16', 'int8': 'I8'}
_FIELDS = {'format': str, 'version': int, 'weights': str, 'block': list, 'parameters': int,
           'sample_rate': int, 'mel': dict, 'config': dict}


def checksum(header_text: str, data: dict) -> str:
  """`sha256` of a file, from its header and the bytes of its tensors by name."""
  digest = hashlib.sha256(header_text.encode())
  for name in sorted(data):
    digest.update(data[name])
  return digest.hexdigest()


def header(metadata: dict, tensors: dict) -> dict:
  """The header of a file, of known version and with the right checksum.

  Args:
    metadata: of the safetensors file.
    tensors: by name, dicts with `data`.
  """
  if 'header' not in metadata:
    raise ValueError('has no entry `header` in its metadata')
  found = json.loads(metadata['header'])
  if not isinstance(found, dict) or found.get('format') != FORMAT:
    raise ValueError(f'its header does not say that its format is {FORMAT!r}')
  version = found.get('version')
  if isinstance(version, int) and version > VERSION:
    raise ValueError(f'is of format version {version}, newer than {VERSION}, the last that '
                     'this program knows: update the program')
  data = {name: tensor['data'] for name, tensor in tensors.items()}
  if metadata.get('sha256') != checksum(metadata['header'], data):
    raise ValueError('its checksum is of other contents: it is damaged or was changed')
  wrong = [name for name, kind in _FIELDS.items() if type(found.get(name)) is not kind]
  if wrong or not 1 <= version <= VERSION:
    raise ValueError(f'fields of its header are missing or wrong: {wrong or ["version"]}')
  _check_packing(found)
  return found | {'block': blocksparse.SHAPES[blocksparse.SHAPES.index(tuple(found['block']))]}


def _check_packing(found: dict) -> None:
  if found['weights'] not in blocksparse.DTYPES:
    raise ValueError(f'has weights of type {found["weights"]!r}, expected one of '
                     f'{list(blocksparse.DTYPES)}')
  if tuple(found['block']) not in blocksparse.SHAPES:
    raise ValueError(f'has blocks {found["block"]}, expected one of {blocksparse.SHAPES}')
  if found['parameters'] < 0:
    raise ValueError(f'says that it has {found["parameters"]} parameters')


def config(found: dict, tensors: int) -> config_lib.Config:
  """The configuration in a header, of sizes that a file of so many tensors may have."""
  values = config_lib.from_dict(found['config'])
  rules.check(values)
  mel = config_lib.from_dict(found['mel'], config_lib.MelConfig, 'mel')
  differing = config_lib.differences(
      config_lib.to_dict(mel), config_lib.to_dict(values.mel), 'mel')
  if differing or found['sample_rate'] != mel.sample_rate:
    raise ValueError('its mel convention, sample rate and config disagree: '
                     f'{sorted(differing) or "sample_rate"}')
  if values.model.layers > tensors:
    raise ValueError(f'its config has layers {values.model.layers}, expected at most {tensors}')
  return values


class Arrays:
  """The tensors of a file, taken out one by one."""

  def __init__(self, tensors: dict):
    """`tensors`: by name, dicts of dtype (as in safetensors), shape and data."""
    self._tensors = dict(tensors)

  def take(self, name: str, dtype: str, shape) -> np.ndarray:
    """One tensor of a known type and shape, finite; BF16 as uint16 bits."""
    if name not in self._tensors:
      raise ValueError(f'tensor {name} is missing')
    tensor = self._tensors.pop(name)
    if tensor['dtype'] != dtype or tuple(tensor['shape']) != tuple(shape):
      raise ValueError(f'tensor {name} is {tensor["dtype"]} {list(tensor["shape"])}, expected '
                       f'{dtype} {list(shape)}')
    array = np.frombuffer(tensor['data'], _TYPES[dtype]).reshape(shape)
    finite = array & 0x7f80 != 0x7f80 if dtype == 'BF16' else np.isfinite(array)
    if not finite.all():
      raise ValueError(f'tensor {name} has NaN or infinite values')
    return array

  def packed(self, name: str, shape_NxO, dtype: str, block) -> blocksparse.PackedMatrix:
    """A packed matrix whose parameter has N inputs and O outputs."""
    shape = shape_NxO[::-1]
    if any(n % b for n, b in zip(shape, block, strict=True)):
      raise ValueError(f'blocks of {block} do not divide {name} of {shape}')
    rows, columns = (n // b for n, b in zip(shape, block, strict=True))
    offsets = self.take(f'{name}.offsets', 'U32', (rows + 1,))
    counts = np.diff(offsets.astype(np.int64))
    if offsets[0] or (counts < 0).any():
      raise ValueError(f'{name}.offsets must grow from 0')
    total = int(offsets[-1])
    width = 'U16' if columns <= 1 << 16 else 'U32'
    indices = self.take(f'{name}.indices', width, (total,))
    _check_indices(name, indices, offsets, columns)
    values = self.take(f'{name}.values', _STORED[dtype], (total, blocksparse.BLOCK_SIZE))
    scales = self.take(f'{name}.scales', 'F32', (rows,)) if dtype == 'int8' else None
    if dtype == 'int8' and ((values == -128).any() or (scales < 0).any()):
      raise ValueError(f'{name}: values must be -127..127, scales not negative')
    return blocksparse.PackedMatrix(shape, block, dtype, offsets, indices, values, scales)

  def check_empty(self) -> None:
    """Raises ValueError if tensors are left."""
    if self._tensors:
      raise ValueError(f'has the unknown tensors {sorted(self._tensors)[:5]}')


def _check_indices(name, indices_K, offsets, columns) -> None:
  """Block columns within the matrix, and growing in each block row."""
  if (indices_K >= columns).any():
    raise ValueError(f'{name}.indices: found {indices_K.max()}, expected less than {columns}')
  first = np.zeros(len(indices_K) + 1, bool)
  first[offsets] = True
  grows = np.diff(indices_K.astype(np.int64)) > 0
  if not (grows | first[1:-1]).all():
    raise ValueError(f'{name}.indices must grow within a block row')
