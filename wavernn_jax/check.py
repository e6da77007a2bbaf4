"""The checks before a run may start, and `--mode=check`, which reports them."""

import os
import pathlib

import jax
import numpy as np

from wavernn_jax import audio, conventions, models, rules, survey
from wavernn_jax.config import Config
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import pictures
from wavernn_jax.training import start, step as step_lib, world

_FLOAT32 = 4  # bytes
_MELS = 16  # this many files are enough to recognise a convention


def training(config: Config, workdir=''):
  """Checks a config and its corpus; returns the utterances of train and valid.

  Args:
    config: of the run.
    workdir: of the run; once that has a checkpoint, `init_from` is not read.

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
  """The utterances of train and valid; test is checked along with them."""
  files = corpus.split_files(config.data)
  least = dict.fromkeys(files, audio.edge_padding(config.mel) + 1)
  least['train'] = max(config.train.crop, least['train'])
  splits = corpus.load_splits(files, config.data, config.mel, least,
                            () if config.data.workers else ('train', 'valid'))
  corpus.check_disjoint(splits)
  return splits['train'], splits['valid']


def check_memory(config: Config) -> None:
  """Raises InputError if a step is sure to need more memory than there is.

  Computes shapes only. Pruning blocks that do not divide a matrix are found here, too.
  """
  state = jax.eval_shape(
      lambda: step_lib.initial_state(models.build(config).init(0), config))
  def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
  train, model = config.train, config.model
  crops = max(1, train.batch // (jax.device_count() * train.accumulate))
  # The state, the copy that a checkpoint is written from, gradients; all gate inputs.
  least = (2 * size(state) + size(state['params'])
           + crops * train.crop // model.lanes * 3 * model.units * _FLOAT32)
  if least > _memory():
    raise InputError(
        f'--config.model.units={model.units}, --config.train.batch={train.batch}, '
        f'--config.train.crop={train.crop}: a step needs more than {least / 2**30:.1f} GB of '
        f'memory, found {_memory() / 2**30:.1f} GB; choose a smaller model, a smaller batch or '
        'shorter crops, or micro-batches (--config.train.accumulate).')


def _memory() -> int:
  """Memory in bytes of the device, or of this machine if that is a CPU."""
  found = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')
  return found or os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


# The report


def report(config: Config, output) -> dict:
  """Describes a folder of recordings or mels, and says whether a run can train on it.

  Args:
    config: of a run; `config.data.dir` is the folder.
    output: folder of the picture.

  Returns:
    What `survey.summary` found; mels (fits, sentence); problems, which would stop a run
    or make it useless; remarks; options: flags that suit the files; unsuited: purposes
    that the configured model does not suit, and why; picture: the path of a PNG.

  Raises:
    InputError: if the folder does not exist or is empty.
  """
  sounds, mels = _contents(config)
  result = {'dir': config.data.dir, 'problems': [], 'remarks': [], 'options': [], 'unsuited': {
      purpose: reasons for purpose in rules.PURPOSES
      if not rules.problems(config) and (reasons := rules.unsuited(config, purpose))}}
  if sounds:
    files, unusable = survey.read(sounds)
    result['problems'] += [] if files else ['none of the audio files can be read']
    if files:
      result |= survey.summary(files)
      result['remarks'] += survey.advice(result)
      result['picture'] = str(_picture(files, output))
    result['problems'] += _training_problems(config)
    result['options'] += _options(config, files, unusable)
  if mels:
    fit = _fit(mels, sounds, config)
    result['mels'] = {'files': len(mels), 'fits': fit.fits, 'sentence': fit.sentence()}
    (result['remarks'] if fit.fits else result['problems']).append(fit.sentence())
    result['options'] += _mel_options(config, fit, bool(sounds))
  return result


def _contents(config: Config) -> tuple[list, list]:
  """Audio files and .npy files of the folder of a config."""
  folder = pathlib.Path(config.data.dir)
  if not config.data.dir or not folder.is_dir():
    raise InputError(f'--config.data.dir={config.data.dir}: no such folder; expected one with '
                     'wav or flac files, or with .npy mels.')
  mels = survey.listed_paths(folder, '.npy')
  try:
    return corpus.find_audio(folder), mels
  except InputError:
    if mels:
      return [], mels
    raise


def _training_problems(config: Config) -> list[str]:
  try:
    training(config)
  except InputError as error:
    return [str(error)]
  return []


def _fit(paths, sounds, config: Config) -> conventions.Fit:
  """The convention of the first few mels, by the audio of the same names if there is any."""
  by_stem = {p.with_suffix(''): p for p in sounds}
  chosen = [p for p in paths if p.with_suffix('') in by_stem] or paths
  arrays = {}
  for path in chosen[:_MELS]:
    try:
      arrays[path] = np.load(path, allow_pickle=False)
    except Exception as error:  # whatever a damaged header makes numpy raise
      raise InputError(f'{path}: cannot be read as a mel spectrogram ({error}); expected a '
                       '.npy file of floats, without pickled objects.') from error
  beside = {p: by_stem[p.with_suffix('')] for p in arrays if p.with_suffix('') in by_stem}
  return conventions.identify(arrays, config.mel, beside if len(beside) == len(arrays) else None)


def _options(config: Config, files, unusable) -> list[str]:
  """Flags that suit the recordings."""
  options = []
  if unusable:
    options.append('--config.data.skip_bad=true')
  if files and max(f.sample_rate for f in files) < config.mel.sample_rate:
    rates = {p.sample_rate: name for name, p in conventions.candidates(config.mel).items()}
    lower = [r for r in rates if r <= max(f.sample_rate for f in files)]
    options.append(f'--mel={rates[max(lower)]}' if lower else
                   f'--config.mel.sample_rate={max(f.sample_rate for f in files)} '
                   f'--config.mel.fmax={max(f.sample_rate for f in files) / 2:g}')
  needed = sum(2 * f.seconds * config.mel.sample_rate for f in files) / 2**20
  if needed > config.data.cache_mb and 2 * needed * 2**20 < _memory():
    options.append(f'--config.data.cache_mb={int(needed) + 1}')
  return options


def _mel_options(config: Config, fit: conventions.Fit, sounding: bool) -> list[str]:
  named = [name for name in fit.fits if name in conventions.candidates(config.mel)]
  if not named:
    return []
  own = [name for name, mel in conventions.candidates(config.mel).items() if mel == config.mel]
  options = [] if set(named) & set(own) else [f'--mel={named[0]}']
  return options + (['--config.data.mels=paired'] if sounding else [])


def _picture(files, output) -> pathlib.Path:
  folder = pathlib.Path(output)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f'--output={output}: cannot be written ({error.strerror}); give a folder '
                     'that you may write to.') from error
  path = folder / 'corpus.png'
  pictures.save(pictures.corpus_survey(files), path)
  return path
