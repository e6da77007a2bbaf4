"""Where independent jobs run: one after the other in this process, or on a Ray cluster.

A job is a function of one argument that finishes what an earlier attempt left
unfinished: a run continues from its checkpoint, a file that exists is skipped.
So a job whose worker dies is simply started again.
"""

import dataclasses
import os
import pathlib

import jax

from wavernn_jax.errors import InputError

_DEFAULTS = {'address': '', 'cpus': 1.0, 'gpus': 0.0, 'retries': 3}


class Stopped(Exception):
  """Raised by a job that a signal told to stop before it was done."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a job ended: its value, or the problem that left it without one."""

  job: object
  value: object = None
  problem: str = ''


class InProcess:
  """Runs jobs in this process, one after the other. A stop ends them all."""

  def run(self, function, jobs):
    """Yields the Outcome of each job. Only an InputError counts as its problem."""
    for job in jobs:
      try:
        outcome = Outcome(job, function(job))
      except InputError as error:
        outcome = Outcome(job, problem=str(error))
      except Stopped:
        return
      yield outcome


class Ray:
  """Runs jobs on the workers of a Ray cluster, in any order.

  A worker that dies is replaced and its job started again. All hosts must see
  the folders of this one under the same names.
  """

  def __init__(self, address: str = '', cpus: float = 1.0, gpus: float = 0.0, retries: int = 3):
    """Args:
      address: of the cluster; empty for one on this host, which is started if necessary.
      cpus, gpus: reserved for each job.
      retries: how many workers of a job may die before it counts as failed.

    Raises:
      InputError: if Ray is not installed or the cluster cannot be reached.
    """
    try:
      import ray
    except ImportError as error:
      raise InputError("--executor=ray: Ray is not installed; pip install 'ray>=2.40', or use "
                       '--executor=process.') from error
    # The workers need the accelerators of this host.
    jax.config.update('jax_platforms', 'cpu')
    self._ray, self._retries = ray, retries
    self._resources = {'num_cpus': cpus, 'num_gpus': gpus}
    try:
      ray.init(address or None, log_to_driver=False, include_dashboard=None if address else False,
               ignore_reinit_error=True, runtime_env={'env_vars': {'PYTHONPATH': _python_path()}})
    except (ConnectionError, RuntimeError, ValueError) as error:
      raise InputError(f'--executor=ray,address={address}: no cluster could be reached '
                       f'({str(error).splitlines()[0]}).') from error

  def run(self, function, jobs):
    """Yields the Outcome of each job as it ends. Anything that a job raises is its problem."""
    folder = os.getcwd()
    def call(job):  # the same object for all jobs of a worker: it may keep what it has built
      os.chdir(folder)
      return function(job)
    task = self._ray.remote(max_retries=self._retries, **self._resources)(call)
    waiting = {task.remote(job): job for job in jobs}
    while waiting:
      (done,), _ = self._ray.wait(list(waiting), num_returns=1)
      yield self._outcome(waiting.pop(done), done)

  def _outcome(self, job, done) -> Outcome:
    try:
      return Outcome(job, self._ray.get(done))
    except self._ray.exceptions.RayTaskError as error:
      known = isinstance(error.cause, InputError)
      return Outcome(job, problem=str(error.cause if known else error))  # else with its traceback
    except self._ray.exceptions.RayError as error:
      return Outcome(job, problem=f'{1 + self._retries} workers died while running it '
                                  f'({type(error).__name__}).')


def _python_path() -> str:
  """PYTHONPATH of the workers: they must import the code that this process runs."""
  root = str(pathlib.Path(__file__).parent.parent)
  return os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH', '')]))


def create(description: str):
  """The executor of a flag: `process`, or `ray[,address=A][,cpus=N][,gpus=N][,retries=N]`.

  Raises:
    InputError: if it is neither, or Ray cannot be used.
  """
  kind, *settings = description.split(',')
  if kind == 'process' and not settings:
    return InProcess()
  given = dict(setting.partition('=')[::2] for setting in settings)
  if kind != 'ray' or not set(given) <= set(_DEFAULTS):
    raise InputError(f'--executor: found {description!r}, expected process, or ray with any of '
                     f'{", ".join(f"{name}=…" for name in _DEFAULTS)}, separated by commas.')
  try:
    values = {name: type(_DEFAULTS[name])(value) for name, value in given.items()}
  except ValueError as error:
    raise InputError(f'--executor: found {description!r}, expected numbers ({error}).') from error
  return Ray(**values)
