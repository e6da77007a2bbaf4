"""The folder of a run: records which run it holds, and lets only one process write."""

import contextlib
import fcntl
import hashlib
import json
import pathlib

from wavernn_jax import config as config_lib, files
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError

# Of run.json; 1, without a number, had another prediction, 2 and 3 other weights of lanes.
_VERSION = 4
# These may change between a stop and a resume: no weight depends on them, but for the
# rounding of sums by train.accumulate.
_FREE = ('config.data.dir', 'config.data.workers', 'config.data.cache_mb', 'config.data.check',
         'config.train.accumulate', 'config.train.eval_every',
         'config.train.save_every', 'config.train.keep', 'config.evaluation.')


def corpus_digest(utterances) -> str:
  """A digest of the decoded training audio, whatever the names and the order.

  Empty, and then not compared, if files were not decoded (config.data.check).
  """
  if not all(u.digest for u in utterances):
    return ''
  digest = hashlib.blake2b(digest_size=16)
  for d in sorted(u.digest for u in utterances):
    digest.update(d)
  return digest.hexdigest()


def order_digest(*splits) -> str:
  """A digest of utterances in their order, even if files were not decoded."""
  digest = hashlib.blake2b(digest_size=16)
  for u in (u for utterances in splits for u in utterances):
    digest.update(f'{u.name}\0{u.samples}\0'.encode() + u.digest)
  return digest.hexdigest()


def claim(workdir, config: Config, corpus: str):
  """Claims the folder for this run, new or continued; returns its lock.

  While the returned file is open, another process cannot claim the folder.

  Raises:
    InputError: if the folder holds another run or other files, is in use or
      cannot be written.
  """
  workdir = pathlib.Path(workdir)
  with contextlib.ExitStack() as unless_claimed:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      lock = unless_claimed.enter_context(open(workdir / '.lock', 'w'))
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      files.remove_unfinished(workdir, 'run.json')
      _write_run(workdir, config, corpus)
    except BlockingIOError as error:
      raise InputError(f'--workdir={workdir}: another process is training in it; stop that '
                       'process or give another folder.') from error
    except OSError as error:
      raise InputError(f'--workdir={workdir}: cannot be written ({error.strerror}); give a '
                       'folder that you may write to, with space left.') from error
    unless_claimed.pop_all()
  return lock


def _write_run(workdir: pathlib.Path, config: Config, corpus: str) -> None:
  path = workdir / 'run.json'
  if path.exists():
    corpus = _check_same_run(path, config, corpus)
  elif others := sorted(p.name for p in workdir.iterdir() if not p.name.startswith('.')):
    raise InputError(f'--workdir={workdir}: holds {others[:5]} but no run.json, so it is '
                     'not a run of this program; give a new or empty folder.')
  values = {'version': _VERSION, 'config': config_lib.to_dict(config), 'corpus': corpus}
  files.write_text(path, json.dumps(values, indent=1))


def _check_same_run(path: pathlib.Path, config: Config, corpus: str) -> str:
  """Returns the corpus digest to keep."""
  found = _read(path)
  _check_prediction(path, found)
  # from_dict gives fields that an older version lacked their defaults.
  before = config_lib.to_dict(config_lib.from_dict(found['config']))
  changed = {
      name: values for name, values in config_lib.differences(
          before, config_lib.to_dict(config)).items() if not name.startswith(_FREE)}
  if changed:
    listed = '\n'.join(f'  --{name}: the run has {old!r}, this command {new!r}'
                       for name, (old, new) in changed.items())
    raise InputError(
        f'{path.parent}: holds another run:\n{listed}\nGive another --workdir, or the same '
        'configuration to go on; --config.init_from=RUN starts a new run from its weights.')
  if corpus and found['corpus'] and found['corpus'] != corpus:
    raise InputError(
        f'{path.parent}: was trained on other audio than --config.data.dir holds now; '
        'restore the files, or use --config.init_from to start a new run on these.')
  return corpus or found['corpus']


def read_config(workdir, of_weights: bool = False) -> Config:
  """The configuration of a run.

  Args:
    of_weights: only its weights are taken, as the first ones of another run.

  Raises:
    InputError: if the folder holds no run, or one that codes what is not coded any more.
  """
  path = pathlib.Path(workdir) / 'run.json'
  if not path.exists():
    raise InputError(f'--workdir={workdir}: holds no run (no run.json); expected a folder '
                     'that --mode=train has written.')
  found = _read(path)
  if not of_weights:
    _check_prediction(path, found)
  return config_lib.from_dict(found['config'])


def _check_prediction(path: pathlib.Path, found: dict) -> None:
  """Raises InputError for a run of an earlier prediction, or whose lanes hear otherwise."""
  model, version = found['config'].get('model', {}), found['version']
  if model.get('prediction') != 'spectral':
    return
  if version < 4 and model.get('kind') == 'subscale':
    raise InputError(f'{path}: is of a run whose lanes hear through weights of an earlier form, '
                     'which are not read any more; train it anew in another --workdir.')
  if version < 2:
    raise InputError(
        f'{path}: is of a run that codes residuals of an earlier prediction, which is not '
        f'computed any more; a new run may begin with its weights: --config.init_from='
        f'{path.parent}.')


def _read(path: pathlib.Path) -> dict:
  try:
    found = json.loads(path.read_text())
    return {'config': dict(found['config']), 'corpus': found['corpus'],
            'version': int(found.get('version', 1))}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f'{path}: is damaged ({error}); every checkpoint of the run holds the '
                     'config, from which it can be written anew.') from error
