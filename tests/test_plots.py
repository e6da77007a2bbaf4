"""Plots and tables of studies, from rows with known values."""

import numpy as np
import pytest

from experiments.plots import sparse_vs_dense, study, subscale
from experiments.sweeps import sweep


def _add(path, name, nll_by_utterance, seed=0, **fields):
  samples = [100, 300]
  sweep.replace_rows(path.with_name('utterances.csv'), name, [
      {'name': name, 'utterance': f'u{i}', 'samples': n, 'nats_coarse': 0.25 * nll * n,
       'nats_fine': 0.75 * nll * n}
      for i, (nll, n) in enumerate(zip(nll_by_utterance, samples, strict=True))])
  total = np.dot(nll_by_utterance, samples) / sum(samples)
  sweep.replace_rows(path, name, [{'name': name, 'nll': total, 'seed': seed, **fields}])


@pytest.fixture
def rows(tmp_path):
  path = tmp_path / 'runs.csv'
  common = {'updates': 10, 'budget': 1000, 'parameters': 1000, 'units': 8}
  _add(path, 'd0', (6.0, 7.0), 0, sparsity=0.0, block='dense', **common)
  _add(path, 'd1', (6.2, 7.2), 1, sparsity=0.0, block='dense', **common)
  _add(path, 's0', (5.9, 6.9), 0, sparsity=0.9, block='16x1', **common)
  _add(path, 'x0', (5.0, 7.3), 0, sparsity=0.9, block='4x4', **common)
  return path


def test_difference_is_paired_by_utterance(rows):
  cells = study.read_cells(rows, sparse_vs_dense.key)
  dense, sparse, blocks = (cells[10, 1000, z, b] for z, b in (
      (0.0, 'dense'), (0.9, '16x1'), (0.9, '4x4')))
  assert dense.seeds == [0, 1]
  assert dense.nll == pytest.approx((6.75 + 6.95) / 2)
  gap, low, high = study.difference(sparse, dense)
  np.testing.assert_allclose((gap, low, high), -0.2, atol=1e-9)  # the same on both
  gap, low, high = study.difference(blocks, dense)
  assert gap == pytest.approx((100 * -1.1 + 300 * 0.2) / 400)
  assert low == pytest.approx(-1.1) and high == pytest.approx(0.2)


def test_table_and_figure_have_every_cell(rows):
  cells = study.read_cells(rows, sparse_vs_dense.key)
  lines = sparse_vs_dense.table(cells).splitlines()
  assert len(lines) == 2 + 3
  assert '6.750, 6.950' in lines[2] and '-0.200 [-0.200, -0.200]' in lines[3]
  (panel,) = sparse_vs_dense.figure(cells).axes
  drawn = [float(y) for bars in panel.containers for y in bars.lines[0].get_ydata()]
  np.testing.assert_allclose(sorted(drawn), [6.65, 6.725, 6.85])


def test_a_cell_without_its_dense_model_has_no_difference(tmp_path):
  path = tmp_path / 'runs.csv'
  _add(path, 's', (5.0, 6.0), sparsity=0.5, block='16x1', updates=10, budget=1000,
       parameters=1000, units=8)
  cells = study.read_cells(path, sparse_vs_dense.key)
  assert sparse_vs_dense.table(cells).splitlines()[-1].endswith('| 5.750 |  |')
  assert sparse_vs_dense.figure(cells).axes


@pytest.fixture
def ablation(tmp_path):
  path = tmp_path / 'runs.csv'
  common = {'parameters': 1000, 'nll_coarse': 1.0, 'nll_fine': 5.0, 'latency_seconds': 0.5,
            'log_mel_l1': 1.0, 'updates': 10}
  for name, nll, kind, lanes, horizon, by_lane, speed in (
      ('plain', (6.0, 6.0), 'wavernn', 1, 0, '', 10),
      ('two', (6.1, 6.1), 'subscale', 2, 8, '6.5 5.7', 20),
      ('four', (6.2, 6.2), 'subscale', 4, 8, '6.8 6.4 6.0 5.6', 40),
      ('near', (6.4, 6.4), 'subscale', 4, 0, '7.0 6.5 6.2 5.9', 41),
      ('fused', (6.05, 6.05), 'fused', 2, 2, '6.2 5.9', 18)):
    _add(path, name, nll, kind=kind, lanes=lanes, horizon=horizon, nll_lanes=by_lane,
         samples_per_second=speed, **common)
  for name, nll, kind, lanes in (('plain20', (5.5, 5.5), 'wavernn', 1),
                                 ('four20', (5.8, 5.8), 'subscale', 4)):
    _add(path, name, nll, kind=kind, lanes=lanes, horizon=8 * (lanes > 1), samples_per_second=9,
         nll_lanes='6.1 6.0 5.7 5.4' if lanes > 1 else '', **common | {'updates': 20})
  return study.read_cells(path, subscale.key)


def test_ablation_s_panels_have_its_runs_against_lanes_horizon_and_speed(ablation):
  drawn = [{(float(x), round(float(y), 6)) for bars in panel.containers
            for x, y in zip(*bars.lines[0].get_data(), strict=True)}
           for panel in subscale.figure(ablation).axes]
  assert drawn[0] == {(1, 6.0), (2, 6.1), (4, 6.2), (2, 6.05), (1, 5.5), (4, 5.8)}
  assert drawn[1] == {(0, 6.4), (8, 6.2), (8, 5.8)}
  assert drawn[2] == {(10, 6.0), (20, 6.1), (40, 6.2), (41, 6.4), (18, 6.05), (9, 5.5), (9, 5.8)}


def test_ablation_s_table_and_lanes_compare_runs_of_one_length(ablation):
  lines = subscale.table(ablation).splitlines()
  assert len(lines) == 2 + 7 and '+0.200 [+0.200, +0.200]' in lines[5]
  assert '| 6.000 |  |' in lines[2] and '+0.300 [+0.300, +0.300]' in lines[-1]
  (panel,) = subscale.lane_figure(ablation).axes
  *_, last, zero = panel.lines
  np.testing.assert_allclose(last.get_ydata(), [0.6, 0.5, 0.2, -0.1])
  assert not any(zero.get_ydata())
