"""Ratings: means, their intervals, and what is left out."""

import json
import re
import subprocess
import sys

import numpy as np
import processes
import pytest
from scipy import stats

from experiments.listening import document, page, ratings, tables
from wavernn_jax.errors import InputError

SENTENCES = [f's{i}' for i in range(6)]


@pytest.fixture
def manifest():
  return document.Manifest('id0', 'T', ['one', 'two', 'three'],
                           [('one', 'two'), ('one', 'three')],
                           {s: ['recording', 'one', 'two', 'three'] for s in SENTENCES})


def mos(sentence, name, value):
  return {'kind': 'mos', 'sentence': sentence, 'names': [name], 'value': value}


def ab(sentence, first, second, value):
  return {'kind': 'ab', 'sentence': sentence, 'names': [first, second], 'value': value}


@pytest.fixture
def save(tmp_path):
  def save(name, listener, given, **changes):
    path = tmp_path / name
    path.write_text(json.dumps({
        'schema': 'wavernn-listening-ratings', 'version': 1, 'report': 'id0',
        'listener': listener, 'ratings': given} | changes))
    return path
  return save


def _t_interval(values):
  return stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))


def test_one_listener_s_interval_is_scipy_s_over_items(save, manifest):
  values = [3, 4, 4, 5, 2, 3]
  path = save('a.json', 'A', [mos(s, 'one', v) for s, v in zip(SENTENCES, values, strict=True)])
  (mean,) = ratings.summarise([path], manifest).mos
  assert (mean.names, mean.ratings, mean.listeners, mean.items) == (('one',), 6, 1, 6)
  assert mean.mean == pytest.approx(3.5) and mean.over == 'items of one listener'
  assert (mean.low, mean.high) == pytest.approx(_t_interval(values))


def test_one_item_s_interval_is_scipy_s_over_listeners(save, manifest):
  values = [3, 4, 4, 5]
  paths = [save(f'{i}.json', f'L{i}', [mos('s0', 'two', v)]) for i, v in enumerate(values)]
  (mean,) = ratings.summarise(paths, manifest).mos
  assert mean.over == 'listeners, one item'
  assert (mean.low, mean.high) == pytest.approx(_t_interval(values))


def test_a_single_rating_has_no_interval(save, manifest):
  (mean,) = ratings.summarise([save('a.json', 'A', [mos('s0', 'one', 4)])], manifest).mos
  assert mean.mean == 4 and np.isnan([mean.low, mean.high]).all()


def test_listeners_who_all_say_the_same_are_as_many_as_the_sentences():
  # Each sentence gets one value from all: the interval is that of the sentences' values.
  values = np.array([3, 4, 4, 5, 2])
  low, high, over = ratings.mean_interval(
      np.tile(values, 20), np.repeat(np.arange(20), 5), np.tile(np.arange(5), 20))
  assert over == 'listeners and items'
  assert (low, high) == pytest.approx(_t_interval(values), rel=0.01)


def test_interval_over_listeners_and_items_covers_the_mean():
  rng, listeners, items, trials = np.random.default_rng(0), 10, 12, 600
  grid = np.meshgrid(np.arange(listeners), np.arange(items), indexing='ij')
  covered = narrow = 0
  for _ in range(trials):
    values = (rng.normal(3, 0.5, (listeners, 1)) + rng.normal(0, 0.5, (1, items))
              + rng.normal(0, 0.5, (listeners, items))).ravel()
    low, high, _ = ratings.mean_interval(values, grid[0].ravel(), grid[1].ravel())
    covered += low <= 3 <= high
    low, high = _t_interval(values)  # as if all ratings were independent
    narrow += low <= 3 <= high
  assert 0.92 <= covered / trials <= 0.98
  assert narrow / trials < 0.65


def test_ab_means_are_signed_by_the_report_s_order(save, manifest):
  path = save('a.json', 'A', [ab('s0', 'one', 'two', 2), ab('s1', 'two', 'one', 1),
                              ab('s2', 'two', 'one', -3), ab('s0', 'three', 'one', 2)])
  first, second = ratings.summarise([path], manifest).ab
  assert first.names == ('one', 'two') and first.mean == pytest.approx((2 - 1 + 3) / 3)
  assert (first.low, first.high) == pytest.approx(_t_interval([2, -1, 3]))
  assert second.names == ('one', 'three') and second.mean == -2


@pytest.mark.parametrize('bad, message', [
    (mos('s0', 'one', 6), r'found the value 6, expected a whole number in 1\.\.5'),
    (mos('s0', 'one', 3.5), 'found the value 3.5'), (mos('s0', 'one', '3'), "found the value '3'"),
    (mos('s0', 'one', True), 'found the value True'), (mos('s9', 'one', 3), "the sentence 's9'"),
    (mos('s0', 'four', 3), r"found \['four'\]"), (ab('s0', 'one', 'two', -4), r'in -3\.\.3'),
    (ab('s0', 'two', 'three', 1), 'does not compare'), (ab('s0', 'one', 'one', 1), 'not compare'),
    ({'kind': 'ab', 'sentence': 's0', 'names': ['one'], 'value': 1}, 'expected two of'),
    ({'kind': 'x'}, "the kind 'x'"), ({}, 'the kind None'), (7, 'the kind None')])
