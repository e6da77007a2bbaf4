"""Tables and pictures of studies, from rows with known values."""

import numpy as np
import pytest
from scipy import stats

from experiments.sweeps import (
  cells as cells_lib,
  folding,
  prediction,
  rows as rows_lib,
  sparse_vs_dense,
  subscale,
)


def _add(path, name, nll_by_utterance, seed=0, names=('u0', 'u1'), **fields):
  samples = [100, 300]
  rows_lib.replace_rows(path.with_name('utterances.csv'), name, [
      {'name': name, 'utterance': u, 'samples': n, 'nats_coarse': 0.25 * nll * n,
       'nats_fine': 0.75 * nll * n}
      for u, nll, n in zip(names, nll_by_utterance, samples, strict=True)])
  total = np.dot(nll_by_utterance, samples) / sum(samples)
  rows_lib.replace_rows(path, name, [
      {'name': name, 'nll': total, 'seed': seed, 'batch': 4, 'crop': 100, **fields}])


@pytest.fixture
def rows(tmp_path):
  path = tmp_path / 'runs.csv'
  common = {'updates': 10, 'budget': 1000, 'parameters': 1000, 'units': 8}
  _add(path, 'd0', (6.0, 7.0), 0, sparsity=0.0, block='dense', **common)
  _add(path, 'd1', (6.2, 7.2), 1, sparsity=0.0, block='dense', **common)
  _add(path, 's0', (5.9, 6.9), 0, sparsity=0.9, block='16x1', **common)
  _add(path, 's1', (6.0, 7.0), 1, sparsity=0.9, block='16x1', **common)
  _add(path, 'x0', (5.0, 7.3), 0, sparsity=0.9, block='4x4', **common)
  return path


def _cells(path):
  return cells_lib.read_cells(path, sparse_vs_dense.key)


def test_difference_is_paired_by_utterance_over_the_seeds_that_both_have(rows):
  cells = _cells(rows)
  dense, sparse, blocks = (cells[10, 1000, z, b, 'none'] for z, b in (
      (0.0, 'dense'), (0.9, '16x1'), (0.9, '4x4')))
  assert dense.seeds == [0, 1]
  assert dense.nll == pytest.approx((6.75 + 6.95) / 2)
  gap = cells_lib.difference(sparse, dense)
  np.testing.assert_allclose((gap.mean, *gap.utterances), -0.15, atol=1e-9)  # same on both
  gap = cells_lib.difference(blocks, dense)  # of seed 0 alone
  assert gap.mean == pytest.approx((100 * -1.0 + 300 * 0.3) / 400)
  assert gap.utterances == pytest.approx((-1.0, 0.3)) and np.isnan(gap.seeds).all()


def test_interval_over_seeds_is_scipy_s_t_test_of_pairs(rows):
  cells = _cells(rows)
  sparse, dense = cells[10, 1000, 0.9, '16x1', 'none'], cells[10, 1000, 0.0, 'dense', 'none']
  expected = stats.ttest_rel(sparse.nll_seeds, dense.nll_seeds).confidence_interval(0.95)
  assert cells_lib.difference(sparse, dense).seeds == pytest.approx(tuple(expected))
  assert cells_lib.t_interval([1.0, 2.0, 4.0]) == pytest.approx(
      stats.ttest_1samp([1.0, 2.0, 4.0], 0).confidence_interval(0.95))


def test_cells_without_a_common_seed_are_not_compared(rows):
  _add(rows, 'x0', (5.0, 7.3), 7, sparsity=0.9, block='4x4', updates=10, budget=1000,
       parameters=1000, units=8)
  cells = _cells(rows)
  blocks, dense = cells[10, 1000, 0.9, '4x4', 'none'], cells[10, 1000, 0.0, 'dense', 'none']
  assert cells_lib.difference(blocks, dense) is None
  (line,) = (line for line in sparse_vs_dense.table(cells).splitlines() if '4x4' in line)
  assert '| 6.725 |  |  |  |' in line


@pytest.mark.parametrize('names', [('u0', 'other'), None])
def test_a_run_on_other_utterances_is_named_and_left_out(rows, names):
  if names:
    _add(rows, 'x0', (5.0, 7.3), 0, names, sparsity=0.9, block='4x4', updates=10, budget=1000,
         parameters=1000, units=8)
  else:
    rows_lib.replace_rows(rows.with_name('utterances.csv'), 'x0', [])
  with pytest.warns(UserWarning, match='runs.csv: x0 was evaluated on other utterances'):
    cells = _cells(rows)
  assert {name[3] for name in cells} == {'dense', '16x1'}


