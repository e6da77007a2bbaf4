"""Every model and every engine under contract.py, a line each."""

import dataclasses
import functools

import contract
import cuda_emulation
import pytest
import random_models
from random_models import build, build_fused, build_wavenet, parameters

from wavernn_jax.config import Config, EvaluationConfig, ModelConfig, PruningConfig
from wavernn_jax.sampling import cpu, export, persistent, scan
from wavernn_jax.sampling.persistent import chips, lanes
from wavernn_jax.voice import Voice

SPECTRAL = build(kind='wavernn', lanes=1, horizon=0, prediction='spectral', taps=6)
LANES = {'prediction': 'spectral', 'taps': 9, 'taps_ahead': 6}
MIXTURE = {'kind': 'wavernn', 'lanes': 1, 'horizon': 0, 'output': 'mixture', 'mixtures': 3}
PLAIN = ModelConfig(units=32, projection=16, channels=8, layers=2, residuals=3)


@pytest.mark.parametrize('model', [
    build(kind='wavernn', lanes=1, horizon=0), SPECTRAL, build(),
    pytest.param(build(lanes=2, horizon=0), marks=pytest.mark.slow), build_fused(),
    pytest.param(build_fused(lanes=4, horizon=0), marks=pytest.mark.slow), build_wavenet(),
    pytest.param(build_wavenet(prediction='spectral', taps=6), marks=pytest.mark.slow),
    build(mel=random_models.FUSED_MEL, **LANES),
    pytest.param(build_fused(**LANES), marks=pytest.mark.slow), build(**MIXTURE),
    pytest.param(build(prediction='spectral', taps=6, reset_bias=True, **MIXTURE),
                 marks=pytest.mark.slow)],
    ids=['wavernn', 'spectral', 'subscale', 'subscale 2x0', 'fused', 'fused 4x0', 'wavenet',
         'spectral wavenet', 'spectral subscale', 'spectral fused', 'mixture',
         'spectral mixture'])
def test_systems(model):
  contract.verify_system(model)


def scanned(model, block_frames):
  """temperatures -> the scan sampler of a random model."""
  @functools.cache
  def make(temperatures):
    return scan.ScanEngine(model, parameters(model), temperatures, block_frames)
  return make


@pytest.mark.parametrize('model', [
    build(kind='wavernn', lanes=1, horizon=0), SPECTRAL, build(), build_fused(),
    build_wavenet(), build(**MIXTURE)],
    ids=['wavernn', 'spectral', 'subscale', 'fused', 'wavenet', 'mixture'])
def test_scan(model):
  contract.verify_engine(scanned(model, 4), scanned(model, 2))


@functools.cache
def pruned(weights='float32', block=(16, 1), **model):
  """A random model of half its blocks, packed, and the voice that it is of."""
  config = Config(
      model=dataclasses.replace(PLAIN, **model), mel=random_models.MEL,
      evaluation=EvaluationConfig(block_frames=4),
      pruning=PruningConfig(recurrent=0.5, hidden=0.5, output=0.5, block_outputs=block[0],
                            block_inputs=block[1], start=0, steps=1))
  voice = Voice(config, *random_models.pruned_run(config), 'random')
  return voice, export.pack(voice.params, voice.masks, config, weights)


@pytest.mark.parametrize(('weights', 'block', 'nats', 'model'), [
    ('float32', (16, 1), 1e-4, {}), ('float32', (4, 4), 1e-4, {}),
    ('float32', (16, 1), 2e-4, {'prediction': 'spectral', 'taps': 7}),
    ('float32', (16, 1), 1e-4, {'reset_bias': True})],
    ids=['16x1', '4x4', 'spectral', 'reset bias'])
def test_cpu(weights, block, nats, model):
  voice, packed = pruned(weights, block, **model)
  contract.verify_engine(
      lambda temperatures: cpu.CpuEngine(packed, temperatures, 4, threads=2),
      lambda temperatures: scan.ScanEngine(voice.model, voice.params, temperatures, 4), nats=nats)


KERNELS = {
    'tpu': lambda params, hop: chips.Tpu(params, 'float32', hop, interpret=True),
    'cuda': lambda params, hop: cuda_emulation.chip(params, 'float32', 2, 4, 3)}


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('kind', [persistent.PersistentEngine, lanes.PersistentLanes],
                         ids=['plain', 'lanes'])
def test_persistent(kernel, kind):
  if kernel == 'cuda' and not cuda_emulation.COMPILER:
    pytest.skip('needs g++')
  several = kind is lanes.PersistentLanes
  model = build() if several else build(kind='wavernn', lanes=1, horizon=0)
  chip = KERNELS[kernel](parameters(model), 1 if several else model.mel.hop)
  contract.verify_engine(
      lambda temperatures: kind(model, parameters(model), chip, temperatures, 4),
      scanned(model, 4), nats=2e-4)
