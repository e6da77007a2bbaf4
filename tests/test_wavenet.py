"""WaveNet: causality by gradients, carried state, sampling against likelihood."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import random_models
from random_models import MEL, build_wavenet as build, nats, parameters, speech as random_speech

from wavernn_jax import audio, config as config_lib, draw, rules
from wavernn_jax.errors import InputError
from wavernn_jax.models import conditioning, context, mixture, prediction, wavenet
from wavernn_jax.sampling import scan, stream

NET = build()
# What is coded: samples, or residuals of the prediction from the spectrogram.
BOTH = pytest.mark.parametrize('net', [NET, build(prediction='spectral', taps=7)],
                               ids=['samples', 'residuals'])
FRAMES, BLOCK = 9, 4

sampler, whole = random_models.drawn_once(build, BLOCK, FRAMES)
log_mel = functools.partial(random_models.log_mel, MEL)


def test_the_paper_s_has_30_blocks_in_3_cycles():
  config = config_lib.Config(model=config_lib.ModelConfig(kind='wavenet'))
  model = wavenet.WaveNet(config.model, config.mel)
  assert model.dilations == tuple(2**i for i in range(10)) * 3
  assert model.reach == 3 * 1023 + 1
  rules.check(config)


def test_parameters_depend_on_the_seed_alone():
  first, again, other = NET.init(3), NET.init(3), NET.init(4)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first['input']['kernel'], other['input']['kernel'])
  assert sorted(first) == ['blocks', 'conditioning', 'input', 'outputs']


@BOTH
def test_every_parameter_has_a_gradient(net):
  pcm, mel = random_speech(net, 40, batch=4)
  params = net.init(3)
  def total(params):
    return sum(net.loss(params, net.initial_state(4), pcm, mel).values())
  for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(total))(params)):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(gradient).all() and gradient.any(), name
    if 'layers' not in name and not name.startswith("['outputs']"):  # there, a ReLU may rest
      assert (gradient != 0).mean() > 0.9, name


# Causality


def test_gradients_are_zero_exactly_outside_the_reach():
  samples = 20
  with jax.enable_x64(True):
    params = parameters(NET, dtype=np.float64)
    params['outputs']['hidden']['bias'] += 4.0  # a ReLU at rest would hide a connection
    rng = np.random.default_rng(0)
    for i in range(NET.config.blocks):  # and so would one of the skip channels
      params['blocks'][str(i)]['outputs']['bias'] += 2.0
    heard = rng.standard_normal((samples, 1, context.INPUTS))
    mel = log_mel(NET.frames(samples), dtype=np.float64)[None]
    weights = rng.standard_normal(NET.config.mixtures * mixture.FIELDS)
    @jax.jit
    @jax.jacrev
    def slopes(heard):
      outputs, _ = NET.outputs(params, NET.initial_state(1)['queue'], heard, mel)
      return outputs[:, 0] @ weights
    found = np.asarray(slopes(heard))[:, :, 0] != 0  # t, what is heard before t, input
  # What is heard at t is the sample before it: the mixture never hears its own.
  t, k = np.indices((samples, samples))
  expected = (k <= t) & (t - k < NET.reach)
  assert NET.reach == 15 and not expected.all()
  np.testing.assert_array_equal(found, np.stack([expected] * context.INPUTS, axis=-1))


@BOTH
@pytest.mark.parametrize('t', [0, 5, 18])
def test_a_sample_matters_to_no_earlier_one(net, t):
  pcm, mel = random_speech(net, 20)
  changed = pcm.copy()
  changed[:, t] ^= 0x0101
  before, after = (nats(net, parameters(net), p, mel)[0].sum(axis=0) for p in (pcm, changed))
  np.testing.assert_array_equal(after[:, :t], before[:, :t])
  assert (after != before)[:, t:t + 3].all()


@pytest.mark.parametrize('t', [0, 5])
def test_a_sample_matters_to_its_own_likelihood_and_to_later_ones_in_reach(t):
  with jax.enable_x64(True):  # the furthest taps have a small part in it
    pcm, mel = random_speech(NET, 20, dtype=np.float64)
    changed = pcm.copy()
    changed[:, t] ^= 0x0101
    params = parameters(NET, dtype=np.float64)
    before, after = (nats(NET, params, p, mel)[0].sum(axis=0) for p in (pcm, changed))
  np.testing.assert_array_equal(after[:, :t], before[:, :t])
  moved = (after != before).all(axis=0)
  assert moved[t:t + 1 + NET.reach].all()
  np.testing.assert_array_equal(after[:, t + 1 + NET.reach:], before[:, t + 1 + NET.reach:])


@pytest.mark.parametrize('center', [True, False])
def test_a_mel_frame_is_heard_from_its_context_on(center):
  mel_config = config_lib.MelConfig(**{**vars(MEL), 'center': center})
  model = wavenet.WaveNet(NET.config, mel_config)
  frames, frame, hop = 8, 5, MEL.hop
  pcm, mel = random_speech(model, frames * hop)
  changed = mel.copy()
  changed[:, frame + model.timing.margin] += 2
  before, after = (nats(model, parameters(model), pcm, m)[0] for m in (mel, changed))
  first = frame - conditioning.margin(model.config) - 1  # the frame before, interpolated
  t = int(np.flatnonzero((before != after).any(axis=(0, 1)))[0])
  assert first * hop < t <= (first + 1) * hop + (0 if center else hop // 2)


# Likelihood


def test_the_likelihood_is_that_of_the_mixture_at_each_sample():
  pcm, mel = random_speech(NET, 12)
  params = parameters(NET)
  heard = np.concatenate([np.zeros((2, 1)), pcm[:, :-1]], axis=1).astype(np.float32)
  outputs, _ = NET.outputs(params, NET.initial_state(2)['queue'], context.hear_value(heard.T), mel)
  expected = -mixture.log_mass(mixture.mixture(outputs, mixture.UNIT), pcm.T, 1).T
  np.testing.assert_allclose(nats(NET, params, pcm, mel)[0].sum(axis=0), expected, rtol=1e-4,
                             atol=1e-3)


@BOTH
def test_all_values_of_a_sample_sum_to_one(net):
  """Residuals too, modulo 2¹⁶."""
  t, values = 2, np.arange(-2**15, 2**15).astype(np.int16)
  past, mel = random_speech(net, t + 1, batch=1)
  pcm = np.broadcast_to(past, (len(values), t + 1)).copy()
  pcm[:, t] = values
  mel = np.broadcast_to(mel, (len(values), *mel.shape[1:]))
  found, _ = nats(net, parameters(net), pcm, mel)
  assert np.exp(-np.float64(found.sum(axis=0)[:, t])).sum() == pytest.approx(1, abs=1e-3)
  coarse = np.exp(-np.float64(found[0, :, t])).reshape(256, 256)
  assert coarse.sum() / 256 == pytest.approx(1, abs=1e-3)


@BOTH
def test_pieces_with_carried_state_are_the_whole(net):
  random_models.assert_pieces_with_carried_state_are_the_whole(net)


@BOTH
@pytest.mark.parametrize('burn_in', [0, 7])
def test_loss_is_the_mean_of_nats_after_the_burn_in(net, burn_in):
  with jax.enable_x64(True):
    pcm, mel = random_speech(net, 24, dtype=np.float64)
    random_models.assert_loss_is_the_mean_of_nats(
        net, parameters(net, dtype=np.float64), net.initial_state(2), pcm, mel, burn_in)


def test_a_crop_hears_the_sample_before_it():
  pcm, mel = random_speech(NET, 8)
  losses = [NET.nats(parameters(NET), NET.crop_state(np.full((2, 1), value, np.int16)), pcm,
                     mel)[0]['coarse'][:, 0] for value in (0, 3_000)]
  assert (losses[0] != losses[1]).all()
  silent = nats(NET, parameters(NET), pcm, mel)[0][0, :, 0]
  np.testing.assert_allclose(losses[0], silent, rtol=1e-4, atol=1e-4)


def test_noise_on_the_inputs_is_heard():
  pcm, mel = random_speech(NET, 8)
  loss = jax.jit(lambda noise: NET.loss(
      parameters(NET), NET.initial_state(2), pcm, mel, input_noise=noise))
  zero = np.zeros((8, 2, 3), np.float32)
  plain = NET.loss(parameters(NET), NET.initial_state(2), pcm, mel)
  assert loss(zero)['coarse'] == pytest.approx(float(plain['coarse']), rel=1e-5)
  for column, heard in ((0, True), (1, True), (2, False)):
    noise = zero.copy()
    noise[..., column] = 0.3
    assert (loss(noise)['coarse'] != loss(zero)['coarse']) == heard


def test_an_untrained_model_is_no_worse_than_uniform_on_quiet_samples():
  rng = np.random.default_rng(0)
  _, mel = random_speech(NET, 400)
  pcm = np.rint(rng.normal(0, 200, (2, 400))).astype(np.int16)
  found, _ = nats(NET, NET.init(0), pcm, mel)
  assert found.sum(axis=0).mean() < np.log(2**16) - 2


def test_an_untrained_model_of_residuals_is_the_closed_form(speech, mel):
  """A Laplace distribution of scale 0.7 σ."""
  pcm = speech(0.5)
  frames = audio.utterance_log_mel(pcm, mel)
  net = wavenet.WaveNet(dataclasses.replace(
      random_models.WAVENET, prediction='spectral', taps=32, mixtures=10), mel)
  samples, margin = 70 * mel.hop, net.timing.margin
  window = np.pad(frames[:70 + margin], ((margin, 0), (0, 0)),
                  constant_values=audio.mel_floor(mel))[None]
  found, _ = nats(net, net.init(0), pcm[None, :samples], window)
  padded = np.pad(pcm[None, :samples], ((0, 0), (net.timing.past, 0)))
  step, values = net.hearing.sequence(padded, window, np.float32)
  scale = 0.7 * np.asarray(step.unit)
  laplace = np.log(2 * scale) + np.abs(np.float32(values)) / scale
  assert found.sum(axis=0).mean() == pytest.approx(laplace.mean(), abs=0.1)
  assert laplace.mean() < np.log(2**16) - 4


# Sampling


@BOTH
def test_draws_again_from_the_teacher_forced_network_give_the_samples(net):
  """Also after the queues have been round several times, and from a carried state."""
  samples, keys = 11 * MEL.hop + 3, draw.keys(5, range(3))
  with jax.enable_x64(True):  # a place rounds to one value or the next
    params = parameters(net, dtype=np.float64)
    mel = np.stack([log_mel(net.frames(samples), b, np.float64) for b in range(3)])
    pcm, before = random_speech(net, 6 * MEL.hop, batch=3, dtype=np.float64)
    _, start = nats(net, params, pcm, before)
    for temperatures in ((1.0, 1.0), (0.5, 0.8), (0.0, 0.0)):
      drawn, end = jax.jit(net.sample, static_argnames='samples')(
          params, start, mel, keys, np.array(temperatures), samples=samples)
      components, _, queue = jax.jit(net._run)(params, start, drawn, mel)
      uniforms = draw.uniforms(keys, start['index'], samples)
      values = jax.vmap(mixture.sample, (0, 0, None))(components, uniforms, temperatures)
      known = np.concatenate([start['pcm'], drawn], axis=1)
      step, _ = net.hearing.sequence(known, mel, np.float64)
      np.testing.assert_array_equal(prediction.decode(values, step.predicted), drawn.T)
      np.testing.assert_allclose(end['queue'], queue, atol=1e-9)
      np.testing.assert_array_equal(end['pcm'], known[:, -net.timing.past:])
      np.testing.assert_array_equal(end['index'], start['index'] + samples)
      assert len(np.unique(drawn)) > 30


@BOTH
def test_the_state_after_sampling_is_the_state_after_teacher_forcing(net):
  samples = 5 * MEL.hop
  mel = np.stack([log_mel(net.frames(samples), b) for b in range(2)])
  pcm, drawn = jax.jit(net.sample, static_argnames='samples')(
      parameters(net), net.initial_state(2), mel, draw.keys(0, range(2)),
      np.ones(2, np.float32), samples=samples)
  _, forced = nats(net, parameters(net), np.asarray(pcm), mel)
  assert sorted(forced) == sorted(drawn)
  for name, expected in forced.items():
    np.testing.assert_allclose(drawn[name], expected, atol=1e-4, err_msg=name)


@BOTH
def test_pieces_of_any_length_with_carried_state_are_the_whole_sampling(net):
  frames, keys = 7, draw.keys(1, range(2))
  run = jax.jit(net.sample, static_argnames='samples')
  with jax.enable_x64(True):
    params = parameters(net, dtype=np.float64)
    mel = np.stack([log_mel(net.frames(frames * MEL.hop), b, np.float64) for b in range(2)])
    ones = np.ones(2)
    expected, end = run(params, net.sampling_state(2), mel, keys, ones,
                        samples=frames * MEL.hop)
    state, pieces = net.sampling_state(2), []
    for first, last in ((0, 1), (1, 4), (4, 7)):
      pcm, state = run(params, state, mel[:, first:last + 2 * net.timing.margin], keys, ones,
                       samples=(last - first) * MEL.hop)
      pieces.append(pcm)
  np.testing.assert_array_equal(np.concatenate(pieces, axis=1), expected)
  np.testing.assert_allclose(state['queue'], end['queue'], atol=1e-9)


@pytest.mark.parametrize('fields', [{}, {'prediction': 'spectral', 'taps': 7}])
def test_a_stream_is_the_whole_utterance_however_it_is_cut(fields):
  for cuts in ([], [1, 2, 3], [0, 5, 5, FRAMES]):
    chunks = np.split(log_mel(FRAMES), cuts)
    found = list(stream.stream(sampler(**fields), chunks, draw.keys(0, [0])))
    np.testing.assert_array_equal(np.concatenate(found), whole(**fields))


def test_a_row_does_not_depend_on_its_neighbours():
  def row(others, seed):
    mels = [log_mel(others[0], seed), log_mel(5), log_mel(others[1], seed + 1)]
    return stream.batch(sampler(), mels, draw.keys(0, [seed, 7, seed + 1]))[1]
  np.testing.assert_array_equal(row((5, 5), 10), row((FRAMES, 1), 30))


def test_seeds_utterances_and_the_mel_are_heard():
  drawn = {whole(seed=seed, utterance=utterance).tobytes()
           for seed in (0, 1) for utterance in (0, 1)}
  assert len(drawn) == 4
  other = stream.batch(sampler(), [log_mel(FRAMES, 1)], draw.keys(0, [0]))[0]
  assert np.mean(other != whole()) > 0.5


def test_unrolling_and_donation_change_no_sample():
  other = scan.Sampler(NET, parameters(NET), block_frames=BLOCK, unroll=3, donate=True)
  np.testing.assert_array_equal(
      stream.batch(other, [log_mel(FRAMES)], draw.keys(0, [0]))[0], whole())


def test_bfloat16_products_stay_near_float32():
  low = build(compute_dtype='bfloat16')
  pcm, mel = random_speech(NET, 24)
  params = NET.init(0)
  plain, rounded = (nats(model, params, pcm, mel)[0] for model in (NET, low))
  assert (plain != rounded).any()
  np.testing.assert_allclose(rounded, plain, rtol=0.05, atol=0.05)


# Configuration


@pytest.mark.parametrize('changes, message', [
    ({'blocks': 31}, 'model.cycles: found 3, expected a divisor of model.blocks = 31'),
    ({'blocks': 0}, 'model.blocks: found 0, expected 1 to 256'),
    ({'cycles': 0}, 'model.cycles: found 0, expected 1 to 256'),
    ({'residual': 0}, 'model.residual: found 0'), ({'skip': 0}, 'model.skip: found 0'),
    ({'mixtures': 0}, 'model.mixtures: found 0'),
    ({'blocks': 60, 'cycles': 2}, 'model.cycles: found 2, expected 4 or more'),
    ({'lanes': 2}, 'model.lanes: found 2, expected 1')])
def test_an_impossible_model_is_named(changes, message):
  config = config_lib.Config(model=config_lib.ModelConfig(kind='wavenet', **changes))
  with pytest.raises(InputError, match=message):
    rules.check(config)


def test_pruning_is_refused():
  config = config_lib.Config(model=config_lib.ModelConfig(kind='wavenet'))
  config.pruning.recurrent = 0.9
  with pytest.raises(InputError, match='pruning: found 0.9, expected 0 .*wavenet is not pruned'):
    rules.check(config)
