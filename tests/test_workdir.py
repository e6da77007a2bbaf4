"""The folder of a run and its journal."""

import dataclasses
import json

import pytest

from wavernn_jax import check
from wavernn_jax.config import to_dict
from wavernn_jax.errors import InputError
from wavernn_jax.training import (
  journal,
  workdir as workdir_lib,
)

# The workdir


def claim(workdir, config, corpus='c0'):
  workdir_lib.claim(workdir, config, corpus).close()


def test_a_workdir_goes_on_with_its_own_run(tiny_config, tmp_path):
  run = tmp_path / 'deep' / 'run'
  claim(run, tiny_config)
  assert workdir_lib.read_config(run) == tiny_config
  (run / 'metrics.jsonl').touch()
  tiny_config.data.workers, tiny_config.train.save_every = 2, 77  # matter to no weight
  tiny_config.evaluation.bootstrap, tiny_config.data.dir = 9, 'moved'
  claim(run, tiny_config)
  assert workdir_lib.read_config(run) == tiny_config


def test_a_workdir_of_another_run_is_rejected_by_field_and_kept(tiny_config, tmp_path):
  claim(tmp_path, tiny_config)
  before = (tmp_path / 'run.json').read_bytes()
  tiny_config.model.units, tiny_config.optimizer.learning_rate = 32, 0.5
  for _ in range(2):  # the first refusal keeps no lock
    with pytest.raises(InputError, match=r'(?s)holds another run:'
                       r'.*model\.units: the run has 16, this command 32'
                       r'.*learning_rate: the run has 0\.003, this command 0\.5'):
      claim(tmp_path, tiny_config)
  assert (tmp_path / 'run.json').read_bytes() == before


def test_a_run_of_an_earlier_prediction_gives_its_weights_alone(tiny_config, tmp_path):
  tiny_config.model.prediction, tiny_config.model.taps = 'spectral', 8
  claim(tmp_path, tiny_config)
  assert workdir_lib.read_config(tmp_path) == tiny_config
  path = tmp_path / 'run.json'
  old = json.loads(path.read_text())
  assert old.pop('version') == 4
  path.write_text(json.dumps(old))
  for refused in (lambda: claim(tmp_path, tiny_config), lambda: workdir_lib.read_config(tmp_path)):
    with pytest.raises(InputError, match='earlier prediction.*init_from'):
      refused()
  assert json.loads(path.read_text()) == old
  assert workdir_lib.read_config(tmp_path, of_weights=True) == tiny_config
  old['config']['model']['prediction'] = tiny_config.model.prediction = 'none'
  path.write_text(json.dumps(old))
  claim(tmp_path, tiny_config)


def test_a_run_of_lanes_that_hear_otherwise_is_refused(tiny_config, tmp_path):
  claim(tmp_path, tiny_config)
  path = tmp_path / 'run.json'
  old = json.loads(path.read_text()) | {'version': 2}
  for kind, prediction, fits in (('subscale', 'spectral', False), ('subscale', 'none', True),
                                 ('wavernn', 'spectral', True)):
    old['config']['model'] |= {'kind': kind, 'prediction': prediction}
    path.write_text(json.dumps(old))
    if fits:
      assert workdir_lib.read_config(tmp_path).model.kind == kind
    else:
      with pytest.raises(InputError, match='weights of an earlier form.*train it anew'):
        workdir_lib.read_config(tmp_path)


def test_a_workdir_of_other_audio_is_rejected_but_unchecked_audio_is_not_compared(
    tiny_config, tmp_path):
  claim(tmp_path, tiny_config, 'c0')
  with pytest.raises(InputError, match='was trained on other audio'):
    claim(tmp_path, tiny_config, 'c1')
  claim(tmp_path, tiny_config, '')
  with pytest.raises(InputError, match='was trained on other audio'):
    claim(tmp_path, tiny_config, 'c1')


def test_the_corpus_digest_knows_samples_not_names(tiny_config):
  train_set, valid_set = check.load_corpus(tiny_config)
  digest = workdir_lib.corpus_digest
  assert digest(train_set) == digest(train_set[::-1]) != digest(valid_set)
  assert digest(train_set) != digest(train_set[1:])
  assert digest([dataclasses.replace(u, digest=b'') for u in train_set]) == ''


def test_a_folder_of_other_files_is_no_workdir(tiny_config, tmp_path):
  (tmp_path / 'thesis.tex').touch()
  with pytest.raises(InputError, match=r"holds \['thesis.tex'\] but no run.json"):
    claim(tmp_path, tiny_config)
  (tmp_path / 'file').touch()
  with pytest.raises(InputError, match='cannot be written'):
    claim(tmp_path / 'file', tiny_config)
  with pytest.raises(InputError, match='holds no run'):
    workdir_lib.read_config(tmp_path)


def test_a_claim_that_was_killed_half_way_can_be_made_again(tiny_config, tmp_path):
  (tmp_path / '.lock').touch()
  (tmp_path / '.run.json.77.tmp').write_text('{"conf')
  claim(tmp_path, tiny_config)
  assert workdir_lib.read_config(tmp_path) == tiny_config


def test_a_damaged_run_json_is_one_clear_error(tiny_config, tmp_path):
  (tmp_path / 'run.json').write_text('{"config": {')
  with pytest.raises(InputError, match=r'run\.json: is damaged'):
    claim(tmp_path, tiny_config)


def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_new_fields(
    tiny_config, tmp_path):
  claim(tmp_path, tiny_config)
  values = to_dict(tiny_config)
  del values['train']['input_noise']
  (tmp_path / 'run.json').write_text(json.dumps({'config': values, 'corpus': 'c0'}))
  claim(tmp_path, tiny_config)
  tiny_config.train.input_noise = 0.1
  with pytest.raises(InputError, match=r'input_noise: the run has 0\.0, this command 0\.1'):
    claim(tmp_path, tiny_config)


def test_two_runs_cannot_hold_one_workdir(tiny_config, tmp_path):
  with workdir_lib.claim(tmp_path, tiny_config, 'c0'):
    with pytest.raises(InputError, match='another process is training in it'):
      claim(tmp_path, tiny_config)
  claim(tmp_path, tiny_config)


# The journal


def test_a_journal_drops_rows_after_the_step_and_a_line_cut_short(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 2, "nll": 1.5}\n{"step": 4, "nll": 1.25}\n'
                  '{"step": 6, "nll": 1.0}\n{"step": 8, "nl')
  assert [r['step'] for r in journal.read_rows(path)] == [2, 4, 6]
  again = journal.Journal(tmp_path, 4)
  again.scalars(6, {'nll': 0.1})
  again.close()
  assert journal.read_rows(path) == [
      {'step': 2, 'nll': 1.5}, {'step': 4, 'nll': 1.25}, {'step': 6, 'nll': 0.1}]


def test_a_journal_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
  full = journal.Journal(tmp_path, 0)
  full._file.close()
  full._file = open('/dev/full', 'a')
  with pytest.raises(InputError, match=r'metrics\.jsonl: cannot be written \(No space left'):
    full.scalars(1, {'nll': 1.0})
  full.close()
