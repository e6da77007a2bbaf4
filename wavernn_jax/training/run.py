"""A run: its state, batches, checkpoints and journal, and the operations on them."""

import functools
import pathlib

from jax.sharding import NamedSharding, PartitionSpec

from wavernn_jax import backend, models
from wavernn_jax.config import Config
from wavernn_jax.data import crops as crops_lib
from wavernn_jax.errors import InputError
from wavernn_jax.training import (
  checkpoints,
  journal,
  start,
  step as step_lib,
  stopping,
  validation,
  world,
)


class Diverged(InputError):
  """The loss or a gradient of a run was not finite."""


class Run:
  """One run, in one process or many; `step` is the last step done."""

  def __init__(self, config: Config, workdir, train_set, valid_set, told_to_stop):
    """`told_to_stop`: true once this process has been told to stop."""
    self.config, self.workdir = config, pathlib.Path(workdir)
    self.model, mesh = models.build(config), world.data_mesh()
    self._told_to_stop, self.stop = told_to_stop, stopping.stop(told_to_stop, mesh)
    self._replicated = NamedSharding(mesh, PartitionSpec())
    self._split = NamedSharding(mesh, PartitionSpec('data'))
    self.batches = crops_lib.crop_batches(
        train_set, crops_lib.crop_shape(self.model, config.train.crop), config.mel,
        config.train.batch, config.train.seed, config.data.workers, world.share())
    self.checkpoints = checkpoints.Checkpoints(workdir, config.train.keep,
                                               of_first=world.of_first)
    self.state = self._resumed() or world.replicate(start.first_state(config), self._replicated)
    self.step = int(self.state['step'])
    self.train_step = self._compiled_step(mesh)
    self.validation = validation.Validation(
        self.model, config, valid_set, told_to_stop, self.stop)
    self.journal = journal.Journal(workdir, self.step) if world.is_first() else journal.Nothing()
    self.progress = journal.Progress(
        self.step, config.train.steps, config.train.batch * config.train.crop,
        config.mel.sample_rate, world.is_first())

  def _resumed(self):
    """The state of the last checkpoint, None if there is none."""
    found = self.checkpoints.resume(
        step_lib.abstract_state(self.model, self.config, self._replicated))
    if found is None:
      return None
    state, position = found
    self.batches.set_state(position)
    return state

  def _compiled_step(self, mesh):
    step = functools.partial(
        step_lib.train_step, self.model, self.config, mesh=mesh if mesh.size > 1 else None)
    return backend.jit(
        self.stop.wrap(step), donate_argnums=0, out_shardings=self._replicated)

  def missed_evaluation(self) -> bool:
    """Whether a stop prevented the evaluation that was due at this step."""
    train = self.config.train
    due = self.step and (self.step % train.eval_every == 0 or self.step == train.steps)
    return bool(due) and not self.checkpoints.evaluated(self.step)

  def update(self):
    """One step on the next batch; returns its metrics."""
    batch = self._next_batch()
    self.state, metrics = self.stop.call(self.train_step, self.state, batch)
    self.step += 1
    self.progress.advance()
    return metrics

  def _next_batch(self):
    try:
      crops = next(self.batches)
    except Exception:
      if not self._told_to_stop:
        raise
      # A signal to the process group ended the workers, too; other processes may be
      # waiting for our part of the batch.
      self.batches.set_state(self.batches.get_state())
      crops = next(self.batches)
    return world.split(crops, self._split)

  def log(self, metrics) -> None:
    metrics = {name: float(value) for name, value in metrics.items()}
    self._guard()
    rate = self.progress.report(self.step, metrics)
    self.journal.scalars(self.step, metrics | {'samples_per_second': rate})

  def evaluate(self) -> float | None:
    """Valid NLL, nats/sample; None if a stop came first."""
    self._guard()
    ema = world.local(self.state['ema'])
    found = self.validation.likelihood(ema)
    if found is None:
      return None
    self.journal.scalars(self.step, {f'valid_{name}': nll for name, nll in found.items()})
    self.progress.write(f'step {self.step}: valid {found["nll_coarse"]:.4f} coarse + '
                        f'{found["nll_fine"]:.4f} fine = {found["nll"]:.4f} nats/sample')
    if world.is_first():
      self.validation.speak(ema, self.journal, self.step)
    return found['nll']

  def save(self, valid_nll: float | None = None) -> None:
    self._guard()
    self.checkpoints.save(self.state, self.batches.get_state(), self.config, valid_nll)
    self.progress.pause(self.step)

  def finish(self) -> None:
    """Saves the last step and waits until it is on disk."""
    self.save()
    self.checkpoints.wait()
    if self.stop:
      self.progress.write(f'stopped at step {self.step}; the same command goes on from there.')

  def close(self, wait: bool) -> None:
    """`wait`: for saves under way, which in a world need all processes."""
    self.progress.close()
    self.journal.close()
    self.batches.close()
    if wait:
      self.checkpoints.close()

  def _guard(self):
    """Stops a run whose loss or gradient was not finite."""
    bad = int(self.state['nonfinite_step'])
    if bad >= 0:
      good = self.checkpoints.latest()
      kept = ('There is no checkpoint yet' if good is None else
              f'The last good checkpoint is of step {good}')
      go_on = '' if good is None else f' with --config.init_from={self.workdir}'
      raise Diverged(
          f'{self.workdir}: loss or gradient was not finite at step {bad}. {kept}. Try a lower '
          '--config.optimizer.learning_rate, a smaller --config.optimizer.clip_norm or a '
          f'longer --config.optimizer.warmup_steps in a new --workdir{go_on}; look for '
          'damaged audio too.')
