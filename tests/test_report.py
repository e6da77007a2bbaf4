"""Tables of the READMEs: written from rows, and never stale."""

import json

import pytest

from experiments import report
from experiments.sweeps import prediction, study
from wavernn_jax import files
from wavernn_jax.errors import InputError

TABLES = {'a': lambda: '| new |\n', 'b': lambda: '| b |\n'}


def test_no_table_of_a_readme_is_stale():
  names = [str(path.relative_to(report.ROOT)) for path in report.stale()]
  assert not names, 'run `python -m experiments.report` and commit what it writes'


def test_every_table_stands_on_a_page():
  text = ''.join(path.read_text() for path in report.PAGES)
  assert [name for name in report.blocks() if f'<!-- report:{name} -->' not in text] == []


def test_only_what_is_between_marks_is_rewritten():
  text = 'x\n<!-- report:a -->\n| old |\n<!-- /report -->\ny\n<!-- report:b -->\n<!-- /report -->\n'
  expected = ('x\n<!-- report:a -->\n| new |\n<!-- /report -->\n'
              'y\n<!-- report:b -->\n| b |\n<!-- /report -->\n')
  assert report.rewritten(text, TABLES, 'PAGE') == expected
  assert report.rewritten(expected, TABLES, 'PAGE') == expected


@pytest.mark.parametrize('text, problem', [
    ('<!-- report:c -->\n<!-- /report -->', 'PAGE: found the mark <!-- report:c -->, expected one'),
    ('<!-- report:a -->\n| x |\n', 'PAGE: found the mark <!-- report:a --> alone'),
    ('| x |\n<!-- /report -->', 'PAGE: found the mark <!-- /report --> alone'),
    ('<!-- report:a -->\n<!-- report:b -->\n<!-- /report -->',
     'PAGE: found the mark <!-- report:b --> alone')])
def test_marks_that_belong_to_nothing_are_named(text, problem):
  with pytest.raises(InputError) as error:
    report.rewritten(text, TABLES, 'PAGE')
  assert str(error.value).startswith(problem)


def test_an_edited_figure_is_found_and_put_right(tmp_path, monkeypatch):
  page, original = tmp_path / 'README.md', report.PAGES[-1].read_text()
  page.write_text(original.replace('| uniform | 5.545 | 5.545 | 11.090 |',
                                   '| uniform | 5.545 | 5.545 | 11.080 |'))
  monkeypatch.setattr(report, 'PAGES', (page,))
  (text,) = report.stale().values()
  assert text == original
  files.write_text(page, text)
  assert report.stale() == {}


def test_a_study_without_rows_says_by_which_command_they_come(tmp_path, monkeypatch):
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  for table in (report.study_table(prediction.STUDY, prediction.STUDY.results()),
                report.tuning_table(prediction.STUDY)):
    assert 'python -m experiments.sweeps.prediction --do=run' in table


def test_evaluations_stand_beside_their_baselines(tmp_path):
  path = tmp_path / 'evaluation_test.json'
  scores = {'nll_coarse': 1.0, 'nll_fine': 5.0, 'nll': 6.0}
  path.write_text(json.dumps(scores | {
      'baselines': {'flac': {'nll': 7.0}, 'uniform': scores | {'nll': 11.0}},
      **{f'{name}_interval': [value - 0.5, value + 0.25] for name, value in scores.items()}}))
  assert report.evaluation_table(path, 'mine').splitlines()[2:] == [
      '| flac |  |  | 7.000 |', '| uniform | 1.000 | 5.000 | 11.000 |',
      '| mine | 1.000 [0.500, 1.250] | 5.000 [4.500, 5.250] | 6.000 [5.500, 6.250] |']
  path.write_text('{')
  with pytest.raises(InputError, match='evaluation_test.json: found'):
    report.evaluation_table(path, 'mine')
