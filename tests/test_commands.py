"""The modes of launch.py end to end on the bundled speech, and their errors."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.configs import demo, dense
from wavernn_jax import audio, commands, config as config_lib, models
from wavernn_jax.data import mel_files
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import metrics
from wavernn_jax.sampling import export
from wavernn_jax.training import checkpoints, workdir as workdir_lib

ROOT = pathlib.Path(__file__).parent.parent
TEST = commands.DEMO_SPEECH / 'test'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  config = dense.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.evaluation.free_running = 1
  commands.train(config, str(folder))
  return folder


@pytest.fixture(scope='module')
def copies(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp('copies')
  result = commands.synthesize(str(run), str(TEST), str(folder))
  return folder, result


def _read(path):
  return audio.read_audio(path, 24_000)


def test_evaluation_is_the_mean_over_whole_utterances(run):
  result = commands.evaluate(str(run), 'test')
  config = workdir_lib.read_config(run)
  model, params = models.build(config), checkpoints.load(run).params
  nats, samples = 0.0, 0
  for path in sorted(TEST.glob('*.flac')):
    pcm = _read(path)
    mel = audio.utterance_log_mel(pcm, config.mel)
    window = np.full((model.frames(len(pcm)), config.mel.bands), audio.mel_floor(config.mel))
    margin = model.timing.margin
    window[margin:margin + len(mel)] = mel[:len(window) - margin]
    parts, _ = model.nats(params, model.initial_state(1), pcm[None], window[None].astype('f4'))
    nats += sum(float(np.asarray(p, np.float64).sum()) for p in parts.values())
    samples += len(pcm)
  assert result['samples'] == samples
  assert result['nll'] == pytest.approx(nats / samples, rel=1e-6)
  assert result['nll'] == pytest.approx(result['nll_coarse'] + result['nll_fine'], rel=1e-9)
  low, high = result['nll_interval']
  assert low <= result['nll'] <= high
  assert json.loads((run / 'evaluation_test.json').read_text())['nll'] == result['nll']
  assert result['free_running']['length_error_seconds'] == 0
  cooler = commands.evaluate(str(run), 'test', temperatures=(0.5, 0.7))
  assert cooler['nll'] == result['nll'] and cooler['temperatures'] == [0.5, 0.7]
  assert cooler['free_running']['log_mel_l1'] != result['free_running']['log_mel_l1']


def test_a_result_that_cannot_be_written_has_been_printed(run, capsys):
  blocked = run / 'evaluation_valid.json'
  blocked.mkdir()
  with pytest.raises(InputError, match=r'evaluation_valid\.json'):
    commands.evaluate(str(run), 'valid')
  printed = json.loads(capsys.readouterr().out.splitlines()[-1])
  blocked.rmdir()
  assert commands.evaluate(str(run), 'valid')['nll'] == printed['nll']


def test_copy_synthesis_has_the_length_of_its_target(copies):
  folder, result = copies
  lengths = {p.stem: len(_read(p)) for p in TEST.glob('*.flac')}
  assert {p.stem: len(_read(p)) for p in folder.glob('*.wav')} == lengths
  assert result['audio_seconds'] == pytest.approx(sum(lengths.values()) / 24_000)


def test_mel_files_give_the_samples_of_their_audio(run, copies, tmp_path):
  config = workdir_lib.read_config(run)
  (tmp_path / 'mels').mkdir()
  for path in TEST.glob('*.flac'):
    mel = audio.utterance_log_mel(_read(path), config.mel)
    mel_files.write_mel(tmp_path / 'mels' / f'{path.stem}.npy', mel, config.mel)
  commands.synthesize(str(run), str(tmp_path / 'mels'), str(tmp_path / 'out'))
  for path in copies[0].glob('*.wav'):
    expected = _read(path)
    np.testing.assert_array_equal(_read(tmp_path / 'out' / path.name)[:len(expected)], expected)


def test_another_seed_gives_another_take(run, copies, tmp_path):
  commands.synthesize(str(run), str(TEST), str(tmp_path), seed=1)
  for path in copies[0].glob('*.wav'):
    assert (_read(tmp_path / path.name) != _read(path)).mean() > 0.9


def test_fine_tuning_starts_from_the_other_run_s_ema(run, tmp_path):
  config = dense.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.init_from = str(run)
  config.train.steps = 1
  config.optimizer.warmup_steps = 1  # a rate of 0 at the first step
  config.optimizer.ema_decay = 0.0  # an average of equal weights is rounded
  commands.train(config, str(tmp_path / 'tuned'))
  before, after = checkpoints.load(run).params, checkpoints.load(tmp_path / 'tuned').params
  np.testing.assert_array_equal(before['recurrent']['u'], after['recurrent']['u'])
  config.model.units = 32
  with pytest.raises(InputError, match='config.model.units: 16 there, 32 here'):
    commands.train(config, str(tmp_path / 'wider'))


@pytest.mark.parametrize(('inputs', 'reason'), [
    ('nowhere', 'no such file or folder'), ('empty', 'holds no wav'),
    ('bad', '2 of 2 inputs failed')])
def test_unusable_input_is_named_and_nothing_is_written(run, tmp_path, inputs, reason):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'bad').mkdir()
  (tmp_path / 'bad' / 'a.wav').write_text('no audio')
  np.save(tmp_path / 'bad' / 'b.npy', np.zeros((40, 50), np.float32))
  with pytest.raises(InputError, match=reason):
    commands.synthesize(str(run), str(tmp_path / inputs), str(tmp_path / 'out'))
  assert not list((tmp_path / 'out').rglob('*.wav'))


def test_unwritable_output_is_an_error_before_any_work(run, tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(InputError, match='--output'):
    commands.synthesize(str(run), str(TEST), str(tmp_path / 'file' / 'out'))


def test_evaluating_a_folder_that_is_no_run_names_it(tmp_path):
  with pytest.raises(InputError, match='holds no run'):
    commands.evaluate(str(tmp_path))
  with pytest.raises(InputError, match='--temperature_coarse: found -1.0'):
    commands.synthesize(str(tmp_path), str(TEST), str(tmp_path / 'out'), (-1.0, 1.0))


def test_demo_speaks_held_out_sentences_with_the_bundled_model(tmp_path, capsys):
  result = commands.demo(str(tmp_path / 'demo'))
  folder, mel = pathlib.Path(result['folder']), config_lib.MelConfig()
  expected = {f'voice/{p.stem}' for p in commands.DEMO_MELS.glob('*.npy')} | {
      f'other_voices/{p.stem}' for p in TEST.glob('*.flac')}
  for kind in ('wav', 'png'):
    found = {p.relative_to(folder).with_suffix('').as_posix() for p in folder.rglob(f'*.{kind}')}
    assert found == expected
  for name, target_FxM in commands._demo_targets(mel).items():  # it says that sentence
    pcm = _read(folder / f'{name}.wav')
    made_FxM = audio.utterance_log_mel(pcm, mel)[:len(target_FxM)]
    silent_FxM = np.full_like(target_FxM, audio.mel_floor(mel))
    assert metrics.log_mel_l1(target_FxM[:len(made_FxM)], made_FxM) < 0.5 * metrics.log_mel_l1(
        target_FxM, silent_FxM)
  assert result['realtime_factor'] > 0
  assert 'his friendship for Belize' in capsys.readouterr().out


def test_bundled_model_is_small_and_sparse():
  packed = export.read(str(commands.PRETRAINED)).packed
  assert commands.PRETRAINED.stat().st_size < 2_000_000
  assert packed.block == (16, 1)
  for gate in 'ure':
    # Pruned as far as its training has come: to 0.3 in the end.
    assert packed.tensors[f'recurrent.{gate}'].density < 0.95
  assert packed.config.mel == config_lib.MelConfig()


def test_demo_config_trains_on_the_bundled_speech(tmp_path):
  result = commands.train(demo.get_config('tiny'), str(tmp_path / 'run'))
  assert result['step'] == demo.get_config('tiny').train.steps
  assert np.isfinite(result['valid_nll'])
  assert demo.get_config().data.dir == str(commands.DEMO_SPEECH)


@pytest.mark.parametrize(('flags', 'reason'), [
    (['--mode=train', '--config=experiments/configs/dense.py:tiny', '--config.model.unitz=3'],
     'unitz'),
    (['--mode=train', '--config=experiments/configs/dense.py:tiny', '--config.model.units=x'],
     'units'),
    (['--mode=train', '--config=experiments/configs/dense.py:huge'], 'huge'),
    (['--mode=train', '--config=nowhere.py'], 'nowhere.py'),
    (['--workdir=run'], '--mode=train'),
])
def test_wrong_flags_are_one_clear_error(flags, reason):
  result = subprocess.run([sys.executable, 'launch.py', *flags], cwd=ROOT, text=True,
                          capture_output=True, check=False)
  assert result.returncode == 2
  assert result.stderr.startswith('error: ') and reason in result.stderr
  assert 'Traceback' not in result.stderr
