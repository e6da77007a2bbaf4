"""Exports: one safetensors file from which a WaveRNN, or a subscale one, is sampled (§3, §4).

A file is plain safetensors with two metadata entries:

  header   JSON object
    format       "wavernn-jax"
    version      2; readers refuse a greater one
    weights      "float32", "bfloat16" or "int8": type of the packed matrices
    block        [outputs, inputs] of a block, [16, 1] or [4, 4]
    parameters   parameters that are not pruned (pruning.count_parameters)
    sample_rate  Hz, equal to mel.sample_rate
    mel          mel convention: the fields of config.MelConfig
    config       config.Config, with mel once more; data.dir and init_from are ""
  sha256   hexadecimal digest of the UTF-8 bytes of `header`, then of the data of
           all tensors in the order of their names

Tensors, for H units, P projection, M mel bands, C channels, k frames of a
convolution, L of them. Every matrix that can be pruned is packed, outputs first:

  recurrent.u|r|e                     H x H     R_u, R_r, R_e
  outputs.coarse|fine.hidden.kernel   P x H/2   O_1, O_3
  outputs.coarse|fine.output.kernel   256 x P   O_2, O_4
  conditioning.gates.kernel           3H x C    its rows: gates u, r, e
  context.gates.kernel                3H x D    the same, of subscale models

A packed matrix NAME of O outputs and N inputs, in blocks of b_o x b_n, is

  NAME.offsets  U32 [O/b_o + 1]   block row r owns blocks offsets[r]:offsets[r + 1]
  NAME.indices  U16 [K]           block columns, growing in a row (U32 if N/b_n > 65536)
  NAME.values   F32|BF16|I8 [K, 16]   a block's weights, outputs outermost; I8: -127..127
  NAME.scales   F32 [O/b_o]       I8 only: weight = value * scale of its block row

With "int8" the conditioning gates are BF16: they are multiplied once a frame,
so that a smaller type would only cost precision. The other tensors are F32,
inputs first (y = x W + b), bytes scaled to [-1, 1]:

  previous                                [2, 3H]   weights of c_{t-1}, f_{t-1}; u, r, e
  coarse                                  [3, H/2]  weights of c_t on the fine units
  conditioning.layers.0..L-1.kernel       [k M, C], then [k C, C]; frames outermost
  conditioning.layers.0..L-1.bias         [C]
  conditioning.gates.bias                 [3H]
  outputs.coarse|fine.hidden|output.bias  [P], [256]

The outputs of a fused model are named by lane and nibble, outputs.0.0 to outputs.1.3.
What other models have of their own is F32, under the names of their parameters:
context.* (models/context.py), samples and nibbles (models/fused.py, without GAINS).

COARSE_GAIN of models/wavernn.py is multiplied into the weights of the coarse
bytes. How the tensors are used: models/wavernn.py, models/conditioning.py.

Subscale models (config.model.kind "subscale") with config.model.lanes S > 1 have
a context network of D = context_channels channels. Its output stands behind the
H/2 units in the inputs of O_1, which is P x (H/2 + D). For a first
layer of K positions (context_kernel, but not beyond the horizon) and N =
context_layers further ones, F32:

  context.distances                [K, S-1, 2, D]     W: tap, lanes apart - 1, input
  context.pairs                    [K, S(S-1)/2, 2, D]  V: of lane s hearing lane z at
                                                      index s(s-1)/2 + z
  context.embedding                [S, D]             e
  context.nearest                  [S-1, 2, 3H]       of the bytes of the samples 1, 2, ..
                                                      before, where a lane before has them
  context.layers.0..N-1.kernel     [3D, D]            A, inputs i - d, i, i + f
  context.layers.0..N-1.bias       [D]                a

lanes, horizon and the context_ fields in config.model give the reach of each
layer; context_block is the number of positions between which nothing is seen of
other lanes, and with it the delay of a stream: models/context.py, models/skew.py.

Version 1 had context.gates.kernel as F32 [D, 3H]; it is read too.
"""

import copy
import dataclasses
import functools
import hashlib
import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from wavernn_jax import files, models, pruning
from wavernn_jax.config import Config, PruningConfig, to_dict
from wavernn_jax.errors import InputError
from wavernn_jax.models import hearing
from wavernn_jax.sampling import blocksparse, export_checks
from wavernn_jax.voice import Voice

_GATES, _CONTEXT_GATES = 'conditioning.gates.kernel', 'context.gates.kernel'


