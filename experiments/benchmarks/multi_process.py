"""Training speed of two processes with a core each against one process with both.

    python -m experiments.benchmarks.multi_process --units=192 --projection=128

Both train the same global batch with the loader, take turns block by block and
are idle in between. The last line is one JSON object; `slowdown` is the time of
the pair over that of the single process, in all (a target: at most 1.1).
"""

import functools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags
import jax
from jax.sharding import NamedSharding, PartitionSpec

from experiments import cli
from experiments.benchmarks import measure, train_step
from wavernn_jax import backend, config as config_lib, models
from wavernn_jax.training import step as step_lib, stopping, world

_UNITS = flags.DEFINE_integer('units', 192, 'Hidden units, H.')
_PROJECTION = flags.DEFINE_integer('projection', 128, 'Width of the output layers, P.')
_BATCH = flags.DEFINE_integer('batch', 32, 'Crops in the global batch.')
_CROP = flags.DEFINE_integer('crop', 960, 'Samples of a crop.')
_STEPS = flags.DEFINE_integer('steps', 5, 'Updates of a timed block.')
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Timed blocks of each side.')
_SIDE = flags.DEFINE_list('side', None, 'COORDINATOR,COUNT,INDEX of a timed process; this '
                          'program sets it itself.')


def work(count: int) -> None:
  """Trains a block for every line of the standard input, and answers each."""
  config = config_lib.Config()
  config.model.units, config.model.projection = _UNITS.value, _PROJECTION.value
  config.train.batch, config.train.crop = _BATCH.value, _CROP.value
  world.check_devices(config)
  model, mesh = models.build(config), world.data_mesh()
  replicated, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ('data',)))
  state = world.replicate(step_lib.initial_state(model.init(0), config), replicated)
  step = functools.partial(step_lib.train_step, model, config,
                           mesh=mesh if mesh.size > 1 else None)
  stop = stopping.Together(False, mesh)
  if count > 1:
    step = stop.wrap(step)  # as in training
  step = backend.jit(step, donate_argnums=0, out_shardings=replicated)
  with tempfile.TemporaryDirectory() as folder:
    batches = train_step.noise_batches(model, config, folder,
                                       (jax.process_index(), jax.process_count()))
    for _ in sys.stdin:
      for _ in range(_STEPS.value):
        batch = world.split(next(batches), split)
        if count > 1:
          state, _, flag = step(state, batch, stop.flags())
          stop.read(flag)
        else:
          state, _ = step(state, batch)
      jax.block_until_ready(state)
      print('done', flush=True)
  world.leave(0)


class Side:
  """Processes that share the cores and train together."""

  def __init__(self, count: int, cores):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      port = s.getsockname()[1]
    share = len(cores) // count
    self._processes = [subprocess.Popen(
        [sys.executable, '-m', 'experiments.benchmarks.multi_process', *sys.argv[1:],
         f'--side=localhost:{port},{count},{i}'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=functools.partial(
            os.sched_setaffinity, 0, cores[i * share:(i + 1) * share])) for i in range(count)]

  def block(self) -> float:
    """Seconds of a block."""
    start = time.perf_counter()
    for process in self._processes:
      process.stdin.write('go\n')
      process.stdin.flush()
    for process in self._processes:
      line = process.stdout.readline()
      while line and line != 'done\n':  # the libraries' own lines
        line = process.stdout.readline()
      if not line:
        raise RuntimeError('a process of the benchmark ended; see its errors above')
    return time.perf_counter() - start

  def close(self) -> None:
    for process in self._processes:
      process.stdin.close()
    for process in self._processes:
      process.wait()


def main():
  if _SIDE.value:
    coordinator, count, index = _SIDE.value
    if int(count) > 1:
      world.join(coordinator, int(count), int(index))
    return work(int(count))
  cores = sorted(os.sched_getaffinity(0))[:2]
  sides = {'one_process': Side(1, cores), 'two_processes': Side(2, cores)}
  seconds = {name: [] for name in sides}
  try:
    for side in sides.values():
      side.block()  # compiles
    for _ in range(_REPEATS.value):
      for name, side in sides.items():
        seconds[name].append(side.block())
  finally:
    for side in sides.values():
      side.close()
  median = {name: statistics.median(s) for name, s in seconds.items()}
  samples = _STEPS.value * _BATCH.value * _CROP.value
  measure.report({
      'units': _UNITS.value, 'projection': _PROJECTION.value, 'batch': _BATCH.value,
      'crop': _CROP.value, 'cores': len(cores),
      'slowdown': median['two_processes'] / median['one_process'],
      **{f'{name}_samples_per_second': samples / s for name, s in median.items()}})


if __name__ == '__main__':
  cli.run(main)
