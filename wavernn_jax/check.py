"""What training needs before anything is claimed."""

import os
import pathlib

import jax

from wavernn_jax import audio, corpus, models, rules
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.training import start, step as step_lib, world

_FLOAT32 = 4  # bytes


def training(config: Config, workdir=''):
  """Utterances of train and valid of a config that is in order.

  Args:
    config: of the run.
    workdir: of the run; one that has a checkpoint needs no `init_from` any more.

  Raises:
    InputError: naming what is wrong.
  """
  rules.check(config)
  world.check_devices(config)
  check_memory(config)
  if config.init_from and not any(pathlib.Path(workdir).glob('checkpoints/[0-9]*')):
    start.read(config)
  return load_corpus(config)


def load_corpus(config: Config):
  """Utterances of train and valid, checked together with test."""
  files = corpus.split_files(config.data)
  least = dict.fromkeys(files, audio.edge_padding(config.mel) + 1)
  least['train'] = max(config.train.crop, least['train'])
  splits = corpus.load_splits(files, config.data, config.mel, least,
                            () if config.data.workers else ('train', 'valid'))
  corpus.check_disjoint(splits)
  return splits['train'], splits['valid']


def check_memory(config: Config) -> None:
  """Raises InputError if a step surely needs more memory than there is.

  Also if blocks of pruning do not divide a matrix: shapes are all it computes.
  """
  state = jax.eval_shape(
      lambda: step_lib.initial_state(models.build(config).init(0), config))
  def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
  train, model = config.train, config.model
  crops = max(1, train.batch // (jax.device_count() * train.accumulate))
  # The state, its copy of a checkpoint, gradients; the gate inputs of all steps.
  least = (2 * size(state) + size(state['params'])
           + crops * train.crop // model.lanes * 3 * model.units * _FLOAT32)
  if least > _memory():
    raise InputError(
        f'--config.model.units={model.units}, --config.train.batch={train.batch}, '
        f'--config.train.crop={train.crop}: a step takes more than {least / 2**30:.1f} GB, found '
        f'{_memory() / 2**30:.1f} GB of memory; choose a smaller model, a smaller batch or '
        'shorter crops, or micro-batches (--config.train.accumulate).')


def _memory() -> int:
  """Bytes of the device, or of this machine where that is a CPU."""
  found = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')
  return found or os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
