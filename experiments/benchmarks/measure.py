"""What every benchmark shares: timing in one run, and where a figure comes from."""

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import time

import jax
import numpy as np

from wavernn_jax import backend, config as config_lib, draw, models, pruning
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import export as export_lib


def interleaved(functions: dict, repeats: int) -> dict[str, float]:
  """Median seconds of each function: a call of each in turn, `repeats` times.

  Taking turns lets what else runs on the machine fall on all of them alike.
  Each is called once before, to compile.
  """
  for function in functions.values():
    jax.block_until_ready(function())
  times = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      times[name].append(time.perf_counter() - start)
  return {name: statistics.median(t) for name, t in times.items()}


def compiled(function, *args):
  """The compiled function as one without arguments, for `interleaved`."""
  function = backend.jit(function)
  return lambda: function(*args)


def next_block(sampler, batch: int, started: int = 1 << 20):
  """A function that samples the next block of a batch of utterances under way.

  Args:
    sampler: of sampling/scan.py.
    batch: utterances.
    started: of `index`, so that no lane of a subscale model still waits.
  """
  model = sampler.model
  shape = batch, sampler.window, model.mel.bands
  mel_BxFxM = np.random.default_rng(0).normal(-5, 2, shape).astype(np.float32)
  state, keys = sampler.initial_state(batch), draw.keys(0, range(batch))
  state['index'] = state['index'] + started

  def function():
    nonlocal state
    pcm, state = sampler.next_block(state, mel_BxFxM, keys)
    return pcm
  return function


def case(text: str) -> tuple[int, int, float]:
  """(units, projection, density) of a flag.

  Raises:
    InputError: if it is of another form.
  """
  try:
    units, projection, density = text.split(':')
    if not 0 < float(density) <= 1:
      raise ValueError
    return int(units), int(projection), float(density)
  except ValueError as error:
    raise InputError(f'--case={text}: expected units:projection:density with a density in '
                     '(0, 1], such as 1024:512:0.05.') from error


def pruned_export(config: config_lib.Config, density: float, weights: str,
                  block: tuple[int, int] = (16, 1)) -> export_lib.Export:
  """A random model with all matrices pruned by the code that training prunes with."""
  config.pruning = config_lib.PruningConfig(
      *[1 - density] * 4, *block, start=0, steps=1, interval=1)
  params = models.build(config).init(0)
  masks = pruning.initial_masks(params, config.pruning)
  masks = pruning.update_masks(params, masks, 1, config.pruning)
  return export_lib.pack(pruning.apply_masks(params, masks), masks, config, weights)


def peak_memory_gib() -> float:
  """Highest resident memory of this process so far."""
  try:  # ru_maxrss starts at what the process that started this one held
    with open('/proc/self/status') as file:
      return next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) / 2**20
  except (OSError, StopIteration):
    pass
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def source() -> dict:
  """Commit, hardware and date of a figure."""
  here = os.path.dirname(os.path.abspath(__file__))
  git = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=here,
                       capture_output=True, text=True, check=False)
  return {'commit': git.stdout.strip() or 'unknown', 'hardware': _hardware(),
          'jax': jax.__version__, 'date': datetime.date.today().isoformat()}


def _hardware() -> str:
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return f'{jax.device_count()} × {device.device_kind}'
  try:
    with open('/proc/cpuinfo') as file:
      model = next(line.split(':')[1].strip() for line in file if line.startswith('model name'))
  except (OSError, StopIteration):
    model = platform.processor() or platform.machine()
  return f'{model}, {len(os.sched_getaffinity(0))} cores'


def report(result: dict) -> None:
  """Prints the JSON object that ends a benchmark."""
  print(json.dumps(result | source()), flush=True)
