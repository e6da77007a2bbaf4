"""The report of the paper's systems: from runs to table, page and ratings; what is left out."""

import csv
import dataclasses
import json

import pytest

from experiments import systems_report
from experiments.listening import document
from experiments.sweeps import cells as cells_lib, ljspeech, paper, rows as rows_lib, study
from wavernn_jax import commands, rules
from wavernn_jax.errors import InputError


def test_the_command_makes_runs_table_page_and_means_of_ratings(tmp_path, monkeypatch, capsys):
  variant = paper.variant('tiny', 3, (0,), 0, (3e-3,), systems=('dense', 'sparse'))
  monkeypatch.setattr(paper, 'STUDY', dataclasses.replace(
      paper.STUDY, variants={'ci': lambda: variant}))
  result = systems_report.run('ci', str(commands.DEMO_SPEECH), tmp_path)
  assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
  assert (result['systems'], result['left_out']) == (2, [])
  folder = tmp_path / 'report'
  with open(folder / 'systems.csv', newline='') as file:
    header, *rows = csv.reader(file)
  evaluation = json.loads((tmp_path / 'runs/sparse_u3_s0/evaluation_test.json').read_text())
  assert header[6:8] == ['NLL (nats/sample)', 'difference to dense']
  dense, sparse = (dict(zip(header, row, strict=True)) for row in rows)
  assert sparse['NLL (nats/sample)'].startswith(f'{evaluation["nll"]:.3f} [')
  assert dense['difference to dense'] == '' and sparse['difference to dense'][0] in '+-'
  assert float(sparse['cpu: samples/s (times real time)'].split()[0].replace(',', '')) > 1_000
  text = (folder / 'systems.md').read_text()
  assert '--run=ci --data_dir=demo_speech' in text and 'a gain of g adds up to ln g' in text
  assert (folder / 'systems.png').stat().st_size > 1_000
  page = (folder / 'report.html').read_text()
  assert '<h2>Systems</h2>' in page and '<h2>Sources</h2>' in page
  manifest = document.read_manifest(folder / 'report.html')
  assert manifest.systems == ['dense', 'sparse'] and len(manifest.sentences) == 3

  monkeypatch.setattr(commands, 'train', lambda *args: 1 / 0)  # all is there
  assert systems_report.run('ci', str(commands.DEMO_SPEECH), tmp_path) == result
  assert document.read_manifest(folder / 'report.html') == manifest
  _check_ratings(tmp_path, manifest)


def _check_ratings(workdir, manifest):
  sentences = list(manifest.sentences)
  def rating(value, sentence, name='dense'):
    return {'kind': 'mos', 'sentence': sentence, 'names': [name], 'value': value}
  for listener, values in (('a', (4, 3, 5)), ('b', (2, 3, 9))):
    (workdir / f'{listener}.json').write_text(json.dumps({
        'schema': 'wavernn-listening-ratings', 'version': 1, 'report': manifest.identity,
        'listener': listener, 'ratings': [
            rating(v, s) for v, s in zip(values, sentences, strict=True)]}))
  files = [str(workdir / f'{name}.json') for name in 'aba']
  result = systems_report.rate(files, workdir)
  (mos,) = result['mos']
  assert mos['mean'] == pytest.approx((4 + 3 + 5 + 2 + 3) / 5)
  assert mos['low'] < mos['mean'] < mos['high']
  assert [('doubled' in p, 'found the value 9' in p) for p in result['problems']] == [
      (False, True), (True, False)]
  assert 'Left out:' in (workdir / 'report' / 'ratings.md').read_text()


# What may stand in one table


def _row(path, title, seed=0, nll=5.0, corpus='c', utterances=('u', 'v'), **fields):
  name = f'{title}_u3_s{seed}'
  rows_lib.replace_rows(path.with_name('utterances.csv'), name, [
      {'name': name, 'utterance': u, 'samples': 100, 'nats_coarse': 100, 'nats_fine': 100 * nll}
      for u in utterances])
  rows_lib.replace_rows(path, name, [{
      'name': name, 'size': 'tiny', 'title': title, 'seed': seed, 'nll': nll, 'parameters': 10,
      'sequential': 5, 'batch': 4, 'crop': 300, 'updates': 3, 'corpus': corpus, 'mel': 'm 1',
      'latency_seconds': 0.2, 'scan_samples_per_second': 48_000, 'scan_realtime_factor': 2,
      'command': 'do', 'commit': 'abc', 'hardware': 'h', 'date': 'd'} | fields])


@pytest.fixture
def runs(tmp_path):
  path = tmp_path / 'results' / 'runs.csv'
  _row(path, 'dense')
  _row(path, 'dense', 1)
  _row(path, 'wavenet', nll=4.5)
  return path