@dataclasses.dataclass(frozen=True)
class Export:
  """A packed model.

  Attributes:
    config: of the run, without its local paths.
    weights: type of the packed matrices, one of `blocksparse.DTYPES`.
    block: (outputs, inputs) of a block.
    parameters: parameters that are not pruned.
    tensors: by name: a PackedMatrix, or float32 with the gain multiplied in.
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
        else _scale_coarse(name, tensor, 1 / hearing.COARSE_GAIN)
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
  if config.model.kind == 'wavenet':
    raise InputError("--mode=export, --engine=cpu: found a model of the kind 'wavenet', expected "
                     'a WaveRNN; synthesise and evaluate its run with --workdir=RUN and '
                     '--engine=scan.')
  if weights not in blocksparse.DTYPES:
    raise InputError(f'--weights={weights}: expected one of {list(blocksparse.DTYPES)}.')
  if sparse_only and all(np.all(mask) for mask in jax.tree.leaves(masks)):
    raise InputError('--sparse_only: no matrix of this run is pruned; set '
                     '--config.pruning.… in training, or export without the flag.')
  block, leaves, flat_masks = packing_block(masks, config), flatten(params), flatten(masks)
  types, tensors = packed_types(leaves, weights), {}
  for name, leaf in leaves.items():
    leaf = np.asarray(leaf, np.float32)
    tensors[name] = (_pack(name, leaf, flat_masks[name], block, types[name]) if name in types
                     else _scale_coarse(name, leaf, hearing.COARSE_GAIN))
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


def _packed_in(version: int, name: str) -> bool:
  """Whether files of a version hold a parameter packed that is so in the last one."""
  return version > 1 or name != _CONTEXT_GATES


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
  tensors, config = {}, to_dict(export.config)
  for name, tensor in export.tensors.items():
    if is_packed(tensor):
      tensors |= {f'{name}.{field}': array for field, array in _fields(tensor).items()}
    else:
      tensors[name] = np.ascontiguousarray(tensor)
  header = json.dumps({
      'format': export_checks.FORMAT, 'version': export_checks.VERSION, 'weights': export.weights,
      'block': export.block, 'parameters': export.parameters,
      'sample_rate': export.config.mel.sample_rate, 'mel': config['mel'], 'config': config})
  digest = export_checks.checksum(
      header, {name: array.tobytes() for name, array in tensors.items()})
  return safetensors.numpy.save(tensors, {'header': header, 'sha256': digest})


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
  tensors = dict(safetensors.deserialize(data))
  start = 8 + int.from_bytes(data[:8], 'little')
  metadata = json.loads(data[8:start]).get('__metadata__') or {}
  header = export_checks.header(metadata, tensors)
  config = export_checks.config(header, len(tensors))
  weights, block = header['weights'], header['block']
  shapes = flatten(jax.eval_shape(lambda: models.build(config).init(0)))
  types = {name: kind for name, kind in packed_types(shapes, weights).items()
           if _packed_in(header['version'], name)}
  arrays = export_checks.Arrays(tensors)
  found = {name: arrays.packed(name, leaf.shape, types[name], block) if name in types
           else arrays.take(name, 'F32', leaf.shape) for name, leaf in shapes.items()}
  arrays.check_empty()
  stored = sum(t.values.size if is_packed(t) else t.size for t in found.values())
  if header['parameters'] > stored:
    raise ValueError(f'found {stored} weights, but parameters {header["parameters"]}')
  if not is_packed(found.get(_CONTEXT_GATES)) and _CONTEXT_GATES in found:  # version 1
    found[_CONTEXT_GATES] = _pack(_CONTEXT_GATES, found[_CONTEXT_GATES], None, block, 'float32')
  return Export(config, weights, block, header['parameters'], found)


def _pack(name, leaf_NxO, mask, block, dtype):
  if any(n % b for n, b in zip(leaf_NxO.shape[::-1], block, strict=True)):
    raise InputError(
        f'{name} of {leaf_NxO.shape[1]} outputs and {leaf_NxO.shape[0]} inputs: blocks of '
        f'{block[0]}x{block[1]} do not divide it; an export needs model.units/2 and '
        f'model.projection as multiples of {block[0]}, and model.channels and '
        f'model.context_channels of {block[1]}.')
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


def _scale_coarse(name, leaf, factor):
  """The weights of coarse bytes times a factor; others as they are."""
  if name in ('previous', 'context.nearest'):
    return leaf * np.float32([[factor], [1]])
  return leaf * np.float32(factor) if name == 'coarse' else leaf


def nest(leaves: dict) -> dict:
  """Inverse of `flatten`."""
  tree = {}
  for name, leaf in leaves.items():
    *path, last = name.split('.')
    functools.reduce(lambda t, key: t.setdefault(key, {}), path, tree)[last] = leaf
  return tree
