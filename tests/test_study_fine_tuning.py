"""The second voice, and the study that fine-tunes to it: masks stay, starts are compared."""

import shutil

import jax
import numpy as np
import pytest
import soundfile

from experiments import make_demo_speech, make_second_voice
from experiments.sweeps import cells as cells_lib, fine_tuning, rows as rows_lib, study
from wavernn_jax import pruning
from wavernn_jax.training import start

needs_espeak = pytest.mark.skipif(not shutil.which('espeak-ng'), reason='needs espeak-ng')


def test_jitter_moves_periods_and_loudness_as_a_larynx_does_and_not_on_average():
  rate, period = 24_000, 200
  pcm = np.sin(2 * np.pi * np.arange(4 * rate) / period)
  found = make_second_voice.jitter(pcm, rate, np.random.default_rng(0))
  assert abs(len(found) / len(pcm) - 1) < 0.03
  rising = np.flatnonzero((found[:-1] < 0) & (found[1:] >= 0))
  starts = rising + found[rising] / (found[rising] - found[rising + 1])  # of periods, exactly
  periods = np.diff(starts) / period
  assert np.mean(periods) == pytest.approx(1, abs=0.03)
  assert 0.005 < np.abs(np.diff(periods)).mean() < 0.02  # speakers: about 0.01
  peaks = np.maximum.reduceat(found, rising)[:-1]
  assert 0.01 < np.abs(np.diff(peaks)).mean() / peaks.mean() < 0.06
  again = make_second_voice.jitter(pcm, rate, np.random.default_rng(0))
  np.testing.assert_array_equal(found, again)


def test_sentences_are_many_and_none_comes_twice():
  texts = list(make_second_voice.sentences(np.random.default_rng(1)))
  assert len(texts) == len(set(texts)) == 12**4
  assert texts[0].endswith('.') and texts[0][0].isupper()


@needs_espeak
def test_each_folder_begins_the_next_and_all_are_tested_alike(tmp_path, monkeypatch):
  found = make_second_voice.make(tmp_path, [0.15, 0.05], held_out=3.0)
  def pcm(folder, split):
    return {p.relative_to(tmp_path / folder): soundfile.read(p, dtype='int16')[0]
            for p in sorted((tmp_path / folder / split).rglob('*.flac'))}
  for split in ('valid', 'test'):
    one, other = pcm('0.05', split), pcm('0.15', split)
    assert one.keys() == other.keys() and len(one) >= 1
    assert all((one[name] == other[name]).all() for name in one)
  short, long = pcm('0.05', 'train'), pcm('0.15', 'train')
  assert short.keys() < long.keys() and all((long[n] == short[n]).all() for n in short)
  for minutes, files in ((0.05, short), (0.15, long)):
    seconds = sum(map(len, files.values())) / make_demo_speech.RATE
    assert seconds == pytest.approx(found['train_seconds'][f'{minutes:g}'], abs=0.1)
    assert 60 * minutes <= seconds < 60 * minutes + 6
  again = make_second_voice.make(tmp_path / 'again', [0.05], held_out=3.0)
  assert again['test'] == found['test']


def test_what_is_fine_tuned_keeps_its_masks_and_scratch_ends_as_sparse():
  base = fine_tuning.base()
  config = fine_tuning.configure('tuned', 100)
  state = start.first_state(config)
  end = config.pruning.start + config.pruning.steps
  for path, mask in jax.tree.leaves_with_path(
      pruning.update_masks(state['params'], state['masks'], end, config.pruning)):
    names = [key.key for key in path]
    kept = base.masks
    for name in names:
      kept = kept[name]
    np.testing.assert_array_equal(mask, kept, err_msg='.'.join(names))
  scratch = fine_tuning.configure('scratch', 100)
  assert not scratch.init_from and scratch.pruning == config.pruning
  state = start.first_state(scratch)
  masks = pruning.update_masks(state['params'], state['masks'], end, scratch.pruning)
  assert pruning.count_parameters(state['params'], masks) == pytest.approx(
      base.packed.parameters, rel=0.01)


def test_each_system_trains_on_its_own_minutes():
  variant = fine_tuning.full()
  rates = {system.name: 1e-3 for system in variant.systems}
  runs = study.seed_runs(fine_tuning.STUDY, variant, rates, 'VOICE')
  assert {(r.fields['minutes'], r.config.data.dir) for r in runs} == {
      (m, f'VOICE/{m}') for m in (1, 5, 15)}
  assert {(r.fields['start'], bool(r.config.init_from)) for r in runs} == {
      ('tuned', True), ('scratch', False)}


def test_starts_are_compared_at_equal_minutes(tmp_path):
  path = tmp_path / 'runs.csv'
  for minutes, start_, nll in ((1, 'scratch', 6.0), (1, 'tuned', 5.5), (5, 'tuned', 5.0)):
    for seed in (0, 1):
      name = f'{start_}{minutes}_{seed}'
      rows_lib.replace_rows(path.with_name('utterances.csv'), name, [
          {'name': name, 'utterance': u, 'samples': 100, 'nats_coarse': 0, 'nats_fine': 100 * nll}
          for u in 'ab'])
      rows_lib.replace_rows(path, name, [{
          'name': name, 'base': 'abc', 'updates': 1_000, 'minutes': minutes, 'start': start_,
          'seed': seed, 'nll': nll, 'parameters': 10, 'batch': 4, 'crop': 1_920}])
  cells = cells_lib.read_cells(path, fine_tuning.key)
  lines = fine_tuning.table(cells).splitlines()[2:]
  assert [line.split(' | ')[2:7] for line in lines] == [
      ['1', 'scratch', '10', '6.000, 6.000', ''], ['1', 'tuned', '10', '5.500, 5.500', '-0.500'],
      ['5', 'tuned', '10', '5.000, 5.000', '']]
  (panel,) = fine_tuning.figures(cells)['nll.png'].axes
  drawn = {bars.get_label(): list(bars.lines[0].get_ydata()) for bars in panel.containers}
  assert drawn == {'scratch, 1,000 updates': [6.0], 'tuned, 1,000 updates': [5.5, 5.0]}
