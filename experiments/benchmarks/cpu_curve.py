"""Real-time factor of the CPU sampler against the parameters that are left after pruning.

    python -m experiments.benchmarks.cpu_sampling --curve > curve.json
    python -m experiments.benchmarks.cpu_curve --json=curve.json --picture=curve.png

The paper: the time of a sample follows the count of non-zero parameters, not
the width of the layer (§3). Reads the last line of the benchmark's output.
"""

import json
import pathlib

from absl import flags
import numpy as np

from experiments import cli
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import pictures

_FOLDER = pathlib.Path(__file__).parent.parent / 'results' / 'cpu_sampling'
_RESULTS = flags.DEFINE_string(
    'json', str(_FOLDER / 'curve.json'), 'Output of --curve of the benchmark, as JSON.')
_OUTPUT = flags.DEFINE_string('picture', str(_FOLDER / 'curve.png'), 'Picture to write.')


def read_rows(path) -> list[dict]:
  """Rows of a benchmark.

  Raises:
    InputError: if the file's last line is no object with rows.
  """
  try:
    rows = json.loads(pathlib.Path(path).read_text().strip().splitlines()[-1])['rows']
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise InputError(f'--json={path}: found {error!r}, expected the output of experiments.'
                     'benchmarks.cpu_sampling, whose last line holds rows.') from error
  if not rows:
    raise InputError(f'--json={path}: holds no rows.')
  return rows


def figure(rows: list[dict]):
  """One line a width, type of weights and count of threads, on logarithmic axes."""
  result = pictures.new_figure(6.5, 4.5)
  panel = result.subplots()
  lines = sorted({(r['units'], r['weights'], r['threads']) for r in rows})
  for units, weights, threads in lines:
    points = sorted((r['parameters'], r['realtime_factor']) for r in rows
                    if (r['units'], r['weights'], r['threads']) == (units, weights, threads))
    panel.plot(*np.transpose(points), 'o-',
               label=f'{units} units, {weights}' + (f', {threads} threads' if threads > 1 else ''))
  panel.axhline(1, color='grey', linewidth=0.8)
  panel.set(xscale='log', yscale='log', xlabel='non-zero parameters',
            ylabel=f'real-time factor at 24 kHz, {rows[0]["hardware"]}')
  panel.grid(alpha=0.3, which='both')
  panel.legend(fontsize='small')
  return result


def main():
  pictures.save(figure(read_rows(_RESULTS.value)), _OUTPUT.value)
  print(json.dumps({'picture': _OUTPUT.value}))


if __name__ == '__main__':
  cli.run(main)
