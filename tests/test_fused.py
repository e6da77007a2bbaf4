"""§4.4 Fused WaveRNN: nibbles, causality by gradients, exact likelihood, sampling."""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_models
from random_models import FUSED_MEL as MEL, build_fused as build, nats, parameters, speech

from wavernn_jax import audio, draw, likelihood, pruning
from wavernn_jax.config import Config, PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.models import conditioning, fused, skew
from wavernn_jax.sampling import persistent, stream
from wavernn_jax.voice import Voice

FRAMES, BLOCK = 7, 2

sampler, whole = random_models.drawn_once(build, BLOCK, FRAMES)
log_mel = functools.partial(random_models.log_mel, MEL)


# Nibbles and steps


@hypothesis.given(st.lists(st.integers(-2**15, 2**15 - 1), min_size=1, max_size=20))
@hypothesis.settings(max_examples=30, deadline=None)
def test_nibbles_recombine_exactly(values):
  pcm = np.array(values, np.int16)
  nibbles = np.asarray(fused.split_nibbles(pcm))
  assert nibbles.min() >= 0 and nibbles.max() < 16
  np.testing.assert_array_equal(fused.join_nibbles(np.moveaxis(nibbles, -1, 0)), pcm)


def test_all_samples_are_their_nibbles_and_near_what_is_known_of_them():
  pcm = np.arange(-2**15, 2**15).astype(np.int16)
  nibbles = np.moveaxis(np.asarray(fused.split_nibbles(pcm)), -1, 0)
  coarse, fine = audio.split_bytes(pcm)
  np.testing.assert_array_equal(nibbles, [coarse // 16, coarse % 16, fine // 16, fine % 16])
  for known in range(5):
    middle = np.broadcast_to(fused.join_nibbles(nibbles.astype(np.float32), known), pcm.shape)
    error = middle - pcm
    assert len(np.unique(middle)) == 16**known
    assert np.abs(error).max() <= 16**(4 - known) / 2 and np.abs(error.mean()) <= 0.5


@pytest.mark.parametrize('lanes, step', [(1, 3), (2, 3), (4, 1), (3, 0)])
def test_unskewed_is_the_inverse_of_skewed(lanes, step):
  x = np.arange(10 * lanes).reshape(10, lanes)
  steps = np.asarray(skew.skewed(x, step))
  first = (lanes - 1) * step
  assert len(steps) == 10 - first
  for w, s in np.ndindex(*steps.shape):
    assert steps[w, s] == x[w + first - s * step, s]
  if len(steps) > first:
    np.testing.assert_array_equal(skew.unskewed(steps, step), x[first:10 - first])


# Causality


@jax.vmap
@jax.vmap
def head_logits(layer, y_IxBxQ, _):
  """Logits 4xSxIxBxV of `Fused._heads`."""
  return likelihood.layer_logits(layer, y_IxBxQ)


@pytest.mark.parametrize('lanes, horizon', [(2, 2), (4, 0)])
def test_gradients_are_zero_exactly_where_the_scheme_says(lanes, horizon, monkeypatch):
  # `add_inputs` has no gradient of the samples, which training does not need.
  monkeypatch.setattr(conditioning, 'add_inputs', lambda x, i, w: x + i @ w)
  positions = 7
  with jax.enable_x64(True):
    model = build(lanes=lanes, horizon=horizon)
    params = parameters(model, dtype=np.float64)
    for of_lane in params['outputs'].values():
      for layer in of_lane.values():  # a ReLU at rest would hide a connection
        layer['hidden']['bias'] = layer['hidden']['bias'] + 4
    samples, delay = positions * lanes, model.schedule.delay
    first = model.timing.past // lanes
    rng = np.random.default_rng(0)
    nibbles = jnp.asarray(rng.integers(
        0, 16, (first + positions + delay, lanes, 1, 4)).astype(np.float64))
    mel = log_mel(model.frames(samples), dtype=np.float64)[None]
    x = model._conditioning(params, mel, samples)
    weights = rng.standard_normal(fused.VALUES)
    @jax.jit
    @jax.jacrev
    def slopes(nibbles):
      h = model.states(params, model.initial_state(1)['h'], x, nibbles)
      targets = jnp.zeros((positions, lanes, 1, 4), jnp.int32)
      return head_logits(*model._heads(params, h, targets))[..., 0, :] @ weights
    found = np.asarray(slopes(nibbles))[..., first:, :, 0, :] != 0  # nibble, s, i, k, z, nibble
  apart = horizon + 1
  for i, s, k, z in itertools.product(range(positions), range(lanes),
                                      range(positions + delay), range(lanes)):
    heard = k < i + (s - z) * apart
    if lanes == 2 and z < s:
      assert heard == (k <= i + horizon)
    expected = np.full((4, 4), heard)
    if (k, z) == (i, s):  # the earlier nibbles of the same sample
      expected = np.tril(np.ones((4, 4), bool), -1)
    np.testing.assert_array_equal(found[:, s, i, k, z], expected, err_msg=f'{i, s} from {k, z}')


def test_every_parameter_has_a_gradient():
  model = build()
  pcm, mel = speech(model, 96, batch=4)
  def total(params):
    return sum(model.loss(params, model.initial_state(4), pcm, mel).values())
  gradients = jax.jit(jax.grad(total))(parameters(model))
  for path, gradient in jax.tree.leaves_with_path(gradients):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(gradient).all() and gradient.any(), name
    if 'layers' not in name and 'outputs' not in name:  # there, a ReLU may rest
      assert gradient.all(), name


# Likelihood


def test_the_likelihood_of_all_utterances_of_a_tiny_alphabet_sums_to_one():
  samples, kept = 5, (2, 1, 1, 2)  # 4 values a sample, no multiple of the lanes
  with jax.enable_x64(True):
    model = build(horizon=1)
    params = parameters(model, dtype=np.float64)
    for of_lane in params['outputs'].values():
      for layer, values in zip(of_lane.values(), kept, strict=True):
        layer['output']['bias'][values:] = -1e4  # of probability 0
    values = [4096 * n + m - 2**15 for n in (0, 1) for m in (0, 1)]
    pcm = np.array(list(itertools.product(values, repeat=samples)), np.int16)
    mel = np.broadcast_to(log_mel(model.frames(samples), dtype=np.float64),
                          (len(pcm), model.frames(samples), MEL.bands))
    found, _ = nats(model, params, np.pad(pcm, ((0, 0), (0, model.timing.ahead))), mel)
  p = np.exp(-found.sum(axis=(0, 2)))
  assert len(p) == 1024 and p.max() > 20 * p.min()
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-9)


def test_input_noise_reaches_what_hears_the_sample():
  model = build()
  params, (pcm, mel) = parameters(model), speech(model, 36)
  run = jax.jit(lambda noise: model.loss(params, model.initial_state(2), pcm, mel, 0, noise))
  none, t = np.zeros((36, 2, 3), np.float32), np.arange(36)[:, None, None]
  plain = run(none)
  # What later nibbles hear of the last sample: its own fine byte and lower coarse nibble.
  own = run(none + 0.1 * (t == 35) * np.float32([0, 0, 1]))
  assert own['coarse'] != plain['coarse'] and own['fine'] != plain['fine']
  # Of the last sample nobody hears the finished value; of the one before the other lane does.
  assert run(none + 0.1 * (t == 35) * np.float32([1, 1, 0])) == plain
  for byte in ([1, 0, 0], [0, 1, 0]):
    assert run(none + 0.1 * (t == 34) * np.float32(byte)) != plain


def test_every_matrix_that_is_pruned_in_the_plain_model_is_in_this_one():
  config = PruningConfig(recurrent=0.9, hidden=0.5, output=0.75, conditioning=0.5)
  targets = pruning.targets(jax.eval_shape(lambda: build().init(0)), config)
  assert targets['recurrent'] == dict.fromkeys('ure', 0.9)
  for layer in (targets['outputs'][s][k] for s in '01' for k in '0123'):
    assert (layer['hidden']['kernel'], layer['output']['kernel']) == (0.5, 0.75)
  assert len(jax.tree.leaves(targets)) == 3 + 2 * 8 + 1


# Sampling


def one_by_one(model, params, mel_FxM, key_2):
  """The samples of one utterance, drawn nibble by nibble from the logits of `nats`' path.

  In the order of the steps, of a step the last lane first: what is not drawn is
  silent, and no logit that is used depends on it.
  """
  samples = len(mel_FxM) * model.mel.hop
  padded = np.full((1, model.frames(samples), model.mel.bands), audio.mel_floor(model.mel))
  padded[0, model.timing.margin:model.timing.margin + len(mel_FxM)] = mel_FxM

  @jax.jit
  def logits(pcm_T):
    pcm_1xN = jnp.pad(pcm_T, (0, model.timing.ahead))[None]
    h, nibbles, _ = model._run(params, model.initial_state(1), pcm_1xN, jnp.float32(padded))
    return head_logits(*model._heads(params, h, nibbles))[:, :, :, 0]

  pick = jax.jit(draw.categorical)
  uniform_Tx4 = draw.uniforms_at(key_2[None], np.arange(samples, dtype=np.uint32)[:, None], 4)
  pcm = np.zeros(samples, np.int16)
  def step(t):
    return t // model.timing.lanes + t % model.timing.lanes * model.schedule.step, -t
  for t in sorted(range(samples), key=step):
    drawn = []
    for k in range(4):
      row = logits(jnp.array(pcm))[k, t % model.timing.lanes, t // model.timing.lanes]
      drawn.append(int(pick(row[None], uniform_Tx4[t, k], 1.0)[0]))
      pcm[t] = fused.join_nibbles(drawn + [0] * (3 - k))
  return pcm


@pytest.mark.parametrize('fields', [{}, {'lanes': 1, 'horizon': 0}])
def test_a_step_draws_what_the_likelihood_says_one_sample_after_another(fields):
  made = whole(4, **fields)
  model, params = sampler(**fields).model, sampler(**fields).params
  np.testing.assert_array_equal(made, one_by_one(model, params, log_mel(4), draw.keys(0, [0])[0]))
  assert len(np.unique(made)) > 0.7 * len(made)


def test_the_state_after_a_block_is_that_of_teacher_forcing():
  """A step against the scan of training; the states after the steps that both have done."""
  model, params = sampler().model, sampler().params
  mel = np.pad(log_mel(FRAMES), ((model.timing.margin, model.timing.margin), (0, 0)),
               constant_values=audio.mel_floor(MEL))[None]
  samples = FRAMES * MEL.hop
  pcm, state = jax.jit(model.sample, static_argnames='samples')(
      params, model.ended(model.sampling_state(1), np.array([samples])), mel,
      draw.keys(0, [0]), np.ones(2, np.float32), samples=samples)
  pcm = np.concatenate(
      [pcm[:, model.timing.delay:], np.zeros((1, model.timing.ahead), np.int16)], axis=1)
  lead = state['pcm'][1:, 0, 0]  # drawn by the first lane, not yet given out
  pcm[0, samples - model.timing.delay:samples:2] = lead
  _, forced = nats(model, params, np.pad(pcm, ((0, 0), (0, model.timing.delay))), mel)
  np.testing.assert_allclose(state['h'], forced['h'], rtol=1e-3, atol=1e-4)


def test_temperatures_are_of_bytes_and_0_needs_no_random_numbers():
  cold = [stream.batch(sampler(temperatures=(0.0, 0.0)), [log_mel(5)], draw.keys(s, [0]))[0]
          for s in (1, 2)]
  np.testing.assert_array_equal(*cold)
  assert not np.array_equal(cold[0], whole(5))
  half = stream.batch(sampler(temperatures=(0.0, 1.0)), [log_mel(5)], draw.keys(1, [0]))[0]
  assert half[0] >> 8 == cold[0][0] >> 8 and len(np.unique(half & 255)) > 20


@pytest.mark.parametrize('samples', [1, 3, 5])
def test_an_utterance_shorter_than_the_delay_is_drawn_to_its_end(samples):
  model = sampler().model
  assert samples < model.timing.delay
  state = model.ended(sampler().initial_state(1), np.array([samples]))
  mel = np.pad(log_mel(BLOCK), ((model.timing.margin, model.timing.margin), (0, 0)),
               constant_values=audio.mel_floor(MEL))
  pcm, _ = sampler().next_block(state, mel[None], draw.keys(0, [0]))
  made = pcm[0, model.timing.delay:]
  assert made[:samples].all() and not made[samples:].any()
  # The first lane has not heard of the end yet.
  np.testing.assert_array_equal(made[:samples:2], whole(BLOCK)[:samples:2])


def test_audio_is_late_by_the_lead_of_the_first_lane():
  model = sampler().model
  assert (model.timing.delay, model.timing.lag, model.timing.ahead) == (2 * (2 + 1), 0, 6)
  assert sampler().latency == ((BLOCK + model.timing.margin) * MEL.hop + 6) / MEL.sample_rate


# Bad input


def test_a_block_that_the_lanes_do_not_divide_is_an_error():
  model = build(lanes=16, units=64, horizon=0, mel=MEL)
  with pytest.raises(ValueError, match='block of 12 samples.*multiple of lanes = 16'):
    model.sample(None, None, None, None, (1.0, 1.0), samples=12)


def test_the_persistent_kernels_refuse_it(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  voice = Voice(Config(model=random_models.FUSED, mel=MEL), sampler().params, {}, 'random')
  with pytest.raises(InputError, match="--engine=pallas: found model.kind = 'fused', expected"):
    persistent.start(voice)
