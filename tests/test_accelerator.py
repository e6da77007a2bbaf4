"""The benchmark of accelerators: what it skips, and what it reports."""

from absl import flags
import pytest

from experiments.benchmarks import accelerator


@pytest.fixture(autouse=True)
def parsed():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['accelerator'])


def test_sections_that_cannot_run_say_why_and_the_others_count(capsys):
  def measured():
    yield {'what': 'kernel', 'lanes': 2, 'samples_per_second': 96_000.0, 'target': 1_000}

  def broken():
    yield {'what': 'first', 'lanes': 1}
    raise ZeroDivisionError('no')

  rows = accelerator.run([measured, accelerator.dense, broken, accelerator.training_step])
  assert [row['section'] for row in rows] == [
      'measured', 'dense', 'broken', 'broken', 'training_step']
  assert rows[1]['reason'] == "needs a GPU or a TPU, found the platform 'cpu'"
  assert rows[3] == {'section': 'broken', 'what': 'failed', 'reason': 'ZeroDivisionError: no'}
  assert '"samples_per_second": 96000.0' in capsys.readouterr().out
  source = {'hardware': 'chip', 'jax': '0', 'commit': 'abc', 'date': 'today'}
  table = accelerator.table(rows, source).splitlines()
  assert table[4] == '| measured | kernel | 2 | 96,000 | 1,000 | 2.0 |  |'
  assert "found the platform 'cpu'" in table[5]
  axes = accelerator.picture(rows).axes[0]
  assert [line.get_label() for line in axes.lines] == ['kernel', 'target, 896 units']
  assert axes.get_title().startswith('not measured: needs a GPU')


def test_nothing_begins_after_its_time(monkeypatch):
  monkeypatch.setattr(accelerator.time, 'monotonic', iter(range(0, 10_000, 600)).__next__)
  rows = accelerator.run([accelerator.dense])
  assert rows[0]['reason'] == 'more than --minutes=8 had passed'


def test_pruned_models_have_their_share_of_blocks():
  params = accelerator.voice_of(64, 32, 0.75).params
  kernel = params['recurrent']['u'].reshape(-1, 16)
  assert (kernel != 0).any(axis=1).mean() == 0.25
