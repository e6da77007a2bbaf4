"""--mode=export, and synthesis from exports by both engines."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.configs import dense
from wavernn_jax import audio, commands
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
def speech(tmp_path_factory):
  """A folder with a fifth of a second of speech."""
  folder = tmp_path_factory.mktemp('speech')
  source = sorted((commands.DEMO_SPEECH / 'test').glob('*.flac'))[0]
  audio.write_wav(folder / 'a.wav', audio.read_audio(source, 24_000)[12_000:16_800], 24_000)
  return folder


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
  path = tmp_path_factory.mktemp('export') / 'model.safetensors'
  return path, commands.export(str(run), str(path), 'float32', sparse_only=True)


def test_an_export_says_what_it_is(exported):
  path, result = exported
  export = export_lib.read(path)
  assert result == {'file': str(path), 'bytes': path.stat().st_size, 'weights': 'float32',
                    'parameters': export.parameters, 'block': '16x1'}
  assert export.tensors['recurrent.e'].density == 0.5


def test_the_persistent_kernel_speaks_like_scan(exported, speech, tmp_path, monkeypatch):
  with pytest.raises(InputError, match="--engine=pallas: found the platform 'cpu'"):
    commands.synthesize('', str(speech), str(tmp_path), model=str(exported[0]), engine='pallas')

  def interpreted(model, params, temperatures, block_frames, weights, batch):
    assert (weights, batch) == ('float32', 1)
    chip = chips.Tpu(params, weights, model.mel.hop, interpret=True)
    return persistent.Sampler(model, params, chip, temperatures, block_frames)
  monkeypatch.setattr(persistent, 'open_sampler', interpreted)
  waves = []
  for engine in ('scan', 'pallas'):
    result = commands.synthesize('', str(speech), str(tmp_path / engine), model=str(exported[0]),
                                 engine=engine)
    assert result['engine'] == engine
    waves.append(audio.read_audio(tmp_path / engine / 'a.wav', 24_000))
  np.testing.assert_array_equal(*waves)


def test_every_engine_speaks_alike_from_run_and_export(run, exported, speech, tmp_path):
  ways = {'run-scan': {'engine': 'auto'}, 'run-cpu': {'engine': 'cpu', 'weights': 'float32'},
          'export-scan': {'engine': 'scan', 'model': str(exported[0])},
          'export-cpu': {'engine': 'auto', 'model': str(exported[0])}}
  waves = {}
  for name, options in ways.items():
    result = commands.synthesize(str(run), str(speech), str(tmp_path / name), **options)
    assert result['engine'] == name.split('-')[1] and result['compile_seconds'] > 0
    waves[name] = audio.read_audio(tmp_path / name / 'a.wav', 24_000)
    assert len(waves[name]) == 4_800
    np.testing.assert_array_equal(waves[name], waves['run-scan'])


def test_damaged_exports_stop_before_anything_is_written(exported, speech, tmp_path):
  (tmp_path / 'half').write_bytes(exported[0].read_bytes()[:10_000])
  with pytest.raises(InputError, match='half: is no usable export'):
    commands.synthesize('', str(speech), str(tmp_path / 'out'), model=str(tmp_path / 'half'))
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('flags', 'reason'), [
    (['--mode=export'], '--output is not set'),
    (['--mode=synthesize', '--input=c', '--output=d', '--num_processes=2'],
     '--num_processes is for --mode=train'),
    (['--mode=synthesize', '--workdir=a', '--model=b', '--input=c', '--output=d'],
     '--model and --workdir')])
def test_wrong_flags_are_one_clear_error(flags, reason):
  result = subprocess.run([sys.executable, 'launch.py', *flags], cwd=ROOT, text=True,
                          capture_output=True, check=False)
  assert result.returncode == 2 and result.stderr.startswith('error: ')
  assert reason in result.stderr and 'Traceback' not in result.stderr
