"""The study of WaveRNN against WaveNet: equal cost, equal samples, equal CPU time."""

import numpy as np
import pytest

from experiments import costs
from experiments.configs import fused, subscale, wavenet
from experiments.sweeps import cells as cells_lib, rows as rows_lib, study, systems
from wavernn_jax.config import Config, ModelConfig


def test_all_systems_multiply_see_and_code_about_as_much():
  of = {s: systems.configure(*s, 3_000) for s in systems.SYSTEMS}
  sizes = {s: costs.multiplications(config) for s, config in of.items()}
  assert max(sizes.values()) < 1.05 * min(sizes.values())
  trained = {c.train.batch * (c.train.crop - c.train.burn_in) for c in of.values()}
  assert trained == {6_720} and {c.train.batch * c.train.crop for c in of.values()} == {7_680}
  crop = of['wavenet', 'spectral'].train.crop
  assert crop > 3_070 and of['wavernn', 'none'].train.crop == 1_920


def test_multiplications_and_products_one_after_the_other_are_those_of_the_equations():
  dense = Config(model=ModelConfig(units=8, projection=16))
  expected = 3 * 8 * 8 + 2 * 3 * 8 + 3 * 4 + 2 * (4 * 16 + 16 * 256)  # R, I, c_t, O_1 to O_4
  assert costs.multiplications(dense) == expected
  assert str(costs.sequence(dense)) == '5'
  assert [str(costs.sequence(c)) for c in (
      wavenet.get_config('paper'), subscale.get_config('x16'), fused.get_config('x2'))] == [
          '60', '5 / 16', '9 / 2']


def _rows(**hours):
  return [{'system': name, 'updates': '3000', 'cpu_hours': str(h)}
          for name, values in hours.items() for h in values]


def test_the_faster_of_the_pair_is_trained_for_as_long_as_the_slower_took():
  assert systems.equal_time(_rows(wavernn_spectral=[0.2]), 3_000) == {}
  both = _rows(wavernn_spectral=[0.2, 0.3], wavenet_spectral=[1.0])
  assert systems.equal_time(both, 3_000) == {'wavernn_spectral': (12_000,)}
  assert systems.equal_time(_rows(wavernn_spectral=[0.3], wavenet_spectral=[0.2]), 3_000) == {
      'wavenet_spectral': (4_500,)}
  same = _rows(wavernn_spectral=[0.2], wavenet_spectral=[0.2])
  assert systems.equal_time(same, 3_000) == {}
  # More seeds do not move the length of runs that are there.
  longer = [*both, {'system': 'wavernn_spectral', 'updates': '11000', 'cpu_hours': '1'}]
  assert systems.equal_time(longer, 3_000) == {'wavernn_spectral': (11_000,)}


def test_the_longer_runs_are_of_the_same_system_and_rate(tmp_path, monkeypatch):
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  lengths = {s.name: s.lengths for s in systems.full().systems}
  assert set(lengths.values()) == {(3_000,)} and set(systems.PAIR) < set(lengths)
  for i, row in enumerate(_rows(wavernn_spectral=[0.2], wavenet_spectral=[1.0])):
    rows_lib.replace_rows(tmp_path / 'systems' / 'runs.csv', str(i), [row | {'name': str(i)}])
  changed = {s.name: s.lengths for s in systems.full().systems}
  assert changed == lengths | {'wavernn_spectral': (3_000, 15_000)}


@pytest.fixture
def cells(tmp_path):
  path = tmp_path / 'runs.csv'
  for model, prediction, updates, nll, speed in (
      ('wavernn', 'spectral', 3_000, 5.80, 1), ('wavenet', 'spectral', 3_000, 5.70, 0.05),
      ('wavernn', 'spectral', 9_000, 5.60, 1), ('mixture', 'none', 3_000, 6.2, 1.2)):
    for seed in (0, 1):
      name = f'{model}_{prediction}_{updates}_{seed}'
      rows_lib.replace_rows(path.with_name('utterances.csv'), name, [
          {'name': name, 'utterance': 'u', 'samples': 100, 'nats_coarse': 20 * nll,
           'nats_fine': (80 + 0.1 * seed) * nll}])
      rows_lib.replace_rows(path, name, [{
          'name': name, 'model': model, 'prediction': prediction, 'updates': updates,
          'seed': seed, 'nll': (1 + 0.001 * seed) * nll, 'nll_coarse': 0.2 * nll,
          'nll_fine': 0.8 * nll, 'parameters': 1_000, 'multiplications': 900, 'sequential': 5,
          'samples_per_second': 40_000 * speed, 'speed': speed, 'batch': 4, 'crop': 1_920,
          'samples_seen': updates * 7_680, 'cpu_hours': 0.25, 'learning_rate': 0.004}])
  return cells_lib.read_cells(path, systems.key)


def test_rows_stand_beside_wavenet_at_equal_samples_and_at_equal_time(cells):
  lines = systems.table(cells).splitlines()[2:]
  assert lines[0] == (
      '| wavenet | spectral | 3,000 | 1,000 | 900 | 5 | 1.140 | 4.560 | 5.700, 5.706 |  |  |  '
      '| 2,000 | 0.05 |  |  | 0.004 | 23.0 M | 0.25 |')
  assert [line.split(' | ')[1:3] + line.split(' | ')[9:10] for line in lines[1:]] == [
      ['spectral', '3,000', '+0.100'], ['spectral', '9,000', '-0.100'],
      ['none', '3,000', '+0.500']]


def test_a_longer_wavenet_is_compared_with_the_shorter_wavernn(cells):
  cells['spectral', 'wavenet', 4_500] = cells['spectral', 'wavenet', 3_000]
  assert systems.reference_of(cells, ('spectral', 'wavenet', 4_500)) is cells[
      'spectral', 'wavernn', 3_000]


def test_the_picture_has_every_run_against_samples_time_and_speed(cells):
  found = [sorted((float(bars.lines[0].get_xdata()[0]), float(bars.lines[0].get_ydata()[0]))
                  for bars in panel.containers) for panel in systems.figures(cells)['nll.png'].axes]
  nll = sorted(cell.nll for cell in cells.values())
  assert [sorted(y for _, y in points) for points in found] == [nll] * 3
  np.testing.assert_allclose([x for x, _ in found[0]], [23.04] * 3 + [69.12])
  assert {x for x, _ in found[2]} == {2_000, 40_000, 48_000}
