"""Packed models, and their files: one safetensors file from which a WaveRNN is sampled (§3, §4).

export_format.py describes the file. In memory, tensors bear the names of the parameters
that they are of, such as "outputs.fine.hidden.kernel".
"""

import copy
import dataclasses
import functools
import hashlib
import pathlib

import jax
import ml_dtypes
import numpy as np
import safetensors

from wavernn_jax import files, models, pruning, rules
from wavernn_jax.config import Config, PruningConfig, to_dict
from wavernn_jax.errors import InputError
from wavernn_jax.models import hearing
from wavernn_jax.sampling import blocksparse, export_checks, export_format
from wavernn_jax.voice import Voice

_GATES = 'conditioning.gates.kernel'
_IN_FILES = {'reset_bias': 'recurrent.e.bias'}  # parameters of other names there
# Fields of config.ModelConfig that only models of these kinds have.
_OWN_FIELDS = {
    'wavenet': ('blocks', 'cycles', 'residual', 'skip', 'mixtures'),
    'subscale': ('context_layers', 'context_channels', 'context_kernel', 'context_block')}


@dataclasses.dataclass(frozen=True)
class Export:
  """A packed model.

  Attributes:
    config: of the run without its local paths, or what a file says of it.
    weights: type of the packed matrices, one of `blocksparse.DTYPES`.
    block: (outputs, inputs) of a block.
    parameters: parameters that are not pruned.
    tensors: by name: a PackedMatrix, or float32 with the gains multiplied in.
  """

  config: Config
  weights: str
  block: tuple[int, int]
  parameters: int
  tensors: dict[str, blocksparse.PackedMatrix | np.ndarray]

  def params(self, part: str = ''):
    """Parameters of the model, or of one part of it ('conditioning'), unpacked."""
    tree = nest({
        name: blocksparse.unpack(tensor).T if is_packed(tensor)
        else tensor / _gain(name, self.config)
        for name, tensor in self.tensors.items() if name.startswith(part)})
    return tree[part] if part else tree

  def masks(self):
    """The blocks that matrices keep, as pruning.py has them; None where they keep all."""
    return nest({name: _kept(tensor) if is_packed(tensor) else None
                  for name, tensor in self.tensors.items()})


class _Exported(Voice):
  """The voice of a file. The CPU engine reads it packed: it is unpacked for others only."""

  def __init__(self, packed: Export, identity: str):
    self.config, self.packed, self.identity = packed.config, packed, identity

  @functools.cached_property
  def params(self):
    return self.packed.params()

  @functools.cached_property
  def masks(self):
    return self.packed.masks()


def is_packed(tensor) -> bool:
  return isinstance(tensor, blocksparse.PackedMatrix)


def pack(params, masks, config: Config, weights: str = 'bfloat16',
         sparse_only: bool = False) -> Export:
  """Packs the weights of a run.

  Args:
    params: of the model, kernels inputs x outputs.
    masks: of pruning.py; None where a leaf is not pruned.
    config: of the run.
    weights: type of the packed matrices.
    sparse_only: refuse a model without a single pruned block.

  Raises:
    InputError: unknown type, sizes that blocks do not divide, an unpruned model with
      `sparse_only`, or a kind of model that exports do not hold.
  """
  rules.check_suits(config, 'export')
  if weights not in blocksparse.DTYPES:
    raise InputError(f'--weights={weights}: expected one of {list(blocksparse.DTYPES)}.')
  if sparse_only and all(np.all(mask) for mask in jax.tree.leaves(masks)):
    raise InputError('--sparse_only: no matrix of this run is pruned; set '
                     '--config.pruning.… in training, or export without the flag.')
  block, leaves, flat_masks = packing_block(masks, config), flatten(params), flatten(masks)
  types, tensors = packed_types(leaves, weights), {}
  for name, leaf in leaves.items():
    leaf = np.asarray(leaf, np.float32)
    tensors[name] = (_pack(leaf, flat_masks[name], block, types[name]) if name in types
                     else leaf * _gain(name, config))
  shipped = copy.deepcopy(config)
  shipped.data.dir = shipped.init_from = ''
  count = pruning.count_parameters(params, masks)
  return Export(shipped, weights, block, int(count), tensors)


def packed(voice: Voice, weights: str) -> Export:
  """The matrices of a voice as its file has them, or those of a run packed to a type."""
  return voice.packed or pack(voice.params, voice.masks, voice.config, weights)


def packing_block(masks, config: Config) -> tuple[int, int]:
  """(outputs, inputs) of the blocks of an export: those of pruning where known.

  Unpruned models and other blocks are packed as 16x1, keeping each block that
  has any weight left.
  """
  block = config.pruning.block_outputs, config.pruning.block_inputs
  known = block in blocksparse.SHAPES and jax.tree.leaves(masks)
  return block if known else blocksparse.SHAPES[0]


def packed_types(names, weights: str) -> dict[str, str]:
  """The type of each parameter that is packed: all that can be pruned."""
  everything = PruningConfig(recurrent=1, hidden=1, output=1, conditioning=1)
  targets = flatten(pruning.targets(nest(dict.fromkeys(names, 0)), everything))
  gates = 'bfloat16' if weights == 'int8' else weights
  return {name: gates if name == _GATES else weights
          for name, sparsity in targets.items() if sparsity}


def flatten(tree) -> dict:
  """Leaves by their path, joined with dots; None is a leaf."""
  leaves, _ = jax.tree.flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)
  return {'.'.join(key.key for key in path): leaf for path, leaf in leaves}


