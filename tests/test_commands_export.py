"""--mode=export, and synthesis from exports by both engines."""

import functools
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.configs import dense
from wavernn_jax import audio, commands, sampling
from wavernn_jax.config import PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import export as export_lib, persistent
from wavernn_jax.sampling.persistent import chips

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A pruned run of a model that fits the CPU engine."""
  folder = tmp_path_factory.mktemp('run')
  config = dense.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.model.units = 32
  config.train.steps = 6
  config.evaluation.synthesize = 0
  config.pruning = PruningConfig(recurrent=0.5, output=0.5, start=0, steps=4, interval=1)
  commands.train(config, str(folder))
  return folder


@pytest.fixture(scope='module')
def recordings(tmp_path_factory):
  """A folder with a fifth of a second of speech."""
  folder = tmp_path_factory.mktemp('recordings')
  source = sorted((commands.DEMO_SPEECH / 'test').glob('*.flac'))[0]
  audio.write_wav(folder / 'a.wav', audio.read_audio(source, 24_000)[12_000:16_800], 24_000)
  return folder


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
  path = tmp_path_factory.mktemp('export') / 'model.safetensors'
  return path, commands.export(str(run), str(path), 'float32', sparse_only=True)


def test_an_export_says_what_it_is(exported):
  path, result = exported
  export = export_lib.read(path).packed
  assert result == {'file': str(path), 'bytes': path.stat().st_size, 'weights': 'float32',
                    'parameters': export.parameters, 'block': '16x1'}
  assert export.tensors['recurrent.e'].density == 0.5


def test_the_persistent_kernel_speaks_like_scan(exported, recordings, tmp_path, monkeypatch):
  with pytest.raises(InputError, match="--engine=pallas: found the platform 'cpu'"):
    commands.synthesize('', str(recordings), str(tmp_path), model=str(exported[0]), engine='pallas')

  def interpreted(voice, temperatures, weights, batch):
    assert (weights, batch) == ('float32', 1)
    chip = chips.Tpu(voice.params, weights, voice.config.mel.hop, interpret=True)
    return persistent.Sampler(voice.model, voice.params, chip, temperatures,
                              voice.config.evaluation.block_frames)
  monkeypatch.setattr(persistent, 'start', interpreted)
  waves = []
  for engine in ('scan', 'pallas'):
    result = commands.synthesize('', str(recordings), str(tmp_path / engine),
                                 model=str(exported[0]), engine=engine)
    assert result['engine'] == engine
    waves.append(audio.read_audio(tmp_path / engine / 'a.wav', 24_000))
  np.testing.assert_array_equal(*waves)


def test_the_persistent_kernel_evaluates_in_batches(tiny_config, speech, tmp_path, monkeypatch):
  """Opened for the batch that it scores and samples; its kernel interpreted on a CPU."""
  for seed, (split, seconds) in enumerate([('train', 0.1), ('valid', 0.1), ('test', 0.04)]):
    (tmp_path / 'speech' / split).mkdir(parents=True)
    for i in range(2):
      audio.write_wav(tmp_path / 'speech' / split / f'{split}_{i}.wav',
                      speech(seconds, seed=2 * seed + i), tiny_config.mel.sample_rate)
  tiny_config.data.dir, tiny_config.train.steps = str(tmp_path / 'speech'), 1
  tiny_config.evaluation.synthesize, tiny_config.evaluation.free_running = 0, 2
  commands.train(tiny_config, str(tmp_path / 'run'))
  opened = []

  def interpreted(voice, weights):
    opened.append(weights)
    return chips.Tpu(voice.params, weights, voice.config.mel.hop, interpret=True)
  monkeypatch.setattr(persistent.engine, 'open_chip', interpreted)
  monkeypatch.setattr(persistent.engine, 'PLATFORMS', ('cpu',))
  monkeypatch.setattr(sampling, 'open', functools.partial(sampling.open, weights='float32'))
  results = [commands.evaluate(str(tmp_path / 'run'), engine=engine)
             for engine in ('scan', 'pallas')]
  assert [r['engine'] for r in results] == ['scan', 'pallas'] and opened == ['float32']
  for name in ('nll_coarse', 'nll_fine'):
    assert results[1][name] == pytest.approx(results[0][name], abs=1e-4)
  assert results[1]['free_running'] == pytest.approx(results[0]['free_running'], nan_ok=True)


def test_every_engine_speaks_alike_from_run_and_export(run, exported, recordings, tmp_path):
  ways = {'run-scan': {'engine': 'auto'}, 'run-cpu': {'engine': 'cpu', 'weights': 'float32'},
          'export-scan': {'engine': 'scan', 'model': str(exported[0])},
          'export-cpu': {'engine': 'auto', 'model': str(exported[0])}}
  waves = {}
  for name, options in ways.items():
    result = commands.synthesize(str(run), str(recordings), str(tmp_path / name), **options)
    assert result['engine'] == name.split('-')[1] and result['compile_seconds'] > 0
    waves[name] = audio.read_audio(tmp_path / name / 'a.wav', 24_000)
    assert len(waves[name]) == 4_800
    np.testing.assert_array_equal(waves[name], waves['run-scan'])


def test_damaged_exports_stop_before_anything_is_written(exported, recordings, tmp_path):
  (tmp_path / 'half').write_bytes(exported[0].read_bytes()[:10_000])
  with pytest.raises(InputError, match='half: is no usable export'):
    commands.synthesize('', str(recordings), str(tmp_path / 'out'), model=str(tmp_path / 'half'))
  assert not (tmp_path / 'out').exists()


def test_a_run_of_residuals_is_exported_evaluated_and_spoken(recordings, tmp_path):
  config = dense.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.model.units, config.model.prediction, config.model.taps = 32, 'spectral', 32
  config.train.steps, config.train.input_noise = 4, 0.0
  config.evaluation.synthesize = 0
  config.pruning = PruningConfig(recurrent=0.5, start=0, steps=2, interval=1)
  run, path = str(tmp_path / 'run'), str(tmp_path / 'voice.safetensors')
  commands.train(config, run)
  assert commands.export(run, path, 'float32')['parameters'] > 0
  source = sorted((commands.DEMO_SPEECH / 'test').glob('*.flac'))[0]
  for k, split in enumerate(('train', 'valid', 'test')):
    (tmp_path / 'data' / split).mkdir(parents=True)
    audio.write_wav(tmp_path / 'data' / split / f'{split}.wav',
                    audio.read_audio(source, 24_000)[12_000 + 9_600 * k:][:9_600], 24_000)
  nll = {engine: commands.evaluate('', data_dir=str(tmp_path / 'data'), model=path,
                                   split='valid', engine=engine)['nll']
         for engine in ('scan', 'cpu')}
  assert nll['cpu'] == pytest.approx(nll['scan'], abs=1e-4)
  waves = []
  for engine in ('scan', 'cpu'):
    result = commands.synthesize('', str(recordings), str(tmp_path / engine), model=path,
                                 engine=engine)
    assert result['engine'] == engine
    waves.append(audio.read_audio(tmp_path / engine / 'a.wav', 24_000))
  assert len(waves[0]) == 4_800
  np.testing.assert_array_equal(*waves)


@pytest.mark.parametrize(('flags', 'reason'), [
    (['--mode=export'], '--output is not set'),
    (['--mode=synthesize', '--input=c', '--output=d', '--num_processes=2'],
     '--num_processes belongs to --mode=train'),
    (['--mode=synthesize', '--workdir=a', '--model=b', '--input=c', '--output=d'],
     '--model and --workdir')])
def test_wrong_flags_are_one_clear_error(flags, reason):
  result = subprocess.run([sys.executable, 'launch.py', *flags], cwd=ROOT, text=True,
                          capture_output=True, check=False)
  assert result.returncode == 2 and result.stderr.startswith('error: ')
  assert reason in result.stderr and 'Traceback' not in result.stderr
