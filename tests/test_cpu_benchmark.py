"""The benchmark of the CPU sampler and its plot."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmarks import cpu_curve as plot, cpu_loops, cpu_sampling, measure
from wavernn_jax.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent


def _row(weights, threads, us, units=64, parameters=1000, factor=2.0, prediction='none'):
  return {'units': units, 'projection': 32, 'density': 0.25, 'block': '16x1', 'weights': weights,
          'threads': threads, 'us_per_sample': us, 'realtime_factor': factor,
          'us_engine': us + 2, 'prediction': prediction,
          'parameters': parameters, 'hardware': 'a machine'}


def test_ratios_compare_within_a_size():
  rows = [_row('bfloat16', 1, 6.0), _row('int8', 1, 4.0), _row('bfloat16', 2, 4.0),
          _row('int8', 1, 1.0, units=128), _row('bfloat16', 1, 9.0, prediction='spectral')]
  assert cpu_sampling.ratios(rows) == {
      '64:32:0.25 int8 over bfloat16, 1 threads': 1.5,
      '64:32:0.25 bfloat16, 2 threads over 1': 1.5,
      '64:32:0.25 bfloat16, 1 threads, spectral over none, loop': 1.5,
      '64:32:0.25 bfloat16, 1 threads, spectral over none, engine': 1.375}


def test_the_plot_has_a_line_for_every_width(tmp_path):
  rows = [_row('bfloat16', 1, 1.0, units, 1000 * n, 8.0 / n) for units in (64, 128)
          for n in (2, 1, 4)]
  (tmp_path / 'out.json').write_text('progress\n' + json.dumps({'rows': rows}) + '\n')
  (panel,) = plot.figure(plot.read_rows(tmp_path / 'out.json')).axes
  lines = [line for line in panel.get_lines() if line.get_marker() == 'o']
  assert [line.get_label() for line in lines] == ['64 units, bfloat16', '128 units, bfloat16']
  for line in lines:
    np.testing.assert_array_equal(line.get_xydata(), [[1000, 8], [2000, 4], [4000, 2]])


@pytest.mark.parametrize('text', ['', 'progress only', '{"rows": []}', '[]'])
def test_results_of_another_kind_are_one_clear_error(tmp_path, text):
  (tmp_path / 'out.json').write_text(text)
  with pytest.raises(InputError, match='--json='):
    plot.read_rows(tmp_path / 'out.json')


@pytest.mark.parametrize('text', ['64:32', '64:32:0', '64:32:1.5', 'a:b:c'])
def test_wrong_cases_are_named(text):
  with pytest.raises(InputError, match='--case='):
    measure.case(text)
  assert measure.case('64:32:1') == (64, 32, 1.0)


@pytest.mark.slow
def test_rows_are_of_real_exports_and_in_the_promised_form():
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.benchmarks.cpu_sampling', '--case=64:32:0.25',
       '--weights=bfloat16', '--weights=int8', '--threads=1', '--repeats=2'],
      cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  ratios, result = map(json.loads, done.stdout.strip().splitlines()[-2:])
  assert list(result) == ['rows'] and len(result['rows']) == 2
  for row, weights in zip(result['rows'], ('bfloat16', 'int8'), strict=True):
    assert (row['units'], row['projection'], row['density'], row['block'], row['weights'],
            row['threads'], row['prediction']) == (64, 32, 0.25, '16x1', weights, 1, 'none')
    assert row['realtime_factor'] == pytest.approx(1e6 / 24_000 / row['us_engine'], rel=0.01)
    assert 0 < row['us_least'] <= row['us_per_sample'] and row['product_over_read'] > 0
    assert row['import_memory_mib'] <= row['peak_memory_mib'] < 4_000
  assert list(ratios['ratios']) == ['64:32:0.25 int8 over bfloat16, 1 threads']


def test_the_reading_loop_sees_every_word():
  words = np.arange(128, dtype=np.int32)
  seen = np.zeros(64, np.int32)
  cpu_loops._read(words, seen, 1)
  np.testing.assert_array_equal(seen[:16], words.reshape(-1, 16).sum(axis=0))
