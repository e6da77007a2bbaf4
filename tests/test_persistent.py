"""The kernel for TPUs in interpret mode against the scan sampler, its lowering, and the engine."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import random_models
import ties

from wavernn_jax import audio, draw, models, sampling
from wavernn_jax.config import Config, MelConfig, ModelConfig
from wavernn_jax.errors import InputError
from wavernn_jax.models import wavernn
from wavernn_jax.sampling import persistent, scan, stream
from wavernn_jax.sampling.persistent import checks, chips, engine, operands, tpu
from wavernn_jax.voice import Voice

BLOCK = 3


@functools.cache
def model(center=True, taps=0):
  """A random model whose every input moves every later draw, and its parameters."""
  mel = MelConfig(name='tiny', sample_rate=800, n_fft=512 if taps else 16, window=8, hop=4,
                  bands=3, fmax=400.0, center=center)
  config = Config(model=ModelConfig(
      units=24, projection=20, channels=8, layers=2, taps=taps or 1,
      prediction='spectral' if taps else 'none', residuals=3), mel=mel)
  return models.build(config), random_models.pruned_run(config)[0]


@functools.cache
def sampler(center=True, weights='float32', temperatures=(1.0, 1.0), block=BLOCK, taps=0):
  rnn, params = model(center, taps)
  chip = chips.Tpu(params, weights, rnn.mel.hop, interpret=True, taps=taps)
  return engine.PersistentEngine(rnn, params, chip, temperatures, block)


def log_mels(rnn, frames):
  rng = np.random.default_rng(1)
  return [rng.uniform(audio.mel_floor(rnn.mel), 1, (n, rnn.mel.bands)).astype(np.float32)
          for n in frames]


# Samples


@pytest.mark.parametrize('taps', [0, 1, 130])
@pytest.mark.parametrize(('center', 'temperatures'), [(True, (1.0, 0.7)), (False, (0.0, 1.0))])
def test_samples_are_those_of_the_scan_sampler(center, temperatures, taps):
  """Three utterances over the blocks of a stream. Rounding differs."""
  rnn, params = model(center, taps)
  mels, keys = log_mels(rnn, (8, 3, 5)), draw.keys(2, range(3))
  found = stream.batch(sampler(center, temperatures=temperatures, taps=taps), mels, keys)
  plain = scan.ScanEngine(rnn, params, temperatures, BLOCK)
  ties.assert_same(found, expected(center, temperatures, taps), plain, mels, keys, temperatures)


@functools.cache
def expected(center, temperatures, taps):
  rnn, params = model(center, taps)
  return stream.batch(scan.ScanEngine(rnn, params, temperatures, BLOCK),
                         log_mels(rnn, (8, 3, 5)), draw.keys(2, range(3)))


@pytest.mark.parametrize('taps', [0, 7])
def test_forced_logits_are_those_of_the_model(taps):
  """Also where the given samples are so loud that their residuals wrap."""
  rnn, params = model(False, taps)
  pcm = np.random.default_rng(0).integers(-2**15, 2**15, (2, BLOCK * rnn.mel.hop)).astype(np.int16)
  mel = np.stack(log_mels(rnn, [BLOCK + 2 * rnn.timing.margin] * 2))
  state, keys = rnn.initial_state(2), draw.keys(0, [0, 1])
  made = sampler(False, temperatures=(0.0, 1.0), taps=taps)
  echoed, after, found = made.run(state, mel, keys, BLOCK, pcm)
  logits = engine.reference_logits(rnn, params, state, pcm, mel, np.float32)
  np.testing.assert_array_equal(echoed, pcm)
  np.testing.assert_allclose(found, logits, rtol=1e-6, atol=2e-4)
  _, model_state = rnn.nats(params, state, pcm, mel)
  np.testing.assert_allclose(after['h'], model_state['h'], atol=1e-5)
  np.testing.assert_array_equal(after['pcm'], model_state['pcm'])
  np.testing.assert_array_equal(after['index'], [pcm.shape[1]] * 2)


@pytest.mark.parametrize('taps', [0, 7])
def test_bfloat16_weights_pass_the_check_and_others_do_not(taps):
  _, params = model(taps=taps)
  half = sampler(weights='bfloat16', taps=taps)
  half.check(2, checks.rounded(params, 'bfloat16'))
  wrong = params | {'previous': (20 if taps else 1) * np.array(params['previous'])[::-1]}
  with pytest.raises(checks.CheckFailed, match='log-probabilities differ'):
    half.check(2, wrong)


def test_samples_of_a_prediction_saturate():
  """A loud mel, of few high frequencies: many samples are at full scale."""
  rnn, params = model(taps=1)
  loud = [np.tile(np.float32([4, -4, -8]), (8, 1))]
  keys = draw.keys(2, [0])
  found = stream.batch(sampler(taps=1), loud, keys)
  plain = stream.batch(scan.ScanEngine(rnn, params, (1.0, 1.0), BLOCK), loud, keys)
  np.testing.assert_array_equal(found[0], plain[0])
  assert np.isin(found[0], (-2**15, 2**15 - 1)).sum() > 3


def test_draws_have_their_distribution():
  """Chi-square of 512 draws from one set of logits."""
  rng = np.random.default_rng(0)
  logits = np.tile(np.float32(2 * rng.standard_normal(256)), (512, 1))
  uniform = (np.arange(512, dtype=np.float32)[rng.permutation(512)] + 0.5) / 512
  triangle = np.triu(np.ones((256, 256), np.float32))
  found = np.asarray(tpu._draw(logits, uniform[:, None], np.float32(1), triangle))[:, 0]
  p = np.asarray(jax.nn.softmax(logits[0]))
  # One uniform number in each 1/512: every count is within one of its expectation.
  counts = np.bincount(found.astype(int), minlength=256)
  assert np.abs(counts - 512 * p).max() < 1.01
  np.testing.assert_array_equal(found, draw.categorical(logits, uniform, np.float32(1)))


# Shapes of the chips


@pytest.mark.parametrize('multiple', [16, 128])
def test_padding_leaves_the_units_in_place(multiple):
  x = np.random.default_rng(0).standard_normal((2, 3 * 24)).astype(np.float32)
  padded = operands.pad_halves(x, multiple, 3)
  gates = padded.reshape(2, 3, 2, multiple)
  np.testing.assert_array_equal(gates[..., :12].reshape(2, -1), x)
  assert not gates[..., 12:].any()
  np.testing.assert_array_equal(operands.crop_halves(padded[:, :2 * multiple], 12), x[:, :24])


@pytest.mark.parametrize('prediction', ['none', 'spectral'])
@pytest.mark.parametrize(('batch', 'weights', 'forced'), [
    (1, 'bfloat16', False), (16, 'bfloat16', True), (3, 'float32', False)])
def test_lowering_for_a_tpu(batch, weights, forced, prediction):
  rnn = wavernn.WaveRNN(ModelConfig(prediction=prediction), MelConfig())
  shapes = jax.eval_shape(lambda: rnn.init(0))
  params = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), shapes)
  chip = chips.Tpu(params, weights, rnn.mel.hop, taps=operands.taps(rnn))
  arguments = jax.eval_shape(lambda: (
      chip.weights(batch), shapes_of(shapes), rnn.initial_state(batch),
      np.zeros((batch, 16 + 2 * rnn.timing.margin, 80), np.float32),
      np.zeros((batch, 2), np.uint32),
      np.zeros(2, np.float32), np.zeros((batch, 4800), np.int16) if forced else None))
  run = engine.PersistentEngine(rnn, params, chip)._run
  exported = jax.export.export(run, platforms=['tpu'])(*arguments, frames=16, batch=batch)
  assert 'tpu_custom_call' in exported.mlir_module()
  assert 'stablehlo.fft' not in exported.mlir_module()  # in float64 XLA refuses it for TPUs
  assert exported.out_avals[0].shape == (batch, 4800)


def shapes_of(tree):
  return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), tree)


# Bad input


def test_the_platform_must_have_a_kernel():
  with pytest.raises(InputError, match="--engine=pallas: found the platform 'cpu', expected an NV"):
    persistent.start(voice())


def voice():
  config = Config(model=model()[0].config, mel=model()[0].mel)
  return Voice(config, model()[1], {}, 'random')


def test_subscale_models_with_a_prediction_fall_back(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  config = Config(model=dataclasses.replace(random_models.SUBSCALE, prediction='spectral', taps=7),
                  mel=random_models.MEL)
  with pytest.warns(UserWarning, match='a subscale model.*--engine=scan takes its') as caught:
    found = sampling.open(Voice(config, {}, {}, 'random'), 'pallas')
  assert found.name == 'scan' and len(caught) == 1


def test_more_units_than_the_chip_holds_fall_back(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  monkeypatch.setattr(tpu, '_VMEM_USABLE', 1_000_000)
  message = '256 units, projection 128, 1 streams .* 0 units .* fit.*scan'
  with pytest.warns(UserWarning, match=message):
    found = sampling.open(voice(), 'pallas')
  assert found.name == 'scan' and isinstance(found, scan.ScanEngine)


def test_a_gpu_without_driver_falls_back(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  with pytest.warns(UserWarning, match='libcuda.* --engine=scan takes its place'):
    assert sampling.open(voice(), 'pallas').name == 'scan'


def test_sizes_of_published_models_fit_a_tpu():
  assert tpu.fits(512, 512, 2, 16, 300)
  assert tpu.fits(1024, 512, 2, 16, 300)
  assert not tpu.fits(2048, 1024, 4, 1, 300)


def test_int8_is_refused_where_no_kernel_has_it():
  _, params = model()
  with pytest.raises(InputError, match='--weights=int8: the kernel for TPUs'):
    chips.Tpu(params, 'int8', 4)