def test_table_and_figure_have_every_cell(rows):
  cells = _cells(rows)
  lines = sparse_vs_dense.table(cells).splitlines()
  assert len(lines) == 2 + 3
  assert '6.750, 6.950' in lines[2]
  assert '-0.150 | [-0.150, -0.150] | [-0.785, +0.485] |  |  |  | 0.0 M |' in lines[3]
  (panel,) = sparse_vs_dense.figures(cells)['nll.png'].axes
  drawn = [float(y) for bars in panel.containers for y in bars.lines[0].get_ydata()]
  np.testing.assert_allclose(sorted(drawn), [6.7, 6.725, 6.85])


def test_a_cell_without_its_dense_model_has_no_difference(tmp_path):
  path = tmp_path / 'runs.csv'
  _add(path, 's', (5.0, 6.0), sparsity=0.5, block='16x1', updates=10, budget=1000,
       parameters=1000, units=8)
  cells = _cells(path)
  assert '| 5.750 |  |  |  |' in sparse_vs_dense.table(cells).splitlines()[-1]
  assert sparse_vs_dense.figures(cells)['nll.png'].axes


def test_forms_of_prediction_are_compared_with_the_paper_s(tmp_path):
  path = tmp_path / 'runs.csv'
  for seed, gain in enumerate((0.4, 0.5, 0.45)):
    common = {'updates': 3_000, 'parameters': 1000, 'batch': 4, 'crop': 1_920,
              'learning_rate': 0.004}
    _add(path, f'none{seed}', (6.0, 6.5), seed, prediction='none', cpu_hours=0.25, **common)
    _add(path, f'spectral{seed}', (6.0 - gain, 6.5 - gain), seed, prediction='spectral',
         cpu_hours=0.5, voicing_f1=0.5 + 0.1 * seed, periodicity=0.8, **common)
  cells = cells_lib.read_cells(path, prediction.key)
  none, spectral = prediction.table(cells).splitlines()[2:]
  assert none == ('| 3,000 | none | 1,000 | 6.375, 6.375, 6.375 |  |  |  |  |  | 0.004 | 23.0 M '
                  '| 0.25 |')
  assert spectral == (
      '| 3,000 | spectral | 1,000 | 5.975, 5.875, 5.925 | -0.450 | [-0.450, -0.450] '
      '| [-0.574, -0.326] | 0.60 | 0.80 | 0.004 | 23.0 M | 0.50 |')
  (panel,) = prediction.figures(cells)['nll.png'].axes
  np.testing.assert_allclose([line.get_ydata() for line in panel.lines],
                             [[6.375] * 3, [5.975, 5.875, 5.925]])


@pytest.fixture
def ablation(tmp_path):
  path = tmp_path / 'runs.csv'
  common = {'parameters': 1000, 'nll_coarse': 1.0, 'nll_fine': 5.0, 'latency_seconds': 0.5,
            'log_mel_l1': 1.0, 'voicing_f1': 0.9, 'periodicity': 0.8, 'updates': 10}
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
         nll_lanes='6.1 6.0 5.7 5.4' if lanes > 1 else '', **common | {'updates': 20} | {
             f'fold2_{c}': n for c, n in (('samples_per_second', 33.0), ('voicing_f1', 0.7),
                                          ('periodicity', 0.6), ('log_mel_l1', 0.5))
             if lanes == 1})
  return cells_lib.read_cells(path, subscale.key)


def test_ablation_s_panels_have_its_runs_against_lanes_horizon_and_speed(ablation):
  drawn = [{(float(x), round(float(y), 6)) for bars in panel.containers
            for x, y in zip(*bars.lines[0].get_data(), strict=True)}
           for panel in subscale.nll_figure(ablation).axes]
  assert drawn[0] == {(1, 6.0), (2, 6.1), (4, 6.2), (2, 6.05), (1, 5.5), (4, 5.8)}
  assert drawn[1] == {(0, 6.4), (8, 6.2), (8, 5.8)}
  assert drawn[2] == {(10, 6.0), (20, 6.1), (40, 6.2), (41, 6.4), (18, 6.05), (9, 5.5), (9, 5.8)}


def test_ablation_s_table_and_lanes_compare_runs_of_one_length(ablation):
  lines, folded = (part.splitlines() for part in subscale.table(ablation).split(
      '\n\nThe plain model, folded with cross-fades:\n\n'))
  assert len(lines) == 2 + 7 and '+0.200 | [+0.200, +0.200] |' in lines[5]
  assert '| 6.000 |  |  |  |' in lines[2] and '+0.300 | [+0.300, +0.300] |' in lines[-1]
  assert folded[2:] == [f'| 20 | 2 | {folding.OVERLAP} | 33 | 0.70 | 0.60 | 0.50 |']
  (panel,) = subscale.lane_figure(ablation).axes
  *_, last, zero = panel.lines
  np.testing.assert_allclose(last.get_ydata(), [0.6, 0.5, 0.2, -0.1])
  assert not any(zero.get_ydata())
