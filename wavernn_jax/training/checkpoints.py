"""Checkpoints (orbax, asynchronous): everything that a run needs to continue.

A checkpoint holds the train state (weights, EMA, optimiser, masks, step), the
position of the data iterator and the config with its mel convention. Orbax
writes into a temporary folder and renames it once it is complete, so a kill
at any moment leaves earlier checkpoints as they were. A seal (seals.py) then
records what its files hold, and a checkpoint that differs from it is not used.
Opening a run reads nothing of a checkpoint but its valid NLL, where there is one.
"""

import contextlib
import hashlib
import json
import math
import pathlib
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from wavernn_jax import models
from wavernn_jax.config import Config, differences, to_dict
from wavernn_jax.errors import InputError
from wavernn_jax.training import seals, step as step_lib, workdir as workdir_lib
from wavernn_jax.voice import Voice

_METRIC = 'valid_nll'


class _Kept:
  """Which steps stay, as orbax asks for it: the last `keep`, and the best."""

  def __init__(self, keep: int, best):
    self._keep, self._best = keep, best

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    last = len(checkpoints) - self._keep
    best = self._best()
    return [i >= last or info.step == best for i, info in enumerate(checkpoints)]


class Checkpoints:
  """The checkpoints of one run: the last `keep` and the best by valid NLL.

  Only the process that holds the run's lock may write: it removes what a
  killed one left unfinished.
  """

  def __init__(self, workdir, keep: int = 3, read_only: bool = False,
               of_first=lambda function: function()):
    """Args:
      workdir: of the run.
      keep: number of last checkpoints to keep.
      read_only: change nothing in the folder.
      of_first: calls a function in the first process and returns its value in all.
    """
    self._of_first = of_first
    self._folder = pathlib.Path(workdir).resolve() / 'checkpoints'
    # Of a checkpoint that is being written anew, until it is complete.
    self._replaced = self._folder.with_name('replaced')
    self._writes = not read_only and jax.process_index() == 0
    self._sealer = seals.Sealer()
    if self._writes:
      self._undo_replacement()
      self._remove_unfinished()
    self._options = ocp.CheckpointManagerOptions(
        preservation_policy=_Kept(keep, self.best), create=not read_only, read_only=read_only,
        enable_async_checkpointing=True,
        # It is to write valid NLLs, not to read them: it stops at one that is damaged.
        best_fn=lambda metrics: metrics[_METRIC], lightweight_initialize=True)
    self._open()

  def _remove_unfinished(self) -> None:
    """Removes what a killed process left of saves.

    Each manager of orbax would do so in a thread of its own, and the next one's save may meet it.
    """
    for path in self._folder.iterdir() if self._folder.is_dir() else ():
      if ocp.utils.is_tmp_checkpoint(path):
        shutil.rmtree(path, ignore_errors=True)

  def _open(self) -> None:
    """Looks for the steps that there are."""
    self._manager = ocp.CheckpointManager(self._folder, options=self._options)
    self._nlls = self._read_nlls()

  def latest(self) -> int | None:
    """The step of the last complete checkpoint, None if there is none."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """The step of the best evaluated checkpoint, or the last if none was evaluated."""
    steps = [s for s in self._manager.all_steps() if s in self._nlls]
    return min(steps, key=lambda s: (self._nlls[s], -s), default=self.latest())

  def evaluated(self, step: int) -> bool:
    """Whether a step was saved with its valid NLL."""
    return step in self._nlls

  def _read_nlls(self) -> dict[int, float]:
    """The valid NLL of each step that has one that can be read."""
    found = {}
    for step in self._manager.all_steps():
      with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        text = (self._folder / str(step) / 'metrics' / 'metrics').read_text()
        if math.isfinite(nll := json.loads(text)[_METRIC]):
          found[step] = nll
    return found

  def _reopen(self) -> None:
    """Takes note of folders that were renamed."""
    self._manager.close()
    self._open()

  def save(self, state, data_state, config: Config, valid_nll: float | None = None) -> None:
    """Starts a save; raises the error of an earlier one.

    A step that is already saved is saved again only if it now has a valid NLL.

    Raises:
      InputError: if a save failed, as on a full disk. Earlier checkpoints stand.
    """
    step = int(state['step'])
    self.wait()
    again = step in self._manager.all_steps()
    if again and (valid_nll is None or self.evaluated(step)):
      return
    if again:
      self._set_aside(step)
    # A copy: the next train step reuses the buffers of its state while the
    # checkpoint is still being written.
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)),
        data=ocp.args.JsonSave(data_state),
        config=ocp.args.JsonSave(to_dict(config)))
    metrics = None
    if valid_nll is not None:
      metrics, self._nlls[step] = {_METRIC: valid_nll}, valid_nll
    with self._reporting(f'checkpoint of step {step}'):
      self._manager.save(step, args=args, metrics=metrics, force=True)
    if self._writes:
      self._sealer.start(self._folder / str(step))

  def _set_aside(self, step: int) -> None:
    """Moves a checkpoint out of the way of one that replaces it."""
    def rename():
      self._replaced.mkdir(exist_ok=True)
      (self._folder / str(step)).rename(self._replaced / str(step))
    self._of_first(rename)
    self._reopen()

  def _undo_replacement(self) -> None:
    """Removes checkpoints that were set aside; restores one whose replacement is incomplete."""
    for old in self._replaced.iterdir() if self._replaced.is_dir() else ():
      if not (self._folder / old.name).exists():
        old.rename(self._folder / old.name)
    shutil.rmtree(self._replaced, ignore_errors=True)

  def resume(self, like_state):
    """(train state, data iterator state) of the newest intact step; None if there is no step.

    Damaged ones are moved to RUN/damaged.

    Raises:
      InputError: if there are checkpoints but none is intact.
    """
    def choose():
      step = self.newest_intact()
      for other in self._manager.all_steps() if step else ():
        reason = other < step and seals.damage(self._folder / str(other))
        if reason:
          warnings.warn(f'{self._folder}/{other}: is damaged ({reason}) and was moved to '
                        f'{self._folder.with_name("damaged")}.', stacklevel=2)
        if reason or other > step:
          self._move_away(other)
      return step
    step = self._of_first(choose)
    self._reopen()
    return None if step is None else self.restore(like_state, step)

  def _move_away(self, step: int) -> None:
    damaged = self._folder.with_name('damaged')
    damaged.mkdir(exist_ok=True)
    (self._folder / str(step)).rename(damaged / f'{step}.{len(list(damaged.iterdir()))}')

  def newest_intact(self, first: int | None = None) -> int | None:
    """The newest step whose files are as they were written; None if there is no step.

    A warning names each damaged one that is passed over.

    Args:
      first: a step to prefer to the newest.

    Raises:
      InputError: if there are checkpoints but none is intact.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    found = {}
    for step in sorted(steps, key=lambda s: s != first):
      if reason := seals.damage(self._folder / str(step)):
        found[step] = reason
        continue
      for other, reason in found.items():
        warnings.warn(f'{self._folder}/{other}: is damaged ({reason}); the checkpoint of step '
                      f'{step} takes its place.', stacklevel=2)
      return step
    if found:
      listed = '\n'.join(f'  {step}: {reason}' for step, reason in found.items())
      raise InputError(
          f'{self._folder}: all {len(found)} checkpoints are damaged:\n{listed}\nRestore the '
          'folder from a copy, or train anew in another --workdir.')
    return None

  def restore(self, like_state, step: int | None = None):
    """(train state, data iterator state) of a step, by default of the last one.

    Raises:
      InputError: if its files cannot be read as a checkpoint of such a state.
    """
    step = self.latest() if step is None else step
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like_state)
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(
          state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()))
      if restored['data'] is None or int(restored['state']['step']) != step:
        raise ValueError('other contents than were written')
    except Exception as error:
      reason = str(error).strip().split('\n')[0][:200]
      raise InputError(
          f'{self._folder}/{step}: cannot be read ({type(error).__name__}: {reason}); remove '
          'this folder to go on from the checkpoint before it.') from error
    return restored['state'], restored['data']

  def wait(self) -> None:
    """Returns when all saves are complete on disk."""
    with self._reporting('the last checkpoint'):
      self._manager.wait_until_finished()
    if self._writes:
      self._undo_replacement()

  def close(self) -> None:
    with self._reporting('the last checkpoint'):
      self._manager.close()
    if self._writes:
      self._undo_replacement()

  def _complete(self) -> int | None:
    """As `latest`, but from the disk: the manager also counts unfinished and failed saves."""
    steps = [int(p.name) for p in self._folder.iterdir() if p.name.isdigit()]
    return max(steps, default=None)

  @contextlib.contextmanager
  def _reporting(self, what: str):
    """Turns anything that a save raises into one clear error."""
    try:
      yield
    except Exception as error:
      reason = str(error).split(' [')[0][-200:]  # tensorstore: paths first, then what, [where]
      raise InputError(
          f'{self._folder}: {what} could not be saved ({type(error).__name__}: … {reason}). '
          f'The last complete checkpoint is of step {self._complete()}; '
          'free disk space or repair the folder and run the same command again to go on '
          'from it.') from error
    finally:
      self._sealer.finish()


