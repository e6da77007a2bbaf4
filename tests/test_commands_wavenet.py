"""A WaveNet of residuals through the commands: train, evaluate, synthesise; no export."""

import json

import numpy as np
import pytest

from experiments.configs import wavenet
from wavernn_jax import audio, commands, rules
from wavernn_jax.errors import InputError

TEST = commands.DEMO_SPEECH / 'test'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  config = wavenet.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.model.prediction, config.model.taps = 'spectral', 32
  config.evaluation.free_running = config.evaluation.max_valid_utterances = 1
  config.train.steps = config.train.eval_every = 6
  assert commands.train(config, str(folder))['step'] == 6
  return folder


def test_evaluation_is_near_the_closed_form(run):
  result = commands.evaluate(str(run), 'test')
  assert result['nll'] == pytest.approx(result['nll_coarse'] + result['nll_fine'], rel=1e-9)
  assert result['nll'] < result['baselines']['histogram']['nll'] - 2
  assert json.loads((run / 'evaluation_test.json').read_text())['nll'] == result['nll']
  assert np.isfinite(result['free_running']['log_mel_l1'])


def test_copy_synthesis_has_the_length_of_its_target(run, tmp_path):
  commands.synthesize(str(run), str(TEST), str(tmp_path))
  lengths = {p.stem: len(audio.read_audio(p, 24_000)) for p in TEST.glob('*.flac')}
  found = {p.stem: audio.read_audio(p, 24_000) for p in tmp_path.glob('*.wav')}
  assert {name: len(pcm) for name, pcm in found.items()} == lengths
  assert all(len(np.unique(pcm)) > 100 for pcm in found.values())


def test_an_export_is_refused_before_anything_is_written(run, tmp_path):
  for command in (lambda: commands.export(str(run), str(tmp_path / 'x.safetensors')),
                  lambda: commands.synthesize(str(run), str(TEST), str(tmp_path), engine='cpu')):
    with pytest.raises(InputError, match="found model.kind = 'wavenet', expected .*--engine=scan"):
      command()
  assert not list(tmp_path.glob('*.safetensors')) and not list(tmp_path.glob('*.wav'))


@pytest.mark.parametrize('variant', ['paper', 'small', 'tiny'])
def test_every_variant_is_possible(variant):
  config = wavenet.get_config(variant)
  assert config.model.kind == 'wavenet'
  rules.check(config)


def test_an_unknown_variant_lists_those_there_are():
  with pytest.raises(InputError, match="'huge' is unknown; expected paper, small or tiny"):
    wavenet.get_config('huge')
