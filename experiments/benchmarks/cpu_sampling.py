r"""Speed and memory of the CPU sampler: sparse and dense, each weight type, one thread and all.

    python -m experiments.benchmarks.cpu_sampling > cpu_sampling.json
    python -m experiments.benchmarks.cpu_sampling --curve > cpu_curve.json
    python -m experiments.benchmarks.cpu_sampling --case=2048:512:0.03 --weights=int8 --repeats=3
    python -m experiments.benchmarks.cpu_sampling --case=1024:512:0.05 --weights=bfloat16 \
        --threads=1 --prediction=none --prediction=spectral

Each row is a process of its own that reads an export from disk, as a user's
would; its weights are random, with every matrix pruned to the density. The
processes of a case take turns. Of each function the median over `repeats` turns
counts, since other work on the machine falls on all alike; `us_least` is the
least. The last line is one JSON object whose `rows` hold

  us_per_sample      compiled loop over samples, all threads together
  us_engine          the same with the conditioning network: what a user gets
  realtime_factor    of us_engine, at the sample rate of the model
  product_over_read  time of the five matrix products of a sample over the time of
                     a loop that only reads their packed weights
  peak_memory_mib    of the process, and `import_memory_mib` before it read the export
  first_call_s       compiling, or loading what an earlier process compiled

and the line before it how int8 compares with bfloat16, threads with one, and coding
residuals of a prediction with coding samples.
"""

import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

from absl import flags
import jax
import numpy as np

from experiments import cli
from experiments.benchmarks import cpu_loops, measure
from wavernn_jax import config as config_lib, draw
from wavernn_jax.sampling import cpu, export as export_lib
from wavernn_jax.sampling.cpu import engine, loop

CASES = ('1024:512:0.05', '2048:512:0.03', '896:448:1')
CURVE = tuple(f'{units}:512:{density}' for units in (512, 1024, 2048)
              for density in (0.02, 0.05, 0.1, 0.2, 0.4) if units * density <= 410)
_CASES = flags.DEFINE_multi_string('case', None, 'units:projection:density; density 1 is dense.')
_WEIGHTS = flags.DEFINE_multi_enum(
    'weights', None, ['float32', 'bfloat16', 'int8'], 'Types of weights; by default all three.')
_THREADS = flags.DEFINE_multi_integer(
    'threads', None, 'Utterances at a time; by default 1, and as many as there are cores.', 1)
_PREDICTION = flags.DEFINE_multi_enum(
    'prediction', ['none'], ['none', 'spectral'],
    'Whether samples are coded, or residuals of a prediction.')
_BLOCK = flags.DEFINE_enum('block', '16x1', ['16x1', '4x4'], 'Shape of blocks.')
_REPEATS = flags.DEFINE_integer('repeats', 30, 'Timed calls of each function.', 1)
_FRAMES = flags.DEFINE_integer(
    'block_frames', 16, 'Mel frames of a call of the engine.', 1)
_CURVE = flags.DEFINE_bool(
    'curve', False, 'Time many densities and widths, in bfloat16 with one thread.')


def export(units: int, projection: int, density: float, weights: str,
           prediction: str) -> export_lib.Export:
  """A random pruned model."""
  config = config_lib.Config()
  config.model.prediction = prediction
  config.model.units, config.model.projection = units, projection
  outputs, inputs = map(int, _BLOCK.value.split('x'))
  return measure.pruned_export(config, density, weights, (outputs, inputs))


