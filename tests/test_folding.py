"""Folding with cross-fades: one part is the utterance, seams lose no power, rows are its runs'."""

import types

import numpy as np
import pytest
import random_models

from experiments.sweeps import folding, subscale
from wavernn_jax import commands, draw
from wavernn_jax.sampling import scan, stream

MODEL = random_models.build(kind='wavernn', lanes=1, horizon=0)


@pytest.fixture(scope='module')
def engine():
  return scan.ScanEngine(MODEL, random_models.parameters(MODEL), block_frames=4)


def test_one_part_is_the_utterance_itself(engine):
  mel = random_models.log_mel(MODEL.mel, 9)
  whole = stream.batch(engine, [mel], draw.keys(5, [0]))[0]
  np.testing.assert_array_equal(folding.fold(engine, mel, 1, seed=5), whole)
  # An utterance of fewer frames than two overlaps a part cannot be cut.
  np.testing.assert_array_equal(folding.fold(engine, mel, 2, seed=5, overlap=5), whole)


def test_parts_are_what_each_draws_and_only_overlaps_are_faded(engine):
  mel, hop = random_models.log_mel(MODEL.mel, 24), MODEL.mel.hop
  found = folding.fold(engine, mel, 3, overlap=2)
  margin, keys = MODEL.timing.margin, draw.keys(0, range(3))
  mels = [mel[:8 + margin], mel[6:16 + margin], mel[14:]]
  parts = stream.batch(engine, mels, keys)
  assert len(found) == 24 * hop
  np.testing.assert_array_equal(found[:6 * hop], parts[0][:6 * hop])
  np.testing.assert_array_equal(found[8 * hop:14 * hop], parts[1][2 * hop:8 * hop])
  np.testing.assert_array_equal(found[16 * hop:], parts[2][2 * hop:])
  ramp = (np.arange(2 * hop) + 0.5) / (2 * hop)
  faded = (np.sqrt(1 - ramp) * parts[0][6 * hop:8 * hop] + np.sqrt(ramp) * parts[1][:2 * hop])
  np.testing.assert_array_equal(
      found[6 * hop:8 * hop], np.clip(np.rint(faded), -2**15, 2**15 - 1))


def test_seams_of_noise_keep_its_power():
  rng = np.random.default_rng(0)
  parts = [rng.normal(0, 1_000, 60_000) for _ in range(2)]
  found = folding.unfold(parts, [0, 30_000], 90_000).astype(float)
  for piece in np.split(found, 9):
    assert piece.std() == pytest.approx(1_000, rel=0.03)


@pytest.mark.slow
def test_columns_of_a_plain_run_make_a_row_for_each_number_of_parts(tmp_path):
  config = subscale.configure_tiny(*subscale.PLAIN, 2)
  config.data.dir = str(commands.DEMO_SPEECH)
  commands.train(config, str(tmp_path / 'run'))
  found = folding.columns(config, tmp_path / 'run', parts=(2, 4))
  assert all(found[f'fold{b}_samples_per_second'] > 0 and found[f'fold{b}_log_mel_l1'] > 0
             for b in (2, 4))
  row = {name: '' if value is None else str(value) for name, value in found.items()}
  cells = {('wavernn', 1, 0, 2): types.SimpleNamespace(row=row, rows=[row]),
           ('fused', 2, 2, 2): types.SimpleNamespace(row={}, rows=[{}])}
  lines = folding.table(cells).splitlines()[2:]
  assert [line.split(' | ')[:3] for line in lines] == [['| 2', '2', '4'], ['| 2', '4', '4']]
  assert folding.table({('fused', 2, 2, 2): cells['fused', 2, 2, 2]}) == ''
  config.model.kind = 'fused'
  assert folding.columns(config, tmp_path) == {}
