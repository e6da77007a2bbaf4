"""WaveRNN with one mixture: near the closed form untrained, trained and pruned; no export."""

import dataclasses

import jax
import numpy as np
import pytest

from wavernn_jax import commands, config as config_lib, sampling
from wavernn_jax.errors import InputError
from wavernn_jax.models import build
from wavernn_jax.sampling import export, export_checks
from wavernn_jax.training import checkpoints


@pytest.fixture
def config(tiny_config):
  tiny_config.model = dataclasses.replace(
      tiny_config.model, output='mixture', prediction='spectral', taps=32)
  return tiny_config


def test_its_size_is_that_of_one_head(config):
  """Gates, what is heard, and one head of the whole state in place of two of its halves."""
  shapes = build(config).init(0)
  assert set(shapes) == {'conditioning', 'recurrent', 'previous', 'outputs'}
  head = shapes['outputs']['sample']
  assert head['hidden']['kernel'].shape == (config.model.units, config.model.projection)
  assert head['output']['kernel'].shape == (config.model.projection, 3 * config.model.mixtures)


@pytest.mark.slow
def test_a_pruned_run_trains_is_scored_and_refuses_other_engines(config, tmp_path, monkeypatch):
  config.pruning = config_lib.PruningConfig(0.5, 0.5, 0.0, 0.0, block_outputs=4, start=2, steps=8,
                                            interval=2)
  config.train.steps = config.train.eval_every = 12
  run = tmp_path / 'run'
  assert commands.train(config, str(run))['step'] == 12
  result = commands.evaluate(str(run), 'test')
  assert result['nll'] == pytest.approx(result['nll_coarse'] + result['nll_fine'], rel=1e-9)
  # Untrained, it would be as good as a Laplace density of the expected size.
  assert abs(result['nll'] - result['baselines']['linear_prediction']['nll']) < 0.5
  assert np.isfinite(result['free_running']['log_mel_l1'])
  voice = checkpoints.load(run)
  assert voice.masks['recurrent']['u'].mean() == voice.masks['outputs']['sample']['hidden'][
      'kernel'].mean() == 0.5
  with pytest.raises(InputError, match="model.output = 'mixture', expected 'dual_softmax'.*scan"):
    export.pack(voice.params, voice.masks, voice.config)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  with pytest.raises(InputError, match="model.output = 'mixture'.*use --engine=scan|--workdir"):
    sampling.open(voice, 'cpu')
  with pytest.warns(UserWarning, match="model.output = 'mixture'.*--engine=scan takes its place"):
    assert sampling.open(voice, 'pallas').name == 'scan'
  assert sampling.open(voice, 'auto').name == 'scan'


def test_an_export_that_says_so_of_itself_is_refused(config):
  found = {'version': 4, 'model': config_lib.to_dict(config.model),
           'mel': config_lib.to_dict(config.mel), 'sample_rate': config.mel.sample_rate}
  with pytest.raises(ValueError, match="has the output 'mixture', expected 'dual_softmax'"):
    export_checks.config(found, 100)
  found['model']['output'] = 'dual_softmax'
  assert export_checks.config(found, 100).model.units == config.model.units