def write(path, export: Export) -> None:
  """Writes an export as a file that appears complete or not at all.

  Raises:
    InputError: if the file cannot be written.
  """
  data = to_bytes(export)
  with files.replacing(path) as file:
    file.write(data)


def to_bytes(export: Export) -> bytes:
  """The file of an export."""
  tensors = {}
  for name, tensor in export.tensors.items():
    name = _IN_FILES.get(name, name)
    if is_packed(tensor):
      tensors |= {f'{name}.{field}': array for field, array in _fields(tensor).items()}
    else:
      tensors[name] = np.float32(tensor)
  return export_format.to_bytes({
      'weights': export.weights, 'block': export.block, 'parameters': export.parameters,
      'sample_rate': export.config.mel.sample_rate, 'model': _model_fields(export.config),
      'mel': to_dict(export.config.mel)}, tensors)


def _model_fields(config: Config) -> dict:
  """What a reader needs to know of a model."""
  fields, kind = to_dict(config.model), config.model.kind
  others = ['output']  # all have a dual softmax
  others += [name for owner, own in _OWN_FIELDS.items() if owner != kind for name in own]
  if kind != 'wavernn':
    others += ['activations']
  if kind == 'wavernn':
    others += ['lanes', 'horizon', 'taps_ahead']
  if config.model.prediction != 'spectral':
    others += ['taps', 'taps_ahead']
  if kind != 'wavernn' or config.model.prediction != 'spectral':
    others += ['residuals']
  return {name: value for name, value in fields.items() if name not in others}


def read(path) -> Voice:
  """The voice of an export, all of it checked; executes and unpickles nothing.

  Raises:
    InputError: if there is no such file, it is damaged, inconsistent or of a
      newer version.
  """
  files.check_regular(path, 'a file that --mode=export has written')
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); expected a file that '
                     '--mode=export has written.') from error
  try:
    return _Exported(from_bytes(data), hashlib.blake2b(data, digest_size=16).hexdigest())
  except (ValueError, RecursionError, safetensors.SafetensorError) as error:
    raise InputError(f'{path}: is no usable export: {error}. If it is a copy, copy it again; '
                     'otherwise export it again with this version.') from error


def from_bytes(data: bytes) -> Export:
  """The export in a file of these bytes.

  Raises:
    ValueError, RecursionError, SafetensorError: if it is damaged.
  """
  header, tensors = export_format.from_bytes(data)
  header = export_checks.header(header)
  config = export_checks.config(header, len(tensors))
  weights, block = header['weights'], header['block']
  shapes = flatten(jax.eval_shape(lambda: models.build(config).init(0)))
  types, arrays = packed_types(shapes, weights), export_checks.Arrays(tensors)

  def take(name, shape):
    name, kind = _IN_FILES.get(name, name), types.get(name)
    if kind is None:
      return arrays.take(name, 'F32', shape)
    return arrays.packed(name, shape, kind, block, row_scales=header['version'] < 3)

  found = {name: take(name, leaf.shape) for name, leaf in shapes.items()}
  if 'prior' in found:
    export_checks.prior(found['prior'])
  stored = sum(t.values.size if is_packed(t) else t.size for t in found.values())
  if header['parameters'] > stored:
    raise ValueError(f'found {stored} weights, but parameters {header["parameters"]}')
  return Export(config, weights, block, header['parameters'], found)


def _pack(leaf_NxO, mask, block, dtype):
  return blocksparse.pack(leaf_NxO.T, block, dtype, _block_mask(leaf_NxO, mask, block))


def _block_mask(leaf_NxO, mask, block):
  """Blocks with anything left, [O / b_o, N / b_n], from a mask of any block shape."""
  if mask is None:
    return None
  for axis, (n, blocks) in enumerate(zip(leaf_NxO.shape, mask.shape, strict=True)):
    mask = np.repeat(mask, n // blocks, axis=axis)
  outputs, inputs = mask.shape[::-1]
  blocks = mask.T.reshape(outputs // block[0], block[0], inputs // block[1], block[1])
  return blocks.any(axis=(1, 3))


def _kept(matrix: blocksparse.PackedMatrix):
  """Which blocks a matrix has, [N / b_n, O / b_o]; None if all."""
  blocks = [n // b for n, b in zip(matrix.shape, matrix.block, strict=True)]
  if len(matrix.indices) == blocks[0] * blocks[1]:
    return None
  kept = np.zeros(blocks, bool)
  kept[np.repeat(np.arange(blocks[0]), np.diff(matrix.offsets.astype(np.int64))),
       matrix.indices] = True
  return kept.T


def _fields(matrix: blocksparse.PackedMatrix) -> dict[str, np.ndarray]:
  values = matrix.values
  fields = {
      'offsets': matrix.offsets, 'indices': matrix.indices,
      'values': values.view(ml_dtypes.bfloat16) if matrix.dtype == 'bfloat16' else values}
  return fields if matrix.scales is None else fields | {'scales': matrix.scales}


def _gain(name: str, config: Config) -> np.ndarray:
  """What is multiplied into a tensor of a file: the gain of each input; powers of two."""
  if name in ('previous', 'coarse') and config.model.prediction == 'none':
    gains = hearing.build(config.model, config.mel).gains
    return gains[:-1, None] if name == 'previous' else gains[-1]
  return np.float32([[hearing.COARSE_GAIN], [1]]) if name == 'context.nearest' else np.float32(1)


def nest(leaves: dict) -> dict:
  """Inverse of `flatten`."""
  tree = {}
  for name, leaf in leaves.items():
    *path, last = name.split('.')
    functools.reduce(lambda t, key: t.setdefault(key, {}), path, tree)[last] = leaf
  return tree
