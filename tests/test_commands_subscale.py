"""Runs of several lanes through the commands of every model: stop, resume, evaluate,
synthesise; subscale ones on the bundled speech, a fused one on a small corpus."""

import json
import pathlib
import signal

import jax
import numpy as np
import pytest

from experiments.configs import fused, subscale
from wavernn_jax import audio, commands, draw, rules, sampling
from wavernn_jax.config import PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import export as export_lib, stream
from wavernn_jax.synthesis import sources
from wavernn_jax.training import checkpoints, journal, run as run_lib, workdir as workdir_lib

TEST = commands.DEMO_SPEECH / 'test'
STEPS, STOP = 6, 3


def _config(synthesize=0):
  config = subscale.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.train.steps, config.train.eval_every, config.train.log_every = STEPS, STEPS, 1
  config.evaluation.free_running, config.evaluation.synthesize = 1, synthesize
  config.pruning = PruningConfig(recurrent=0.5, hidden=0.5, output=0.5, conditioning=0.5,
                                 start=0, steps=4, interval=1)
  return config


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Two runs: one stopped by a signal and gone on with, and one undisturbed."""
  torn, whole = tmp_path_factory.mktemp('torn'), tmp_path_factory.mktemp('whole')
  _train_until_stopped(_config(), torn)
  for run in (torn, whole):
    assert commands.train(_config(synthesize=1), str(run))['step'] == STEPS  # TensorBoard
  return torn, whole


def _train_until_stopped(config, folder):
  log = run_lib.Run.log
  def stop(run, metrics):
    log(run, metrics)
    if run.step == STOP:
      signal.raise_signal(signal.SIGTERM)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run_lib.Run, 'log', stop)
    assert commands.train(config, str(folder))['step'] == STOP


def test_a_run_goes_on_as_if_it_had_not_been_stopped(runs):
  _check_equal(*runs)


def _check_equal(*runs):
  curves = [[{k: v for k, v in row.items() if k != 'samples_per_second'}
             for row in journal.read_rows(run / 'metrics.jsonl')] for run in runs]
  assert curves[0] == curves[1]
  assert [row['step'] for row in curves[0] if 'nll' in row] == list(range(1, STEPS + 1))
  jax.tree.map(np.testing.assert_array_equal, *(checkpoints.load(r).params for r in runs))


def test_evaluation_reports_every_lane(runs):
  result = commands.evaluate(str(runs[0]), 'test')
  assert len(result['nll_lanes']) == 4
  assert np.mean(result['nll_lanes']) == pytest.approx(result['nll'], rel=1e-4)
  assert result['nll'] == pytest.approx(result['nll_coarse'] + result['nll_fine'], rel=1e-9)
  written = json.loads((runs[0] / 'evaluation_test.json').read_text())
  assert {name: written[name] for name in result} == result
  assert result['free_running']['length_error_seconds'] == 0


def test_a_folder_a_stream_and_the_export_of_a_file_sound_alike(runs, tmp_path):
  run, file = str(runs[0]), sorted(TEST.glob('*.flac'))[0]
  commands.synthesize(run, str(TEST), str(tmp_path / 'folder'))
  commands.export(run, str(tmp_path / 'x.safetensors'), weights='float32')
  result = commands.synthesize('', str(file), str(tmp_path / 'export'),
                               model=str(tmp_path / 'x.safetensors'), engine='scan')
  assert result['engine'] == 'scan'
  lengths = {p.stem: len(audio.read_audio(p, 24_000)) for p in TEST.glob('*.flac')}
  made = {p.stem: audio.read_audio(p, 24_000) for p in (tmp_path / 'folder').glob('*.wav')}
  assert {name: len(pcm) for name, pcm in made.items()} == lengths
  config = workdir_lib.read_config(run)
  mel = audio.utterance_log_mel(audio.read_audio(file, 24_000), config.mel)
  key = draw.keys(0, [sources.Source(file.stem, mel, 0).utterance])
  streamed = np.concatenate(list(stream.stream(
      sampling.open(checkpoints.load(run)), np.array_split(mel, 7), key)))
  pcm = audio.read_audio(tmp_path / 'export' / f'{file.stem}.wav', 24_000)
  np.testing.assert_array_equal(streamed[:len(pcm)], pcm)
  assert (made[file.stem] == pcm).mean() > 0.99  # another batch size rounds otherwise


def test_a_pruned_run_is_exported_in_blocks_and_evaluated_from_the_export(runs, tmp_path):
  path = str(tmp_path / 'x.safetensors')
  commands.export(str(runs[0]), path, weights='float32', sparse_only=True)
  tensors = export_lib.read(path).packed.tensors
  for name in ('recurrent.u', 'outputs.fine.hidden.kernel', 'outputs.coarse.output.kernel',
               'context.gates.kernel', 'conditioning.gates.kernel'):
    assert tensors[name].density == pytest.approx(0.5, abs=0.02)
  result = commands.evaluate('', 'test', str(commands.DEMO_SPEECH), path)
  assert result['engine'] == 'scan'  # the CPU engine has no lanes
  written = json.loads((runs[0] / 'evaluation_test.json').read_text())
  for name in ('nll_coarse', 'nll_fine', 'nll_lanes'):
    assert result[name] == pytest.approx(written[name], rel=1e-5)
  assert result['free_running']['length_error_seconds'] == 0


@pytest.mark.slow
def test_a_fused_run_goes_on_is_evaluated_exported_and_heard(corpus, tiny_config, tmp_path):
  config = fused.get_config('tiny')
  config.data, config.mel, config.evaluation = (
      tiny_config.data, tiny_config.mel, tiny_config.evaluation)
  config.train.crop, config.train.log_every, config.train.eval_every = 200, 1, STEPS
  config.train.steps, config.evaluation.free_running, config.evaluation.synthesize = STEPS, 1, 0
  torn, whole = tmp_path / 'torn', tmp_path / 'whole'
  _train_until_stopped(config, torn)
  for run in (torn, whole):
    assert commands.train(config, str(run))['step'] == STEPS
  _check_equal(torn, whole)

  result = commands.evaluate(str(torn), 'test')
  assert len(result['nll_lanes']) == 2
  assert np.mean(result['nll_lanes']) == pytest.approx(result['nll'], rel=1e-4)
  assert result['free_running']['length_error_seconds'] == 0

  file, exported = next((corpus / 'test').iterdir()), tmp_path / 'x.safetensors'
  commands.export(str(torn), str(exported), weights='float32')
  made = [commands.synthesize(str(torn), str(file), str(tmp_path / 'run')),
          commands.synthesize('', str(file), str(tmp_path / 'export'), model=str(exported))]
  assert [result['engine'] for result in made] == ['scan', 'scan']
  pcm = [audio.read_audio(tmp_path / folder / f'{file.stem}.wav', config.mel.sample_rate)
         for folder in ('run', 'export')]
  np.testing.assert_array_equal(*pcm)
  assert len(pcm[0]) == len(audio.read_audio(file, config.mel.sample_rate))
  with pytest.raises(InputError, match="engine=cpu: found model.kind = 'fused', expected 'wavern"):
    commands.synthesize(str(torn), str(file), str(tmp_path / 'cpu'), engine='cpu')


@pytest.mark.parametrize('kind, variant', [
    *[(subscale, v) for v in ('x16', 'small', 'tiny')],
    *[(fused, v) for v in ('x2', 'small', 'tiny')]])
def test_every_variant_is_possible_and_keeps_what_it_shares_with_dense(kind, variant):
  config = kind.get_config(variant)
  rules.check(config)
  assert f'{config.model.kind}.py' == pathlib.Path(kind.__file__).name
  assert config.train.batch * config.train.crop in (32 * 960, 4 * 1_920, 4 * 300)
  assert pathlib.Path(kind.__file__).read_text().count(f'`{variant}`') == 1


@pytest.mark.parametrize('kind, message', [
    (subscale, "'x17' is unknown; expected x16, small or tiny"),
    (fused, "'x17' is unknown; expected x2, small or tiny")])
def test_an_unknown_variant_is_named(kind, message):
  with pytest.raises(InputError, match=message):
    kind.get_config('x17')
