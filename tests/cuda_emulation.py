"""persistent.cu as a library for the CPU, in place of the CUDA driver."""

import functools
import pathlib
import shutil
import subprocess
import tempfile

from wavernn_jax.sampling.persistent import chips, cuda, driver

COMPILER = shutil.which('g++')
_HERE = pathlib.Path(__file__).parent
_FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def library(macros: tuple[tuple[str, int], ...]) -> str:
  """Path of the emulation compiled with macros, for a chip like an H200."""
  path = pathlib.Path(_FOLDER.name) / f'{abs(hash(macros))}.so'
  defined = dict(macros) | {'CHIP_PROCESSORS': 132, 'CHIP_SHARED_BYTES': 232_448}
  subprocess.run(
      [COMPILER, '-O1', '-U_FORTIFY_SOURCE', '-std=c++17', '-shared', '-fPIC', '-I',
       str(driver.SOURCE.parent), *(f'-D{name}={value}' for name, value in defined.items()),
       str(_HERE / 'cuda_emulation.cpp'), '-o', str(path)], check=True)
  return str(path)


def chip(params, weights: str, team: int, streams: int, teams: int = 1, taps: int = 0,
         masks=None, **defined) -> chips.Cuda:
  """The GPU kernel of chips.py with one plan whatever the batch, emulated.

  Args:
    defined: macros in place of those of the plan, or more.
  """
  def choose(operands, matrices, *_):
    macros, shared = cuda.layout(operands, matrices, team, streams)
    return cuda.Plan(team, streams, teams, tuple((dict(macros) | defined).items()), shared)

  return chips.Cuda(params, weights, masks, _Emulated(),
                    lambda macros, _: library(macros).encode(), choose, 'cpu', taps)


class _Emulated(driver.Driver):
  """Opens the library that a kernel was compiled to when it is launched."""

  def __init__(self):
    self.opened = functools.cache(driver.Driver)

  def chip(self, ordinal):
    return driver.Chip(132, 232_448, 90)

  def launch(self, image, *arguments):
    self.opened(image.decode()).launch(image, *arguments)
