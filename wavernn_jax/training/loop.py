"""The training loop: steps, logs, evaluations, checkpoints, and clean stops."""

import contextlib
import pathlib

from wavernn_jax import check
from wavernn_jax.config import Config
from wavernn_jax.training import run as run_lib, stopping, workdir as workdir_lib, world


def train(config: Config, workdir) -> int:
  """Starts or continues the run in `workdir`; returns the last step done.

  On SIGTERM or SIGINT it saves a checkpoint and returns early; in a world of several
  processes it is enough that one gets the signal. An evaluation under way is abandoned
  and repeated when the run continues.

  Raises:
    InputError: for bad input, before anything is written, and when the loss or
      a gradient is no longer finite.
    world.LostPeer: if another process of the world went away.
  """
  with world.noticing_lost_peers():
    train_set, valid_set = world.together(lambda: check.training(config, workdir))
    world.check_agreement(config, workdir_lib.order_digest(train_set, valid_set))
    lock = world.together(lambda: _claim(workdir, config, train_set))
    world.check_shared(pathlib.Path(workdir) / 'run.json')
  with lock, stopping.OnSignal() as told_to_stop, world.noticing_lost_peers():
    run = run_lib.Run(config, workdir, train_set, valid_set, told_to_stop)
    wait = True
    try:
      _train(run, config)
    except BaseException as error:
      wait = world.may_wait_for_others(error)
      raise
    finally:
      run.close(wait)
    return run.step


def _train(run, config: Config) -> None:
  train = config.train
  if run.missed_evaluation():
    run.save(run.evaluate())
  while run.step < train.steps and not run.stop:
    metrics = run.update()
    if run.step % train.log_every == 0:
      run.log(metrics)
    valid_nll = None
    if run.step % train.eval_every == 0 or run.step == train.steps:
      valid_nll = run.evaluate()
    if valid_nll is not None or run.step % train.save_every == 0:
      run.save(valid_nll)
  run.finish()


def _claim(workdir, config: Config, train_set):
  """The lock of the run; the first process of a world holds it."""
  if not world.is_first():
    return contextlib.nullcontext()
  return workdir_lib.claim(workdir, config, workdir_lib.corpus_digest(train_set))
