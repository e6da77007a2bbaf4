"""From the bundled corpus to a voice, resumed wherever it stopped."""

import json

import pytest
import soundfile

from experiments import speedrun
from wavernn_jax import commands
from wavernn_jax.errors import InputError


def test_a_speedrun_goes_on_where_it_stopped_and_its_scores_are_the_commands_own(
    tmp_path, monkeypatch, capsys):
  golden = json.loads((speedrun.RECORDED / 'tiny.json').read_text())
  monkeypatch.setattr(speedrun, 'RECORDED', tmp_path / 'recorded')
  folder, data = tmp_path / 'RUN', str(commands.DEMO_SPEECH)
  def killed(*args, **kwargs):
    raise KeyboardInterrupt
  with monkeypatch.context() as patched:
    patched.setattr(commands, 'export', killed)
    with pytest.raises(KeyboardInterrupt):
      speedrun.speedrun('tiny', data, folder)
  with monkeypatch.context() as patched:
    for name in ('check', 'train'):
      patched.setattr(commands, name, killed)  # are not done again
    result = speedrun.speedrun('tiny', data, folder, record=True)
  assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
  evaluation = json.loads((folder / 'run' / 'evaluation_test.json').read_text())
  assert result['scores']['evaluate.nll'] == evaluation['nll']
  assert result['scores']['evaluate_export.nll'] == pytest.approx(evaluation['nll'], abs=0.05)
  assert result['scores']['evaluate.free_running.log_mel_l1'] == (
      evaluation['free_running']['log_mel_l1'])
  assert 'nothing to expect' in result['expected_from'] and result['expected'] == {}
  for path in (commands.DEMO_SPEECH / 'test').glob('*.flac'):
    assert (soundfile.info(folder / 'audio' / f'{path.stem}.wav').frames
            == soundfile.info(path).frames)
  assert result['corpus'] == golden['corpus']
  assert result['scores'] == pytest.approx(golden['scores'], abs=0.05), (
      'If what the tiny configuration trains has changed on purpose, record it anew: '
      f'{golden["command"]} --record')
  again = speedrun.speedrun('tiny', data, folder)  # all is there
  assert again['expected'] == again['scores'] == result['scores']


def test_scores_of_other_recordings_are_not_expected(tmp_path):
  path = tmp_path / 'tiny.json'
  path.write_text(json.dumps({'corpus': 'abc', 'data': 'DIR', 'scores': {'evaluate.nll': 6.0},
                              'commit': 'c', 'hardware': 'h', 'date': 'd'}))
  assert speedrun.recorded(path, 'abc') == ({'evaluate.nll': 6.0}, 'commit c, h, d')
  expected, reason = speedrun.recorded(path, 'other')
  assert expected == {} and 'other recordings (DIR)' in reason
  line = speedrun.table({'evaluate.nll': 6.5, 'f1': None}, {'evaluate.nll': 6.0}).splitlines()
  assert line[2:] == ['| evaluate.nll | 6.000 | 6.500 |', '| f1 | – | – |']


def test_a_folder_of_another_speedrun_is_refused(tmp_path):
  speedrun.Speedrun(speedrun.configuration('tiny', 'A'), tmp_path)
  with pytest.raises(InputError, match='holds a speedrun with other config.data.dir'):
    speedrun.Speedrun(speedrun.configuration('tiny', 'B'), tmp_path)
