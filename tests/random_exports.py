"""Small exports with random weights, their parts, and the errors that files lead to."""

import functools

import ml_dtypes
import numpy as np
import pytest
import random_models

from wavernn_jax.config import Config, MelConfig, ModelConfig, PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import blocksparse, export as export_lib, export_format

MEL = MelConfig(name='tiny', sample_rate=800, n_fft=16, window=8, hop=4, bands=3, fmax=400.0)
TYPES, BLOCKS = list(blocksparse.DTYPES), list(blocksparse.SHAPES)
NUMPY = {'F32': np.float32, 'BF16': ml_dtypes.bfloat16, 'I8': np.int8, 'U16': np.uint16,
         'U32': np.uint32}


def run_config(block=(16, 1), sparsity=0.6, **model):
  return Config(
      model=ModelConfig(**dict(units=32, projection=16, channels=8, layers=2) | model), mel=MEL,
      pruning=PruningConfig(recurrent=sparsity, hidden=sparsity, output=sparsity,
                            block_outputs=block[0], block_inputs=block[1], start=0, steps=1))


@functools.cache
def run_weights(block=(16, 1), sparsity=0.6):
  config = run_config(block, sparsity)
  return *random_models.pruned_run(config), config


def packed_run(block=(16, 1), weights='bfloat16', sparsity=0.6):
  return export_lib.pack(*run_weights(block, sparsity), weights)


@functools.cache
def packed_lanes(block=(16, 1), weights='float32'):
  config = run_config(block, kind='subscale', lanes=4, horizon=3, context_layers=2,
                      context_channels=8, context_kernel=3, context_block=2)
  config.pruning.conditioning = 0.6
  params, masks = random_models.pruned_run(config)
  return export_lib.pack(params, masks, config, weights), params, masks


def refusal(data, folder):
  """The reason for which a file of these bytes is refused."""
  path = folder / 'damaged.safetensors'
  path.write_bytes(data)
  with pytest.raises(InputError) as caught:
    export_lib.read(path)
  assert str(path) in str(caught.value)
  return str(caught.value)


def file_parts(data):
  """Header and tensors of a file, as `export_format.to_bytes` takes them."""
  header, tensors = export_format.from_bytes(data)
  return header, {
      name: np.frombuffer(t['data'], NUMPY[t['dtype']]).reshape(t['shape'])
      for name, t in tensors.items() if not name.startswith(export_format.PADDING)}


def rewritten_file(export, change_header=None, change_tensors=None):
  """A file with other contents whose checksum is right."""
  header, tensors = file_parts(export_lib.to_bytes(export))
  (change_header or (lambda h: None))(header)
  (change_tensors or (lambda t: None))(tensors)
  return export_format.to_bytes(header, tensors)
