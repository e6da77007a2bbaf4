"""Checkpoints (orbax, asynchronous): everything a run needs to go on.

A checkpoint holds the train state (weights, EMA, optimiser, masks, step), the
position of the data iterator and the config with its mel convention. Orbax
writes into a temporary folder and renames it when it is complete, so a kill
at any moment leaves the previous checkpoints as they were.
"""

import contextlib
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from wavernn_jax import models
from wavernn_jax.config import Config, differences, to_dict
from wavernn_jax.errors import InputError
from wavernn_jax.training import step as step_lib, workdir as workdir_lib
from wavernn_jax.voice import Voice

_METRIC = 'valid_nll'


class Checkpoints:
  """The checkpoints of one run: the last `keep` and the best by valid NLL.

  Only the process that holds the run's lock may write: it removes what a
  killed one left unfinished.
  """

  def __init__(self, workdir, keep: int = 3, read_only: bool = False):
    self._folder = pathlib.Path(workdir).resolve() / 'checkpoints'
    policy = checkpoint_managers.AnyPreservationPolicy([
        checkpoint_managers.LatestN(keep),
        checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics[_METRIC], reverse=True, n=1,
            keep_checkpoints_without_metrics=False)])
    self._manager = ocp.CheckpointManager(
        self._folder, options=ocp.CheckpointManagerOptions(
            preservation_policy=policy, create=not read_only, read_only=read_only,
            cleanup_tmp_directories=not read_only, enable_async_checkpointing=True,
            best_fn=lambda metrics: metrics[_METRIC], best_mode='min'))

  def latest(self) -> int | None:
    """The step of the last complete checkpoint, None if there is none."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """The step of the best evaluated checkpoint, or the last if none was evaluated."""
    best = self._manager.best_step()
    return self.latest() if best is None else best

  def save(self, state, data_state, config: Config, valid_nll: float | None = None) -> None:
    """Starts to save; raises what an earlier save met.

    Raises:
      InputError: if a save failed, as on a full disk. Earlier checkpoints stand.
    """
    step = int(state['step'])
    if step in self._manager.all_steps():
      return
    # A copy: the next train step reuses the buffers of its state while the
    # checkpoint is still being written.
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)),
        data=ocp.args.JsonSave(data_state),
        config=ocp.args.JsonSave(to_dict(config)))
    metrics = None if valid_nll is None else {_METRIC: valid_nll}
    with self._reporting(f'checkpoint of step {step}'):
      self._manager.save(step, args=args, metrics=metrics, force=True)

  def restore(self, like_state, step: int | None = None):
    """(train state, data iterator state) of a step, by default the last."""
    step = self.latest() if step is None else step
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like_state)
    restored = self._manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()))
    return restored['state'], restored['data']

  def wait(self) -> None:
    """Returns when all saves are complete on disk."""
    with self._reporting('the last checkpoint'):
      self._manager.wait_until_finished()

  def close(self) -> None:
    with self._reporting('the last checkpoint'):
      self._manager.close()

  def _complete(self) -> int | None:
    """As `latest`, from the disk: the manager counts saves that are under way or failed."""
    steps = [int(p.name) for p in self._folder.iterdir() if p.name.isdigit()]
    return max(steps, default=None)

  @contextlib.contextmanager
  def _reporting(self, what: str):
    """Turns whatever a save raises into one clear error."""
    try:
      yield
    except Exception as error:
      reason = str(error).split(' [')[0][-200:]  # tensorstore: paths first, then what, [where]
      raise InputError(
          f'{self._folder}: {what} could not be saved ({type(error).__name__}: … {reason}). '
          f'The last complete checkpoint is of step {self._complete()}; '
          'free disk space or mend the folder and run the same command again to go on '
          'from it.') from error


def load(workdir, expected: Config | None = None) -> Voice:
  """The voice of a run: the EMA weights of its best checkpoint.

  Args:
    workdir: of the run.
    expected: a config whose model and mel convention the run must share.

  Raises:
    InputError: if there is no complete checkpoint, its EMA is not finite, or the run is
      of another config.
  """
  config = workdir_lib.read_config(workdir)
  if expected is not None:
    _check_same_model(workdir, config, expected)
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
  step = saved.best()
  if step is None:
    raise InputError(f'{workdir}: holds no complete checkpoint; train it first.')
  return step


def _identity(workdir, step: int) -> str:
  """Tells a checkpoint from any other."""
  metadata = pathlib.Path(workdir) / 'checkpoints' / str(step) / '_CHECKPOINT_METADATA'
  # It holds when the checkpoint was written, to the nanosecond.
  return f'{step}:{hashlib.blake2b(metadata.read_bytes(), digest_size=16).hexdigest()}'


def _check_same_model(workdir, found: Config, expected: Config) -> None:
  changed = {}
  for part in ('model', 'mel'):
    changed |= differences(to_dict(getattr(found, part)), to_dict(getattr(expected, part)),
                           f'config.{part}')
  if changed:
    listed = ', '.join(f'--{n}: {old!r} there, {new!r} here' for n, (old, new) in
                       changed.items())
    raise InputError(f'{workdir}: its weights are of another config: {listed}. Set these '
                     'fields to the values there.')