def test_a_malformed_rating_is_named_and_left_out(save, manifest, bad, message):
  path = save('a.json', 'A', [mos('s0', 'one', 4), bad, mos('s1', 'one', 2)])
  summary = ratings.summarise([path], manifest)
  (mean,) = summary.mos
  assert (mean.mean, mean.ratings, summary.ab) == (3, 2, [])
  (problem,) = summary.problems
  assert problem.startswith(f'{path}: rating 2 left out') and re.search(message, problem)


@pytest.mark.parametrize('content, message', [
    ('{', 'malformed'), ('[]', 'found the schema None'), ('{"schema": "x"}', "the schema 'x'"),
    (b'\xff\xfe', 'it is no text'), (None, 'cannot be read'),
    ('session_test_id,b\n1,2\n', r"found the columns \['session_test_id', 'b'\]")])
def test_a_file_without_ratings_is_named_and_left_out(save, manifest, tmp_path, content, message):
  good, bad = save('a.json', 'A', [mos('s0', 'one', 4)]), tmp_path / 'b.json'
  if content is not None:
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())
  summary = ratings.summarise([bad, good], manifest)
  assert [mean.mean for mean in summary.mos] == [4]
  (problem,) = summary.problems
  assert problem.startswith(f'{bad}: left out') and re.search(message, problem)
  with pytest.raises(InputError, match=message):
    ratings.summarise([bad], manifest)


def test_ratings_of_another_report_or_version_are_left_out(save, manifest):
  good = save('a.json', 'A', [mos('s0', 'one', 4)])
  foreign = save('b.json', 'B', [mos('s0', 'one', 1)], report='id1')
  newer = save('c.json', 'C', [mos('s0', 'one', 1)], version=2)
  summary = ratings.summarise([foreign, good, newer], manifest)
  assert [mean.mean for mean in summary.mos] == [4]
  assert [p.split(':')[0] for p in summary.problems] == [str(foreign), str(newer)]
  assert "of another report: found 'id1', expected 'id0'" in summary.problems[0]


def test_doubled_ratings_count_once_whatever_file_they_come_in(save, manifest):
  early = save('early.json', 'A', [mos('s0', 'one', 4)])
  late = save('late.json', 'A', [mos('s0', 'one', 1), mos('s1', 'one', 2), mos('s1', 'one', 5),
                                 ab('s0', 'one', 'two', 1), ab('s0', 'two', 'one', 3)])
  other = save('other.json', 'B', [mos('s0', 'one', 3)])
  summary = ratings.summarise([early, late, other], manifest)
  assert summary.mos[0].mean == pytest.approx((4 + 2 + 3) / 3) and summary.mos[0].listeners == 2
  assert [(m.mean, m.ratings) for m in summary.ab] == [(1, 1)]
  assert [p.split(' left out')[0] for p in summary.problems] == [
      f'{late}: 1 of its ratings', f'{late}: 2 of its ratings']
  assert f"'A' has given them in {early} already" in summary.problems[0]
  assert 'in this very file already' in summary.problems[1]


def test_tables_say_what_the_interval_is_over(save, manifest):
  values = [3, 4, 4, 5, 2, 3]
  path = save('a.json', 'A', [mos(s, 'one', v) for s, v in zip(SENTENCES, values, strict=True)])
  (table,) = ratings.summarise([path], manifest).tables()  # none for A/B
  low, high = _t_interval(values)
  assert table.rows == [['one', f'3.50 [{low:.2f}, {high:.2f}]', 'items of one listener', 6, 1, 6]]
  assert tables.markdown(table).splitlines()[-1] == (
      f'| one | 3.50 [{low:.2f}, {high:.2f}] | items of one listener | 6 | 1 | 6 |')


def test_the_command_prints_means_and_names_what_it_left_out(save, tmp_path, speech):
  report = document.Report('T', 8_000, [document.System('one')], [
      document.Sentence('s0', '', speech(0.2), {'one': speech(0.2, seed=1)})])
  page.write(report, tmp_path / 'report.html')
  identity = document.manifest(report).identity
  good = save('a.json', 'A', [mos('s0', 'one', 4)], report=identity)
  foreign = save('b.json', 'A', [mos('s0', 'one', 1)])
  def run(*files):
    return subprocess.run(
        [sys.executable, '-m', 'experiments.listening.ratings',
         f'--report={tmp_path}/report.html', *map(str, files)], cwd=processes.ROOT, text=True,
        env=processes.environment(), capture_output=True, check=False)
  done = run(good, foreign)
  assert done.returncode == 0, done.stderr
  assert f'warning: {foreign}: left out: of another report' in done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert (result['mos'][0]['mean'], result['mos'][0]['low'], result['ab']) == (4, None, [])
  failed = run(foreign)
  assert failed.returncode == 2 and 'no usable rating' in failed.stderr
