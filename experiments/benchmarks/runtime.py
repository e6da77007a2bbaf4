"""The C library of runtime/ beside the numba engine: the same random pruned model, in turns.

    python -m experiments.benchmarks.runtime > runtime.json
    python -m experiments.benchmarks.runtime --case=1024:512:0.05 --weights=int8 --block=4x4

Both run on one thread, over the same mel, with all that a user's call does: conditioning, draws.
Times are those of the processor, of all threads together, so that what else runs on the machine
counts little. The last line is one JSON object: of each engine the median and the least
microseconds a sample, `ratio`, how many times as fast the library is by medians, and the load.
"""

import ctypes
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

from absl import flags
import numpy as np

from experiments import cli
from experiments.benchmarks import measure
from wavernn_jax import config as config_lib, draw
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import cpu, export as export_lib

_CASE = flags.DEFINE_string(
    'case', '1024:512:0.05', 'units:projection:density; density 1 is dense.')
_WEIGHTS = flags.DEFINE_enum('weights', 'bfloat16', ['float32', 'bfloat16', 'int8'],
                             'Type of weights.')
_BLOCK = flags.DEFINE_enum('block', '16x1', ['16x1', '4x4'], 'Shape of blocks.')
_REPEATS = flags.DEFINE_integer('repeats', 15, 'Timed calls of each engine.', 1)
_FRAMES = flags.DEFINE_integer('frames', 16, 'Mel frames of a call.', 1, 16)
_COMPILER = flags.DEFINE_string('compiler', 'gcc', 'C compiler of the library.')
SOURCE = pathlib.Path(__file__).parents[2] / 'runtime'


def compiled(compiler: str, folder: pathlib.Path) -> ctypes.CDLL:
  """The library, as runtime/README.md builds it.

  Raises:
    InputError: if there is no such compiler.
  """
  if not shutil.which(compiler):
    raise InputError(f'--compiler={compiler}: found no such program, expected gcc or clang.')
  sources = [str(f) for f in sorted(SOURCE.glob('*.c')) if f.name != 'wavernn_say.c']
  path = folder / 'wavernn.so'
  subprocess.run([compiler, '-std=gnu11', '-O3', '-shared', '-fPIC', *sources, '-lm', '-o',
                  str(path)], check=True)
  library = ctypes.CDLL(str(path))
  library.wavernn_pull.restype = library.wavernn_push.restype = ctypes.c_size_t
  library.wavernn_kernel.restype = ctypes.c_char_p
  return library


class Runtime:
  """A stream of the library."""

  def __init__(self, path: pathlib.Path, library: ctypes.CDLL):
    self._library, self._voice, self._stream = library, ctypes.c_void_p(), ctypes.c_void_p()
    message = ctypes.create_string_buffer(160)
    if library.wavernn_open(str(path).encode(), ctypes.byref(self._voice), message):
      raise InputError(f'{path}: {message.value.decode()}')
    assert not library.wavernn_stream_new(self._voice, ctypes.byref(self._stream))
    self.kernel = library.wavernn_kernel(self._voice).decode()

  def begin(self, mel_FxM: np.ndarray, pcm: np.ndarray) -> None:
    """Hands over frames until a call fills `pcm`: the first frames give fewer samples or none."""
    while self.speak(mel_FxM, pcm) < len(pcm):
      pass

  def speak(self, mel_FxM: np.ndarray, pcm: np.ndarray) -> int:
    """Hands over frames; returns how many samples it wrote to `pcm`."""
    taken = self._library.wavernn_push(self._stream, mel_FxM.ctypes.data_as(ctypes.c_void_p),
                                       ctypes.c_size_t(len(mel_FxM)))
    made = self._library.wavernn_pull(self._stream, pcm.ctypes.data_as(ctypes.c_void_p),
                                      ctypes.c_size_t(len(pcm)))
    assert taken == len(mel_FxM)
    return made


def random_export() -> export_lib.Export:
  """The model of the flags."""
  config = config_lib.Config()
  config.model.units, config.model.projection, density = measure.case(_CASE.value)
  block = tuple(map(int, _BLOCK.value.split('x')))
  return measure.pruned_export(config, density, _WEIGHTS.value, block)


def times(functions: dict) -> dict[str, list[float]]:
  """Seconds of the processor for each call, the functions taking turns."""
  found = {name: [] for name in functions}
  for _ in range(_REPEATS.value):
    for name, function in functions.items():
      start = time.process_time()
      function()
      found[name].append(time.process_time() - start)
  return found


def main():
  export, frames = random_export(), _FRAMES.value
  mel, samples = export.config.mel, frames * export.config.mel.hop
  engine = cpu.CpuEngine(export, block_frames=frames, threads=1)
  rng = np.random.default_rng(0)
  window = rng.normal(-5, 2, (1, engine.window, mel.bands)).astype(np.float32)
  new, pcm = np.ascontiguousarray(window[0, :frames]), np.zeros(samples, np.int16)
  state, keys = engine.initial_state(1), draw.keys(0, [0])
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'voice.safetensors'
    export_lib.write(path, export)
    runtime = Runtime(path, compiled(_COMPILER.value, pathlib.Path(folder)))
    functions = {'runtime': lambda: runtime.speak(new, pcm),
                 'numba': lambda: engine.next_block(state, window, keys)}
    runtime.begin(new, pcm)
    functions['numba']()  # compiles
    found = times(functions)
    assert runtime.speak(new, pcm) == samples
  us = {name: [1e6 * t / samples for t in values] for name, values in found.items()}
  median = {name: statistics.median(values) for name, values in us.items()}
  measure.report({
      'case': _CASE.value, 'weights': _WEIGHTS.value, 'block': _BLOCK.value,
      'kernel': runtime.kernel, 'compiler': _COMPILER.value,
      'us_per_sample': {name: round(m, 3) for name, m in median.items()},
      'us_least': {name: round(min(values), 3) for name, values in us.items()},
      'realtime_factor': {name: round(1e6 / m / mel.sample_rate, 2) for name, m in median.items()},
      'ratio': round(median['numba'] / median['runtime'], 3),
      'ratio_of_least': round(min(us['numba']) / min(us['runtime']), 3),
      'load': [round(load, 1) for load in os.getloadavg()]})


if __name__ == '__main__':
  cli.run(main)