def _find(tmp_path, failed=''):
  variant = paper.variant('tiny', 3, (0,), 0, (3e-3,), ('dense', 'wavenet', 'sparse', 'fused'))
  return systems_report.find(variant, tmp_path, failed)


def test_mixed_failed_and_missing_runs_are_named_and_left_out(runs, tmp_path):
  _row(runs, 'sparse', corpus='other')
  _row(runs, 'fused', utterances=())  # diverged
  found = _find(tmp_path, '1 runs failed\nsparse_u3_s1: no space')
  assert [name[2] for name in found.cells] == ['dense', 'wavenet']
  assert [p.partition(':')[0] if 'fused_u3' not in p else 'fused_u3' for p in found.problems] == [
      'fused_u3', 'sparse, 3 updates', '1 runs failed', 'sparse_u3_s1', 'sparse', 'fused']
  assert 'other recordings (other in place of c)' in found.problems[1]


def test_one_seed_of_another_convention_keeps_its_system_out(runs, tmp_path):
  _row(runs, 'wavenet', 1, mel='m 2')
  found = _find(tmp_path)
  assert [name[2] for name in found.cells] == ['dense']
  assert 'wavenet, 3 updates: left out: has other mel convention (m 2' in found.problems[0]


def test_a_folder_without_a_finished_run_says_so(tmp_path):
  with pytest.raises(InputError, match='holds no finished run.\ndense: no finished run'):
    _find(tmp_path)


def test_rows_have_intervals_differences_and_gaps_with_their_reason(runs, tmp_path):
  _row(runs, 'sparse', nll=5.5, cpu_samples_per_second=240_000, cpu_realtime_factor=10)
  header, rows = paper.system_rows(_find(tmp_path).cells)
  dense, wavenet, sparse = (dict(zip(header, row, strict=True)) for row in rows)
  assert dense['NLL (nats/sample)'] == '6.000 [6.000, 6.000]'
  assert (wavenet['coarse'], wavenet['fine']) == ('1.000 [1.000, 1.000]', '4.500 [4.500, 4.500]')
  assert (wavenet['difference to dense'], wavenet['over utterances'], wavenet['over seeds']) == (
      '-0.500', '[-0.500, -0.500]', '')
  speeds = [row[f'{e}: samples/s (times real time)'] for row in (dense, sparse)
            for e in ('scan', 'cpu')]
  assert speeds == ['48,000 (2.00)', 'does not run it', '48,000 (2.00)', '240,000 (10.00)']
  _row(runs, 'fused', cpu_missing='--config.model.kind: found fused')
  cells = _find(tmp_path).cells
  assert paper.gaps(cells) == ['fused has no figure of cpu: --config.model.kind: found fused.']
  assert paper.gaps(cells)[0] in paper.table(cells)
  assert dense['voicing F1'] == 'not voiced' and dense['latency (s)'] == '0.20'


@pytest.mark.parametrize('size', list(paper.STUDY.variants))
def test_every_system_of_a_size_can_be_and_sees_as_much(size):
  variant = paper.STUDY.variant(size)
  configs = [s.configure(s.lengths[0]) for s in variant.systems]
  for config in configs:
    rules.check(config)
  assert len({c.train.batch * c.train.crop * c.train.steps for c in configs}) == 1
  assert {c.model.prediction for c in configs[:-1]} == {'spectral'}
  assert configs[-1].model.prediction == 'none'


def test_a_study_without_tuning_trains_at_its_first_rate(tmp_path):
  variant = paper.STUDY.variant('tiny')
  assert study.tuning_runs(variant, 'DIR') == []
  assert set(study.tuned_rates(tmp_path / 'none.csv', variant).values()) == {3e-3}


def test_ljspeech_stands_beside_the_figures_of_others(tmp_path):
  path = tmp_path / 'runs.csv'
  _row(path, 'dense', nll=4.3, system='dense')
  cells = cells_lib.read_cells(path, ljspeech.key)
  lines = ljspeech.table(cells).splitlines()[2:]
  assert lines[0] == ('| dense, 3 updates | 5.300 [5.300, 5.300] | 22,050 Hz, gain 1, 16 bit '
                      '| `do`, abc, h, d |')
  assert [line.split(' | ')[:2] for line in lines[1:]] == [
      ['| WaveFlow', '5.30'], ['| WaveNet, mixture of logistics', 'roughly 5.5']]
  config = ljspeech.configure(100)
  rules.check(config)
  assert (config.mel.name, config.mel.sample_rate, config.model.prediction) == (
      'hifigan', 22_050, 'spectral')
