"""Checks of an export's header and tensors; export_format.py describes the format.

All functions raise ValueError (InputError is one) that says what is wrong.
"""

import dataclasses
import math

import numpy as np

from wavernn_jax import config as config_lib, rules
from wavernn_jax.sampling import blocksparse

_TYPES = {'F32': np.float32, 'BF16': np.uint16, 'I8': np.int8, 'U16': np.uint16,
          'U32': np.uint32}
_STORED = {'float32': 'F32', 'bfloat16': 'BF16', 'int8': 'I8'}
_FIELDS = {'weights': str, 'block': list, 'parameters': int, 'sample_rate': int, 'mel': dict}
_NEEDED = {  # of the fields with a default: what no file may leave out
    'model': ('kind', 'units', 'projection', 'channels', 'layers', 'kernel'),
    'mel': tuple(f.name for f in dataclasses.fields(config_lib.MelConfig) if f.name != 'name')}
_KINDS = 'wavernn', 'subscale', 'fused'
_MAX_FRAMES = 1 << 12  # of a block that a sampler makes at a time
_MAX_PRIOR = 20.0  # of its logarithm


def header(found: dict) -> dict:
  """A header with the fields of the last version, each of its type."""
  sections = found.get('config') if found['version'] < 3 else found
  found = found | {'model': sections.get('model') if isinstance(sections, dict) else None}
  wrong = [name for name, kind in (_FIELDS | {'model': dict}).items()
           if type(found.get(name)) is not kind]
  if wrong:
    raise ValueError(f'fields of its header are missing or wrong: {wrong}')
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
  """The configuration of a header; its sizes must suit the number of tensors in the file.

  What it does not say, as of training, has its default, or what goes with the model.
  """
  model = _section(found, 'model', config_lib.ModelConfig)
  mel = _section(found, 'mel', config_lib.MelConfig)
  if found['sample_rate'] != mel.sample_rate:
    raise ValueError(f'its sample_rate {found["sample_rate"]} and its mel convention disagree')
  if model.layers > tensors:
    raise ValueError(f'its model has {model.layers} layers, expected at most {tensors}')
  if model.kind not in _KINDS:
    raise ValueError(f'is of a model of kind {model.kind!r}, expected one of {_KINDS}')
  if model.output != 'dual_softmax':
    raise ValueError(f"has the output {model.output!r}, expected 'dual_softmax'")
  if found['version'] == 1 and model.kind != 'wavernn':
    raise ValueError('is a subscale model in format version 1, which is not read any more')
  if found['version'] < 4 and model.prediction == 'spectral':
    raise ValueError('codes residuals of the prediction of format versions before 4, which is '
                     'not computed any more: train on with --config.init_from=RUN, its run')
  values = config_lib.Config(model=model, mel=mel)
  if model.lanes > 1:
    _fit_lanes(values)
  rules.check(values)
  return values


def _section(found: dict, name: str, kind):
  """A section of the configuration; fields that are not known here are left out."""
  missing = [field for field in _NEEDED[name] if field not in found[name]]
  if missing:
    raise ValueError(f'its {name} lacks the fields {missing}')
  known = {f.name for f in dataclasses.fields(kind)}
  return config_lib.from_dict(
      {field: v for field, v in found[name].items() if field in known}, kind, name)


def _fit_lanes(values: config_lib.Config) -> None:
  """Sets what a configuration has beside the model so that its lanes go into it."""
  model, evaluation = values.model, values.evaluation
  step = model.lanes * (max(1, model.context_block) if model.kind == 'subscale' else 1)
  frames = step // math.gcd(step, values.mel.hop)
  evaluation.block_frames = frames * -(-evaluation.block_frames // frames)
  if evaluation.block_frames > _MAX_FRAMES:
    raise ValueError(f'its model draws {model.lanes} lanes of {model.context_block} positions, '
                     'which no block of frames holds')
  values.train.crop = model.lanes * max(
      -(-values.train.crop // model.lanes), model.horizon + 1)


def prior(found: np.ndarray) -> None:
  """A prior whose scale is a number."""
  if abs(found[0]) > _MAX_PRIOR:
    raise ValueError(f'prior: found {found[0]}, expected -{_MAX_PRIOR} to {_MAX_PRIOR}')


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

  def packed(self, name: str, shape_NxO, dtype: str, block,
             row_scales: bool = False) -> blocksparse.PackedMatrix:
    """A packed matrix whose parameter has N inputs and O outputs.

    row_scales: it is of a version that has an int8 scale for each block row.
    """
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
    scales = None
    if dtype == 'int8':
      scales = self.take(f'{name}.scales', 'F32', (rows if row_scales else shape[0],))
      if (values == -128).any() or (scales < 0).any():
        raise ValueError(f'{name}: values must be -127..127, scales not negative')
      scales = np.repeat(scales, shape[0] // len(scales))
    return blocksparse.PackedMatrix(shape, block, dtype, offsets, indices, values, scales)


def _check_indices(name, indices_K, offsets, columns) -> None:
  """Block columns within the matrix, and growing in each block row."""
  if (indices_K >= columns).any():
    raise ValueError(f'{name}.indices: found {indices_K.max()}, expected less than {columns}')
  first = np.zeros(len(indices_K) + 1, bool)
  first[offsets] = True
  grows = np.diff(indices_K.astype(np.int64)) > 0
  if not (grows | first[1:-1]).all():
    raise ValueError(f'{name}.indices must grow within a block row')
