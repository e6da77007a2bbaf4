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
    'config', os.path.join(_CONFIGS, 'demo.py'), 'FILE.py:VARIANT, for train and check.')
_MEL = flags.DEFINE_string('mel', '', 'Named mel convention in place of --config.mel.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/demo', 'Folder of the run.')
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'valid', 'test'], 'To evaluate on.')
_DATA_DIR = flags.DEFINE_string('data_dir', '', 'To evaluate on another corpus.')
_INPUT = flags.DEFINE_string(
    'input', None, 'Recording, .npy mel, a folder of them, or a .txt that lists them.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'Folder for the wavs or for the picture of check, or file of the export.')
_MODEL = flags.DEFINE_string('model', '', 'An export to evaluate or synthesise with.')
_ENGINE = flags.DEFINE_enum(
    'engine', 'auto', ['auto', 'scan', 'cpu', 'pallas'],
    'Sampler; auto: cpu for exports on a CPU; pallas: one kernel, on GPUs and TPUs.')
_WEIGHTS = flags.DEFINE_enum(
    'weights', 'bfloat16', ['float32', 'bfloat16', 'int8'],
    'Type of exported matrices, and of a run packed for --engine=cpu or pallas.')
_SPARSE_ONLY = flags.DEFINE_bool('sparse_only', False, 'Refuse to export an unpruned run.')
_COARSE = flags.DEFINE_float('temperature_coarse', 1.0, 'Of the coarse byte.')
_FINE = flags.DEFINE_float('temperature_fine', 1.0, 'Of the fine byte.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the draws.', 0, 2**32 - 1)
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'To train in several processes: HOST:PORT of process 0, or auto.')
_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many train together.', 1)
_PROCESS = flags.DEFINE_integer('process_id', None, 'The index of this one, from 0 on.', 0)
_EXECUTOR = flags.DEFINE_string(
    'executor', 'process', 'Where to synthesise: process, or ray[,address=A][,cpus=N][,gpus=N].')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Synthesise also what is there already.')
_BATCH = flags.DEFINE_integer('batch', 16, 'Utterances synthesised at a time.', 1)


def main(argv):
  if len(argv) > 1:
    raise InputError(f'found the argument {argv[1]!r}; expected only flags, --name=value.')
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
      raise InputError(f'--{flag.name} is of no use without --mode; give --mode=train to train.')


def _only_for_training(*holders):
  for flag in holders:
    if flag.present:
      raise InputError(f'--{flag.name} is for --mode=train; --mode=synthesize runs on many hosts '
                       'with --executor=ray.')


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
  # What libraries log about an error comes again, in one line, as an InputError.
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
