"""The world: the processes, one or many, that train one model together.

Data parallel: one mesh covers all devices of all processes. Parameters are
replicated, the global batch is split, and XLA sums the gradients. All
processes run the same program; only the first one writes files.
"""

import contextlib
import hashlib
import json
import os
import sys
import traceback

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import numpy as np

from wavernn_jax.config import Config, differences, to_dict
from wavernn_jax.errors import InputError

# Seconds without a sign of life after which a process counts as dead; JAX then
# ends the others. A connection that closes, as by kill -9, is noticed at once.
_HEARTBEAT = 30
# Fields that may differ between processes.
_LOCAL = ('dir', 'workers', 'cache_mb')


class LostPeer(InputError):
  """Another process of the world is gone, so operations that need all of them would hang."""


def join(coordinator: str | None = None, processes: int | None = None,
         process: int | None = None) -> None:
  """Joins a world of several processes if the flags or a cluster describe one.

  Call it before anything else touches a device. Does nothing if no flag is given
  and no cluster with several tasks is found.

  Args:
    coordinator: HOST:PORT of process 0, or 'auto' to let JAX find it, as on TPU pods
      whose environment does not name their hosts.
    processes: their number.
    process: index of this one.

  Raises:
    InputError: if the three are inconsistent or the other processes cannot be reached.
  """
  given = {'--coordinator': coordinator, '--num_processes': processes, '--process_id': process}
  if coordinator == 'auto' or (coordinator is None and _in_cluster()):
    where = {}
  elif all(value is None for value in given.values()):
    return
  else:
    _check_flags(given)
    where = {'coordinator_address': coordinator, 'num_processes': processes,
             'process_id': process, 'cluster_detection_method': 'deactivate'}
  try:
    jax.distributed.initialize(**where, heartbeat_timeout_seconds=_HEARTBEAT)
    # On CPUs the first operation that needs all processes waits 30 s for each. Do it now
    # that they have just met, not after one has compiled or decoded longer than another.
    gather('')
  except (RuntimeError, ValueError) as error:
    named = ', '.join(f'{n}={v}' for n, v in given.items() if v is not None)
    raise InputError(
        f'{named or "the cluster environment"}: the world could not be joined '
        f'({str(error).splitlines()[0]}); expected --coordinator=HOST:PORT of process 0, which '
        'every process can reach, the same --num_processes everywhere and --process_id from 0 '
        'on.') from error
  sys.excepthook = _leave_with_traceback


def _check_flags(given) -> None:
  missing = [name for name, value in given.items() if value is None]
  if missing:
    raise InputError(f'{" and ".join(missing)} not set; expected all of {", ".join(given)}, or '
                     'none of them for a single process.')
  coordinator, processes, process = given.values()
  if not coordinator.rpartition(':')[2].isdigit() or ':' not in coordinator:
    raise InputError(f"--coordinator: found {coordinator!r}, expected HOST:PORT of process 0, or "
                     "'auto'.")
  if not 0 <= process < processes:
    raise InputError(f'--process_id: found {process}, expected 0..{processes - 1} with '
                     f'--num_processes={processes}.')


def _in_cluster() -> bool:
  """Whether SLURM, Open MPI or a TPU pod started this process as one of several."""
  def number(name):
    return int(os.environ.get(name) or 1)
  hosts = os.environ.get('TPU_PROCESS_ADDRESSES') or os.environ.get('TPU_WORKER_HOSTNAMES', '')
  return ('SLURM_STEP_NODELIST' in os.environ and number('SLURM_NTASKS') > 1
          or number('OMPI_COMM_WORLD_SIZE') > 1
          or ',' in hosts or number('MEGASCALE_NUM_SLICES') > 1)


def leave(code: int) -> None:
  """Ends this process, in a world at once: an orderly exit would wait for all others,
  which wait for this one."""
  sys.stdout.flush()
  sys.stderr.flush()
  if jax.distributed.is_initialized():
    os._exit(code)
  sys.exit(code)


def _leave_with_traceback(*error) -> None:
  traceback.print_exception(*error)
  leave(1)


def is_first() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def share() -> tuple[int, int]:
  """(index of this process, number of processes)."""
  return jax.process_index(), jax.process_count()


def may_wait_for_others(error: BaseException) -> bool:
  """Whether it is safe to wait for the others after an error: not if one may be gone."""
  return _alone() or not isinstance(error, jax.errors.JaxRuntimeError)


def _alone() -> bool:
  return jax.process_count() == 1


def data_mesh() -> Mesh:
  """All devices on the axis `data`, those of a process side by side."""
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(devices), ('data',))


