"""The command line: absl flags -> one call into the package.

  python launch.py                                              the demo
  python launch.py --mode=train --config=experiments/configs/dense.py:small \
      --config.data.dir=DIR --workdir=RUN
  python launch.py --mode=check --config.data.dir=DIR [--output=DIR]
  python launch.py --mode=evaluate --workdir=RUN --split=test
  python launch.py --mode=evaluate --model=FILE.safetensors --data_dir=DIR [--engine=scan|cpu]
  python launch.py --mode=export --workdir=RUN --output=FILE.safetensors [--weights=int8]
  python launch.py --mode=synthesize --workdir=RUN|--model=FILE.safetensors \
      --input=FILE|DIR --output=DIR [--engine=scan|cpu|pallas]
"""

import logging as python_logging
import os
import sys
import warnings

from absl import app, flags, logging
from ml_collections import config_flags

from wavernn_jax import commands
from wavernn_jax.errors import InputError
from wavernn_jax.training import world

_CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'experiments', 'configs')
_MODE = flags.DEFINE_enum(
    'mode', 'demo', ['demo', 'check', 'train', 'evaluate', 'export', 'synthesize'], 'What to do.')
_CONFIG = config_flags.DEFINE_config_file(
    'config', os.path.join(_CONFIGS, 'demo.py'),
    'Configuration of train and check, FILE.py:VARIANT.')
_MEL = flags.DEFINE_string(
    'mel', '', 'Named mel convention, used instead of the fields --config.mel.*.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/demo', 'Folder of the training run.')
_SPLIT = flags.DEFINE_enum(
    'split', 'test', ['train', 'valid', 'test'], 'Part of the corpus to evaluate on.')
_DATA_DIR = flags.DEFINE_string(
    'data_dir', '', 'Corpus to evaluate on, if not the one that the run was trained on.')
_INPUT = flags.DEFINE_string(
    'input', None,
    'What to synthesise: a recording, a .npy mel, a folder of these, or a .txt that lists them.')
_OUTPUT = flags.DEFINE_string(
    'output', None,
    'Where to write: a folder (synthesize, demo, check), or the file of an export.')
_MODEL = flags.DEFINE_string('model', '', 'An export to evaluate or to synthesise with.')
_ENGINE = flags.DEFINE_enum(
    'engine', 'auto', ['auto', 'scan', 'cpu', 'pallas'],
    'What draws the samples. scan: XLA, everywhere; cpu: the compiled CPU loop; pallas: one '
    'kernel on a GPU or TPU; auto: cpu for an export on a machine without accelerator, else scan.')
_WEIGHTS = flags.DEFINE_enum(
    'weights', 'bfloat16', ['float32', 'bfloat16', 'int8'],
    'Number type of the matrices of an export, or of a run packed for --engine=cpu or pallas.')
_SPARSE_ONLY = flags.DEFINE_bool('sparse_only', False, 'Refuse to export an unpruned run.')
_COARSE = flags.DEFINE_float(
    'temperature_coarse', 1.0, 'Temperature at which the coarse byte is drawn; 0 takes the mode.')
_FINE = flags.DEFINE_float(
    'temperature_fine', 1.0, 'Temperature at which the fine byte is drawn; 0 takes the mode.')
_SEED = flags.DEFINE_integer(
    'seed', 0, 'Seed of the random numbers that samples are drawn with.', 0, 2**32 - 1)
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None,
    'For training in several processes: HOST:PORT of process 0, or auto to find it.')
_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'Number of processes that train together.', 1)
_PROCESS = flags.DEFINE_integer(
    'process_id', None, 'Index of this process, from 0 to num_processes - 1.', 0)
_EXECUTOR = flags.DEFINE_string(
    'executor', 'process',
    'Where to synthesise: process (here), or ray[,address=A][,cpus=N][,gpus=N] (on a cluster).')
_OVERWRITE = flags.DEFINE_bool(
    'overwrite', False, 'Synthesise again what --output already holds.')
_BATCH = flags.DEFINE_integer('batch', 16, 'Number of utterances synthesised at a time.', 1)


def main(argv):
  if len(argv) > 1:
    raise InputError(f'found the argument {argv[1]!r}, expected only flags of the form '
                     '--name=value.')
  if _MODE.value != 'train':
    _only_for_training(_COORDINATOR, _PROCESSES, _PROCESS)
  match _MODE.value:
    case 'demo':
      _only_for_runs(_WORKDIR, flags.FLAGS['config'])
      commands.demo(_OUTPUT.value or 'runs/demo')
    case 'train':
      world.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
      commands.train(_CONFIG.value, _WORKDIR.value, _MEL.value)
    case 'check':
      commands.check(_CONFIG.value, _OUTPUT.value or 'runs/check', _MEL.value)
    case 'evaluate':
      _one_model()
      commands.evaluate(_WORKDIR.value, _SPLIT.value, _DATA_DIR.value, _MODEL.value,
                        _ENGINE.value, (_COARSE.value, _FINE.value))
    case 'export':
      _require(_OUTPUT)
      commands.export(_WORKDIR.value, _OUTPUT.value, _WEIGHTS.value, _SPARSE_ONLY.value)
    case 'synthesize':
      _require(_INPUT, _OUTPUT)
      _one_model()
      commands.synthesize(_WORKDIR.value, _INPUT.value, _OUTPUT.value,
                          (_COARSE.value, _FINE.value), _SEED.value, _BATCH.value,
                          _MODEL.value, _ENGINE.value, _WEIGHTS.value, _EXECUTOR.value,
                          _OVERWRITE.value)


def _require(*holders):
  for flag in holders:
    if not flag.value:
      raise InputError(f'--{flag.name} is not set.')


def _one_model():
  if _MODEL.value and _WORKDIR.present:
    raise InputError('--model and --workdir are both set; give one of them.')


def _only_for_runs(*holders):
  for flag in holders:
    if flag.present:
      raise InputError(f'--{flag.name} has no effect without --mode; to train, give --mode=train.')


def _only_for_training(*holders):
  for flag in holders:
    if flag.present:
      raise InputError(f'--{flag.name} belongs to --mode=train; to synthesise on many hosts, '
                       'give --executor=ray.')


def _parse(argv):
  try:
    rest = flags.FLAGS(argv)
    _ = _CONFIG.value.model  # loads the file: its errors are flag errors too
    return rest
  except (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
    # config_flags quotes the traceback of a config file; its last line is the reason.
    reason = str(error).strip().rsplit('InputError: ', 1)[-1]
    raise InputError(f'flags: {reason}') from error


def run() -> None:
  # What libraries log about an error is said again, in one line, by an InputError.
  logging.set_verbosity(logging.FATAL)
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
  warnings.formatwarning = lambda message, *_: f'warning: {message}\n'
  try:
    app.run(main, flags_parser=_parse)
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    world.leave(2)


if __name__ == '__main__':
  run()
