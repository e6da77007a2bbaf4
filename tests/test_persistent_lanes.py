"""Subscale models on the persistent kernels: interpreted and emulated against the scan sampler."""

import functools

import cuda_emulation
import jax
import numpy as np
import pytest
import random_models
from random_models import MEL, build, parameters
import ties

from wavernn_jax import draw
from wavernn_jax.config import Config, MelConfig, ModelConfig
from wavernn_jax.models import subscale
from wavernn_jax.sampling import persistent, scan, stream
from wavernn_jax.sampling.persistent import checks, chips, driver, ffi, lanes
from wavernn_jax.voice import Voice

FRAMES, BLOCK = (9, 2, 0), 4  # fewer, as many, and none of the delay
log_mel = functools.partial(random_models.log_mel, MEL)
KERNELS = {
    'tpu': lambda params: chips.Tpu(params, 'float32', 1, interpret=True),
    'one team': lambda params: cuda_emulation.chip(params, 'float32', 2, 4, 3),
    'several launches': lambda params: cuda_emulation.chip(params, 'float32', 1, 4, 2)}


@functools.cache
def sampler(kernel='tpu', temperatures=(1.0, 1.0), **fields):
  if kernel != 'tpu' and not cuda_emulation.COMPILER:
    pytest.skip('needs g++')
  model = build(**fields)
  params = parameters(model)
  return lanes.Sampler(model, params, KERNELS[kernel](params), temperatures, BLOCK)


def scanned(temperatures=(1.0, 1.0), **fields):
  model = build(**fields)
  return scan.Sampler(model, parameters(model), temperatures, BLOCK)


def expected(mels, keys, temperatures=(1.0, 1.0), **fields):
  return stream.batch(scanned(temperatures, **fields), mels, keys)


@pytest.mark.parametrize(('kernel', 'fields'), [
    *[(kernel, {}) for kernel in KERNELS],
    ('tpu', {'lanes': 1, 'horizon': 0}), ('one team', {'units': 40, 'projection': 20})])
def test_samples_are_those_of_the_scan_sampler(kernel, fields):
  """Utterances shorter than the delay beside a longer one. Rounding differs."""
  mels, keys = [log_mel(n, n) for n in FRAMES], draw.keys(3, range(len(FRAMES)))
  found = stream.batch(sampler(kernel, **fields), mels, keys)
  plain = scanned(**fields)
  ties.assert_same(found, stream.batch(plain, mels, keys), plain, mels, keys)
  assert len(np.unique(found[0])) > 0.7 * len(found[0])


@pytest.mark.parametrize('kernel', ['tpu', 'several launches'])
def test_a_kernel_is_checked_before_it_is_used(kernel):
  made = sampler(kernel)
  found = made.check(2, checks.rounded(made.params, 'float32'))
  assert found['nats'] < 1e-3 and found['draws'] > 0.99
  outputs = jax.tree.map(np.array, made.params['outputs'])
  outputs['coarse']['hidden']['kernel'][made.model.config.units // 2:] *= 1.5  # of the context
  for wrong in ({'coarse': 1.5 * made.params['coarse']}, {'outputs': outputs}):
    with pytest.raises(checks.CheckFailed, match='log-probabilities differ'):
      made.check(2, made.params | wrong)


def test_members_that_lose_one_another_give_up():
  if not cuda_emulation.COMPILER:
    pytest.skip('needs g++')
  model = build()
  params = parameters(model)
  chip = cuda_emulation.chip(params, 'float32', 2, 4, SPINS=50, LOST_STORE=300)
  with pytest.raises(RuntimeError, match='--engine=scan'):
    lanes.Sampler(model, params, chip, (1, 1), BLOCK).warm_up(1)


def test_the_kernels_take_subscale_models(monkeypatch):
  config = Config(model=random_models.SUBSCALE, mel=MEL)
  voice = Voice(config, parameters(build()), {}, 'random')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  monkeypatch.setattr(persistent.engine, 'open_chip', lambda voice, weights: chips.Tpu(
      voice.params, weights, 1, interpret=True))
  found = persistent.start(voice, weights='float32', batch=2)
  assert isinstance(found, lanes.Sampler) and found.block_frames == 16


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_lowering(platform):
  class Driver:
    def chip(self, _):
      return driver.Chip(132, 232_448, 90)

  model = subscale.Subscale(ModelConfig(kind='subscale', units=256, projection=128, lanes=16,
                                        horizon=64), MelConfig())
  shapes = jax.eval_shape(lambda: model.init(0))
  params = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), shapes)
  chip = chips.Tpu(params, 'bfloat16', 1) if platform == 'tpu' else chips.Cuda(
      params, 'bfloat16', driver=Driver(), compile_source=lambda *_: b'')
  made = lanes.Sampler(model, params, chip)
  arguments = jax.eval_shape(lambda: (
      params | {'kernel': chip.weights(16)}, made.initial_state(1),
      np.zeros((1, made.window, 80), np.float32), np.zeros((1, 2), np.uint32),
      np.zeros(2, np.float32)))
  exported = jax.export.export(
      made._sample, platforms=[platform],
      disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(ffi.TARGETS['CUDA'])])(*arguments)
  assert {'tpu': 'tpu_custom_call', 'cuda': ffi.TARGETS['CUDA']}[platform] in (
      exported.mlir_module())
