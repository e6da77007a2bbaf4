"""Lanes that code residuals: a draw is what teacher forcing says, from the same inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_models
from random_models import FUSED_MEL as MEL, parameters

from wavernn_jax import audio, config as config_lib, draw, likelihood, models, rules
from wavernn_jax.errors import InputError
from wavernn_jax.models import (
  fused,
  lane_hearing,
  prediction,
  residual_fused,
  subscale,
  wavernn,
)
from wavernn_jax.sampling import scan, stream

FRAMES, BLOCK = 6, 2
SPECTRAL = {'prediction': 'spectral', 'taps': 9, 'taps_ahead': 6}
BUILDS = {
    'subscale': functools.partial(random_models.build, mel=MEL, **SPECTRAL),
    'fused': functools.partial(random_models.build_fused, **SPECTRAL)}


def quiet_mel(frames, seed=0):
  """Frames of residuals that are far from full scale, so that no draw is clipped."""
  return random_models.log_mel(MEL, frames, seed)[:frames] * 0.1 - 7


@functools.cache
def drawn(kind, block=BLOCK, **fields):
  """A model, its parameters and an utterance of it."""
  model = BUILDS[kind](**fields)
  params = parameters(model)
  params['outputs'] = jax.tree.map(lambda a: a / 4, params['outputs'])  # as the prior says
  sampler = scan.ScanEngine(model, params, block_frames=block, donate=True)
  return model, params, stream.batch(sampler, [quiet_mel(FRAMES)], draw.keys(0, [0]))[0]


def forced(model, params, pcm):
  """`_run` over an utterance from its beginning on."""
  around = (model.timing.margin, model.timing.margin)
  mel = np.pad(quiet_mel(FRAMES), (around, (0, 0)), constant_values=audio.mel_floor(MEL))[None]
  mel = mel[:, :model.frames(len(pcm))]
  pcm = np.pad(pcm, (0, model.timing.ahead))[None]
  return jax.jit(model._run)(params, model.initial_state(1), pcm, mel)


def uniforms(samples, draws):
  return draw.uniforms_at(
      draw.keys(0, [0]), np.arange(samples, dtype=np.uint32)[:, None], draws)[..., 0]


@pytest.mark.parametrize('fields', [
    {}, {'lanes': 2, 'horizon': 0}, {'lanes': 3, 'horizon': 1}, {'lanes': 3, 'horizon': 60}])
def test_a_step_draws_the_bytes_that_the_likelihood_says(fields):
  model, params, pcm = drawn('subscale', **fields)
  assert np.abs(pcm.astype(int)).max() < 2**15 - 1 and len(np.unique(pcm)) > 0.3 * len(pcm)
  h, targets, scale = forced(model, params, pcm)
  priors = model._priors(params, scale, targets['coarse'])
  uniform_Tx2 = uniforms(len(pcm), 2)
  for i, (byte, y) in enumerate(zip(wavernn.BYTES, jnp.split(h, 2, axis=-1), strict=True)):
    logits = likelihood.layer_logits(params['outputs'][byte], y, prior=priors[byte])
    logits_TxV = subscale.unfold(logits, len(pcm))[:, 0]
    found = draw.categorical(logits_TxV, uniform_Tx2[:, i], 1.0)
    np.testing.assert_array_equal(found, subscale.unfold(targets[byte], len(pcm))[:, 0])


@pytest.mark.parametrize('fields', [{}, {'lanes': 4, 'horizon': 0}, {'lanes': 1, 'horizon': 0}])
def test_a_fused_step_draws_the_nibbles_that_the_likelihood_says(fields):
  model, params, pcm = drawn('fused', **fields)
  assert np.abs(pcm.astype(int)).max() < 2**15 - 1 and len(np.unique(pcm)) > 0.3 * len(pcm)
  h, nibbles, scale = forced(model, params, pcm)
  slopes, ramps = model._priors(params, nibbles, scale)
  layers, y_4xSxIxBxQ, _ = model._heads(params, h, nibbles)
  logits = jax.vmap(jax.vmap(
      lambda layer, y, slope, ramp: likelihood.layer_logits(layer, y, prior=(slope, ramp))))(
          layers, y_4xSxIxBxQ, slopes, ramps)[:, :, :, 0]
  uniform_Tx4 = uniforms(len(pcm), 4)
  for k in range(fused.NIBBLES):
    logits_TxV = logits[k].swapaxes(0, 1).reshape(-1, fused.VALUES)[:len(pcm)]
    np.testing.assert_array_equal(draw.categorical(logits_TxV, uniform_Tx4[:, k], 1.0),
                                  subscale.unfold(nibbles, len(pcm))[:, 0, k])


@pytest.mark.parametrize('kind', BUILDS)
def test_blocks_of_another_length_change_no_sample(kind):
  np.testing.assert_array_equal(drawn(kind)[2], drawn(kind, block=3)[2])


@pytest.mark.parametrize('kind', BUILDS)
def test_lengths_of_a_batch_change_no_sample(kind):
  model, params, whole = drawn(kind)
  sampler = scan.ScanEngine(model, params, block_frames=BLOCK)
  found = stream.batch(sampler, [quiet_mel(FRAMES)[:2], quiet_mel(FRAMES), quiet_mel(0)],
                       draw.keys(0, [0, 0, 0]))
  assert [len(pcm) for pcm in found] == [2 * MEL.hop, FRAMES * MEL.hop, 0]
  np.testing.assert_array_equal(found[1], whole)


@pytest.mark.parametrize('kind', BUILDS)
def test_every_parameter_that_is_heard_has_a_gradient(kind):
  model = BUILDS[kind]()
  pcm, mel = random_models.speech(model, 96, batch=4)
  def total(params):
    return sum(model.loss(params, model.initial_state(4), pcm, mel - 5).values())
  gradients = jax.jit(jax.grad(total))(parameters(model))
  heard, weights = model.hearing.mask(), gradients['previous']
  if kind == 'fused':
    heard = heard.reshape(-1)
  else:
    weights, heard = gradients['heard']['own'], heard[:, :model.hearing.own_width]
  np.testing.assert_array_equal((weights != 0).any(axis=-1), heard)
  for path, gradient in jax.tree.leaves_with_path(gradients):
    assert np.isfinite(gradient).all() and gradient.any(), jax.tree_util.keystr(path)


def test_untrained_the_bytes_and_nibbles_of_a_sample_are_those_of_a_laplace_density():
  """The ramps of either, summed over all values, against the density itself."""
  scale = 700.0
  x = np.arange(-2**15, 2**15)
  density = np.exp(-np.abs(x) / scale)
  nibbles = np.moveaxis(np.asarray(fused.split_nibbles(x)), -1, 0)
  slopes = residual_fused._slopes(0.0, scale, nibbles[0] >= 8)
  found = 0.0
  for k in range(4):
    logits = slopes[k] * np.ones(len(x))
    logits = logits[:, None] * residual_fused.RAMPS_4xV[k]
    found = found + jax.nn.log_softmax(logits)[np.arange(len(x)), nibbles[k]]
  np.testing.assert_allclose(found, np.log(density / density.sum()), atol=2e-3)


def test_one_lane_is_the_plain_model():
  model = BUILDS['subscale'](lanes=1, horizon=0)
  assert isinstance(model, wavernn.WaveRNN)


def test_a_lane_predicts_as_from_its_known_samples_one_by_one():
  """p̂ and σ of `sequence` against the filter and `predict` at each sample."""
  model = BUILDS['subscale']()
  heard, lanes = model.hearing, model.timing.lanes
  positions, (before, after) = 5, heard.around
  rng = np.random.default_rng(0)
  pcm = rng.integers(-9_000, 9_000, (1, lanes * (before + positions + after))).astype(np.int16)
  mel = quiet_mel(model.frames(lanes * positions))[None]
  found = heard.sequence(pcm, mel, positions)
  (offsets_D, known_SxD), (_, known_SxJ) = heard.known, heard.neighbours
  filters = prediction.spectral_filter(mel[0], known_SxD, offsets_D, MEL)
  for i, s in np.ndindex(positions, lanes):
    t = lanes * i + s
    frame = prediction.nearest_frame(t, MEL) + model.timing.margin
    at = lanes * before + t
    # What is not known does not matter.
    window = np.where(known_SxD[s], pcm[0, at + offsets_D], 12_345)
    predicted = prediction.predict(filters.taps[frame, s], filters.shift[frame, s], window)
    assert found.residual[i, s, 0] == prediction.encode(pcm[0, at], predicted)
    np.testing.assert_allclose(found.scale[i, s, 0], filters.scale[frame, s], rtol=1e-6)
    own = np.array([pcm[0, at - lanes], predicted]) / filters.level[frame, s]
    waveform = 2 * known_SxJ.shape[1] + np.arange(2)
    np.testing.assert_allclose(found.inputs[i, s, 0, waveform], np.clip(own, -8, 8), rtol=1e-5)


def test_lanes_hear_both_sides_and_their_own_last_samples():
  config = config_lib.ModelConfig(kind='subscale', prediction='spectral', lanes=16, horizon=8)
  heard = lane_hearing.LaneHearing(config, config_lib.MelConfig())
  offsets_J, known_SxJ = heard.neighbours
  assert set(offsets_J[known_SxJ[15]]) == {-48, -32, *range(-16, 0), *range(1, 16)}
  assert set(offsets_J[known_SxJ[0]]) == {-48, -32, -16}
  offsets_D, known_SxD = heard.known
  assert (offsets_D[0], offsets_D[-1]) == (-207, 47)
  np.testing.assert_array_equal(known_SxD.sum(axis=1)[[0, 1, 14, 15]], [15, 31, 239, 252])
  assert heard.margin == 4  # of the conditioning: the residuals take no more frames


def _config(**model):
  return config_lib.Config(model=config_lib.ModelConfig(
      kind='subscale', prediction='spectral', lanes=16, horizon=8, **model),
      train=config_lib.TrainConfig(crop=3_840))


def test_rules_of_lanes_with_a_prediction():
  rules.check(_config(context_block=7))  # no network, no blocks
  with pytest.raises(InputError, match=r'model.taps: found 8, .*at least model.lanes = 16'):
    rules.check(_config(taps=8))
  with pytest.raises(InputError, match=r'model.taps: found 192, expected at most 94'):
    rules.check(_config(taps_ahead=900))
  noisy = _config()
  noisy.train.input_noise = 0.1
  with pytest.raises(InputError, match=r'train.input_noise: found 0.1, expected 0 with'):
    rules.check(noisy)
  models.build(_config()).check_block(4_800)
  with pytest.raises(ValueError, match='block of 4801 samples.*multiple of lanes = 16'):
    models.build(_config()).check_block(4_801)