def replicate(tree, sharding):
  """Puts values that every process holds on all devices."""
  if _alone():
    return jax.device_put(tree, sharding)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(
      sharding, np.asarray(x), np.shape(x)), tree)


def split(tree, sharding):
  """Makes a global batch, split over all devices, from the piece of each process."""
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def local(tree):
  """Replicated values on this process's first device, for work that it does alone."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


def check_devices(config: Config) -> None:
  """Raises InputError unless the devices divide the batch, and every micro-batch."""
  train, devices = config.train, jax.device_count()
  if devices != jax.process_count() * jax.local_device_count():
    raise InputError(f'process {jax.process_index()} has {jax.local_device_count()} of {devices} '
                     f'devices in {jax.process_count()} processes; expected the same number in '
                     'each process.')
  if train.batch % (devices * train.accumulate):
    parts = f'{devices} devices'
    if train.accumulate > 1:
      parts += f' × {train.accumulate} micro-batches (--config.train.accumulate)'
    raise InputError(f'--config.train.batch: found {train.batch}, expected a multiple of '
                     f'{devices * train.accumulate}: {parts}. It counts the crops of all '
                     'devices together.')


# Agreement


def gather(text: str) -> list[str]:
  """The texts of all processes, in order of their index."""
  if _alone():
    return [text]
  data = np.frombuffer(text.encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.int32(len(data)))
  rows = multihost_utils.process_allgather(
      np.pad(data, (0, max(1, lengths.max()) - len(data))))
  return [row[:n].tobytes().decode() for row, n in zip(rows, lengths, strict=True)]


def add_up(values: np.ndarray) -> np.ndarray:
  """The sum of a float64 array over all processes, bit-identical in each."""
  if _alone():
    return values
  # As 32-bit words: JAX would round float64 to float32.
  words = multihost_utils.process_allgather(np.ascontiguousarray(values).view(np.uint32))
  return words.view(np.float64).sum(axis=0)


def together(function):
  """The value of `function()`. An InputError in one process is raised in all of them."""
  value, problem = None, ''
  try:
    value = function()
  except InputError as error:
    if _alone():
      raise
    problem = str(error)
  problems = gather(problem)
  if problem:
    raise InputError(problem)
  for process, other in enumerate(problems):
    if other:
      raise InputError(f'process {process}: {other}')
  return value


def of_first(function):
  """Calls `function()` in the first process only; all of them get its value.

  The value must fit JSON. An InputError is raised in all processes.
  """
  value = together(lambda: function() if is_first() else None)
  return json.loads(gather(json.dumps(value))[0])


def check_agreement(config: Config, corpus: str) -> None:
  """Raises InputError unless all processes have the same config and training audio.

  Args:
    config: of this process; the place of its files and how it reads them may differ.
    corpus: a digest of the audio in its order.
  """
  values = to_dict(config)
  values['data'] = {k: v for k, v in values['data'].items() if k not in _LOCAL}
  mine = json.dumps({'config': values, 'corpus': corpus}, sort_keys=True)
  if len(set(gather(hashlib.blake2b(mine.encode()).hexdigest()))) == 1:
    return
  first, *others = (json.loads(text) for text in gather(mine))
  process, other = next((i, o) for i, o in enumerate(others, 1) if o != first)
  found = differences(first['config'], other['config'])
  listed = '\n'.join(f'  --{name}: {a!r} in process 0, {b!r} in process {process}'
                     for name, (a, b) in found.items())
  raise InputError(
      f'the processes of this world disagree:\n{listed}\nStart all with the same flags.' if found
      else f'--config.data.dir: process {process} found other training audio than process 0; '
      'give both the same files under the same names.')


def check_shared(path) -> None:
  """Raises InputError unless all processes see a file that the first has just written."""
  def written():
    try:
      with open(path) as file:  # opening asks the server of a network file system again
        return str(os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
      return 'missing'
  times = gather(written())
  for process, time in enumerate(times):
    if time != times[0]:
      raise InputError(
          f'--workdir={path.parent}: process {process} does not see the {path.name} that process '
          '0 wrote; expected one folder on a file system that all hosts share.')


@contextlib.contextmanager
def noticing_lost_peers():
  """Turns the failure of a collective operation into one clear error.

  Raises:
    LostPeer: if a process of the world went away.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if _alone() or 'RESOURCE_EXHAUSTED' in str(error):
      raise
    raise LostPeer(
        f'process {jax.process_index()} of {jax.process_count()} lost another one '
        f'({str(error).splitlines()[0][:200]}). Find out what ended it, then start all of them '
        'again with the same command: training goes on from the last checkpoint.') from error