def tasks(packed: export_lib.Export, threads: int, frames: int) -> dict:
  """Name -> (function, how many samples a call of it stands for)."""
  sampler = cpu.CpuEngine(packed, block_frames=frames, threads=threads)
  mel, samples = packed.config.mel, frames * packed.config.mel.hop
  rng = np.random.default_rng(0)
  window = rng.normal(-5, 2, (threads, sampler.window, mel.bands))
  window = window.astype(np.float32)
  state, keys = sampler.initial_state(threads), draw.keys(0, range(threads))
  gates, network = sampler.gates(window[0]), sampler.network
  start = engine.stream_state({name: value[0] for name, value in state.items()})
  predictor = sampler.predictor(window[0])
  short, repeats = 2 * mel.hop, max(1, 20_000_000 // packed.parameters)
  pool = concurrent.futures.ThreadPoolExecutor(threads)

  def on_all(function):
    return lambda: list(pool.map(lambda _: function(), range(threads)))

  words, loops = cpu_loops.words(network), [cpu_loops.Products(network) for _ in range(threads)]
  return {
      'engine': (lambda: sampler.next_block(state, window, keys), threads * samples),
      'loop': (on_all(lambda: loop.sample(network, gates, short, mel.hop, start,
                                          predictor=predictor)), threads * short),
      'product': (lambda: list(pool.map(lambda p: p.run(repeats), loops)), threads * repeats),
      'read': (on_all(lambda: cpu_loops.read_words(words, repeats)), threads * repeats)}


def worker(connection, path: str, threads: int, frames: int) -> None:
  """One row's process: runs a task whenever its name comes, and says how long it took."""
  imported = measure.peak_memory_gib() * 1024
  packed, start = export_lib.read(path).packed, time.perf_counter()
  functions = tasks(packed, threads, frames)
  functions['engine'][0]()
  first, peak = time.perf_counter() - start, measure.peak_memory_gib() * 1024
  for function, _ in functions.values():
    function()
  connection.send({'first_call_s': round(first, 2), 'import_memory_mib': round(imported),
                   'peak_memory_mib': round(peak), 'parameters': packed.parameters,
                   'file_bytes': os.path.getsize(path)})
  for name in iter(connection.recv, None):
    function, samples = functions[name]
    start = time.perf_counter()
    function()
    connection.send((time.perf_counter() - start) / samples)


class Row:
  """One row to be: its process and its times."""

  def __init__(self, fields: dict, path: pathlib.Path):
    self.fields = fields
    self.times = {name: [] for name in ('engine', 'loop', 'product', 'read')}
    self._connection, other = multiprocessing.get_context('spawn').Pipe()
    self._process = multiprocessing.get_context('spawn').Process(
        target=worker, args=(other, str(path), fields['threads'], _FRAMES.value), daemon=True)
    self._process.start()
    other.close()
    self.measured = self._connection.recv()  # compiled one after another: a fair first_call_s

  def turn(self) -> None:
    """Times each function once."""
    for name, times in self.times.items():
      self._connection.send(name)
      times.append(self._connection.recv())

  def finish(self, sample_rate: int) -> dict:
    """Ends the process and gives the row."""
    self._connection.send(None)
    self._process.join()
    median = {name: statistics.median(times) for name, times in self.times.items()}
    ratios = [p / r for p, r in zip(self.times['product'], self.times['read'], strict=True)]
    return self.fields | {
        'us_per_sample': _us(median['loop']), 'us_least': _us(min(self.times['loop'])),
        'us_engine': _us(median['engine']), 'us_product': _us(median['product']),
        'us_read': _us(median['read']),
        'realtime_factor': round(1 / median['engine'] / sample_rate, 3),
        'product_over_read': round(statistics.median(ratios), 3), **self.measured,
        **measure.source()}


def _us(seconds: float) -> float:
  return round(1e6 * seconds, 3)


def measure_case(text: str, weights, threads, folder: pathlib.Path) -> list[dict]:
  """The rows of one size and density, measured in turns."""
  units, projection, density = measure.case(text)
  rows = []
  for kind, prediction in itertools.product(weights, _PREDICTION.value):
    packed = export(units, projection, density, kind, prediction)
    path = folder / f'{text}.{kind}.{prediction}'
    export_lib.write(path, packed)
    rows += [Row({'units': units, 'projection': projection, 'density': density,
                  'block': _BLOCK.value, 'weights': kind, 'prediction': prediction,
                  'threads': n}, path) for n in threads]
  for _ in range(_REPEATS.value):
    for row in rows:
      row.turn()
  return [row.finish(packed.config.mel.sample_rate) for row in rows]


def ratios(rows: list[dict]) -> dict[str, float]:
  """How many times faster int8 is than bfloat16, and several threads together than one.

  Of residuals, how many times slower they are than samples: the loop, and all of the engine.
  """
  found = {}
  for row in rows:
    size = f'{row["units"]}:{row["projection"]}:{row["density"]:g}'
    weights, threads = row['weights'], row['threads']
    if row['prediction'] == 'spectral':
      plain = _counterpart(rows, row, prediction='none')
      for name, time_us in (('loop', 'us_per_sample'), ('engine', 'us_engine')):
        if plain:
          found[f'{size} {weights}, {threads} threads, spectral over none, {name}'] = (
              row[time_us] / plain[time_us])
      continue
    if weights == 'int8' and (other := _counterpart(rows, row, weights='bfloat16')):
      found[f'{size} int8 over bfloat16, {threads} threads'] = (
          other['us_per_sample'] / row['us_per_sample'])
    if threads > 1 and (other := _counterpart(rows, row, threads=1)):
      found[f'{size} {weights}, {threads} threads over 1'] = (
          other['us_per_sample'] / row['us_per_sample'])
  return {name: round(value, 3) for name, value in found.items()}


def _counterpart(rows: list[dict], row: dict, **changes) -> dict | None:
  """The row that differs in these fields only, if there is one."""
  wanted = {name: row[name] for name in (
      'units', 'projection', 'density', 'weights', 'threads', 'prediction')} | changes
  return next((r for r in rows if all(r[k] == v for k, v in wanted.items())), None)


def main():
  cases = _CASES.value or (CURVE if _CURVE.value else CASES)
  weights = _WEIGHTS.value or (['bfloat16'] if _CURVE.value else ['float32', 'bfloat16', 'int8'])
  cores = len(os.sched_getaffinity(0))
  threads = sorted(set(_THREADS.value or ([1] if _CURVE.value else [1, cores])))
  for text in cases:
    measure.case(text)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for text in cases:
      rows += measure_case(text, weights, threads, pathlib.Path(folder))
      jax.clear_caches()
  print(json.dumps({'ratios': ratios(rows)}))
  print(json.dumps({'rows': rows}), flush=True)


if __name__ == '__main__':
  cli.run(main)