def load(workdir, expected: Config | None = None) -> Voice:
  """The voice of a run: the EMA weights of its best checkpoint.

  Args:
    workdir: of the run.
    expected: a config whose model and mel convention the run must share.

  Raises:
    InputError: if there is no complete checkpoint, its EMA is not finite, or the run has
      another config.
  """
  config = workdir_lib.read_config(workdir, of_weights=expected is not None)
  if expected is not None:
    check_same_model(workdir, config, expected)
  saved = Checkpoints(workdir, read_only=True)
  step = _best(saved, workdir)
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  state, _ = saved.restore(step_lib.abstract_state(models.build(config), config, here), step)
  saved.close()
  # A NaN would not stop a sampler: it would sound.
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state['ema'])):
    raise InputError(f'{workdir}: the weights of step {step} are not finite; restore an '
                     'earlier checkpoint folder or train again.')
  params, masks = jax.tree.map(np.asarray, (state['ema'], state['masks']))
  return Voice(config, params, masks, _identity(workdir, step))


def _best(saved: Checkpoints, workdir) -> int:
  step = saved.newest_intact(saved.best())
  if step is None:
    raise InputError(f'{workdir}: holds no complete checkpoint; train it first.')
  return step


def _identity(workdir, step: int) -> str:
  """Tells a checkpoint from any other."""
  metadata = pathlib.Path(workdir) / 'checkpoints' / str(step) / '_CHECKPOINT_METADATA'
  # It holds when the checkpoint was written, to the nanosecond.
  return f'{step}:{hashlib.blake2b(metadata.read_bytes(), digest_size=16).hexdigest()}'


def check_same_model(where, found: Config, expected: Config) -> None:
  """Raises InputError, naming the fields, unless the weights of one config fit another.

  Args:
    where: the run or file that they are from.
    found: its config.
    expected: of this run.
  """
  changed = {}
  for part in ('model', 'mel'):
    changed |= differences(to_dict(getattr(found, part)), to_dict(getattr(expected, part)),
                           f'config.{part}')
  changed.pop('config.model.activations', None)  # how products are computed: any weights will do
  if changed:
    listed = ', '.join(f'--{n}: {old!r} there, {new!r} here' for n, (old, new) in
                       changed.items())
    raise InputError(f'{where}: its weights belong to another config: {listed}. Set '
                     'these fields to the values there.')
