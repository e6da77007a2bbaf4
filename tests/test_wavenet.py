"""WaveNet: causality by gradients, carried state, sampling against likelihood."""

import functools

import jax
import numpy as np
import pytest
import random_models
from random_models import MEL, build_wavenet as build, nats, parameters, speech

from wavernn_jax import config as config_lib, config_rules, draw
from wavernn_jax.errors import InputError
from wavernn_jax.models import conditioning, context, mixture, wavenet
from wavernn_jax.sampling import scan

NET = build()
FRAMES, BLOCK = 9, 4

sampler, whole = random_models.drawn_once(build, BLOCK, FRAMES)
log_mel = functools.partial(random_models.log_mel, MEL)


def test_the_paper_s_has_30_blocks_in_3_cycles():
  config = config_lib.Config(model=config_lib.ModelConfig(kind='wavenet'))
  model = wavenet.WaveNet(config.model, config.mel)
  assert model.dilations == tuple(2**i for i in range(10)) * 3
  assert model.reach == 3 * 1023 + 1
  config_rules.check(config)


def test_parameters_depend_on_the_seed_alone():
  first, again, other = NET.init(3), NET.init(3), NET.init(4)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first['input']['kernel'], other['input']['kernel'])
  assert sorted(first) == ['blocks', 'conditioning', 'input', 'outputs']


@pytest.mark.parametrize('trained', [False, True])
def test_every_parameter_has_a_gradient(trained):
  params = parameters(NET) if trained else NET.init(3)
  pcm, mel = speech(NET, 40, batch=4)
  def total(params):
    return sum(NET.loss(params, NET.initial_state(4), pcm, mel).values())
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


@pytest.mark.parametrize('t', [0, 5, 18])
def test_a_sample_matters_to_its_own_likelihood_and_to_later_ones_in_reach(t):
  with jax.enable_x64(True):  # the furthest taps have a small part in it
    pcm, mel = speech(NET, 20, dtype=np.float64)
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
  pcm, mel = speech(model, frames * hop)
  changed = mel.copy()
  changed[:, frame + model.context] += 2
  before, after = (nats(model, parameters(model), pcm, m)[0] for m in (mel, changed))
  first = frame - conditioning.context(model.config) - 1  # the frame before, interpolated
  t = int(np.flatnonzero((before != after).any(axis=(0, 1)))[0])
  assert first * hop < t <= (first + 1) * hop + (0 if center else hop // 2)


# Likelihood


def test_the_likelihood_is_that_of_the_mixture_at_each_sample():
  pcm, mel = speech(NET, 12)
  params = parameters(NET)
  heard = np.concatenate([np.zeros((2, 1)), pcm[:, :-1]], axis=1).astype(np.float32)
  outputs, _ = NET.outputs(params, NET.initial_state(2)['queue'], context.hear_value(heard.T), mel)
  expected = -mixture.log_mass(mixture.mixture(outputs, mixture.UNIT), pcm.T, 1).T
  np.testing.assert_allclose(nats(NET, params, pcm, mel)[0].sum(axis=0), expected, rtol=1e-4,
                             atol=1e-3)


def test_pieces_with_carried_state_are_the_whole():
  random_models.assert_pieces_with_carried_state_are_the_whole(NET)


@pytest.mark.parametrize('burn_in', [0, 7])
def test_loss_is_the_mean_of_nats_after_the_burn_in(burn_in):
  with jax.enable_x64(True):
    pcm, mel = speech(NET, 24, dtype=np.float64)
    random_models.assert_loss_is_the_mean_of_nats(
        NET, parameters(NET, dtype=np.float64), NET.initial_state(2), pcm, mel, burn_in)


def test_a_crop_hears_the_sample_before_it():
  pcm, mel = speech(NET, 8)
  losses = [NET.nats(parameters(NET), NET.crop_state(np.full((2, 1), value, np.int16)), pcm,
                     mel)[0]['coarse'][:, 0] for value in (0, 3_000)]
  assert (losses[0] != losses[1]).all()
  silent = nats(NET, parameters(NET), pcm, mel)[0][0, :, 0]
  np.testing.assert_allclose(losses[0], silent, rtol=1e-4, atol=1e-4)


def test_noise_on_the_inputs_is_heard():
  pcm, mel = speech(NET, 8)
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
  _, mel = speech(NET, 400)
  pcm = np.rint(rng.normal(0, 200, (2, 400))).astype(np.int16)
  found, _ = nats(NET, NET.init(0), pcm, mel)
  assert found.sum(axis=0).mean() < np.log(2**16) - 2


# Sampling


def test_draws_again_from_the_teacher_forced_network_give_the_samples():
  """Also after the queues have been round several times, and from a carried state."""
  samples, keys = 11 * MEL.hop + 3, draw.keys(5, range(3))
  with jax.enable_x64(True):  # a place rounds to one value or the next
    params = parameters(NET, dtype=np.float64)
    mel = np.stack([log_mel(NET.frames(samples), b, np.float64) for b in range(3)])
    pcm, before = speech(NET, 6 * MEL.hop, batch=3, dtype=np.float64)
    _, start = nats(NET, params, pcm, before)
    for temperatures in ((1.0, 1.0), (0.5, 0.8), (0.0, 0.0)):
      drawn, end = jax.jit(NET.sample, static_argnames='samples')(
          params, start, mel, keys, np.array(temperatures), samples=samples)
      components, queue = jax.jit(NET._run)(params, start, drawn, mel)
      uniforms = draw.uniforms(keys, start['index'], samples)
      again = jax.vmap(mixture.sample, (0, 0, None))(components, uniforms, temperatures)
      np.testing.assert_array_equal(again, drawn.T)
      np.testing.assert_allclose(end['queue'], queue, atol=1e-9)
      np.testing.assert_array_equal(end['pcm'], drawn[:, -1:])
      np.testing.assert_array_equal(end['index'], start['index'] + samples)
      assert len(np.unique(drawn)) > 30


def test_the_state_after_sampling_is_the_state_after_teacher_forcing():
  samples = 5 * MEL.hop
  mel = np.stack([log_mel(NET.frames(samples), b) for b in range(2)])
  pcm, drawn = jax.jit(NET.sample, static_argnames='samples')(
      parameters(NET), NET.initial_state(2), mel, draw.keys(0, range(2)),
      np.ones(2, np.float32), samples=samples)
  _, forced = nats(NET, parameters(NET), np.asarray(pcm), mel)
  assert sorted(forced) == sorted(drawn)
  for name, expected in forced.items():
    np.testing.assert_allclose(drawn[name], expected, atol=1e-4, err_msg=name)


def test_pieces_of_any_length_with_carried_state_are_the_whole_sampling():
  frames, keys = 7, draw.keys(1, range(2))
  run = jax.jit(NET.sample, static_argnames='samples')
  with jax.enable_x64(True):
    params = parameters(NET, dtype=np.float64)
    mel = np.stack([log_mel(NET.frames(frames * MEL.hop), b, np.float64) for b in range(2)])
    ones = np.ones(2)
    expected, end = run(params, NET.sampling_state(2), mel, keys, ones,
                        samples=frames * MEL.hop)
    state, pieces = NET.sampling_state(2), []
    for first, last in ((0, 1), (1, 4), (4, 7)):
      pcm, state = run(params, state, mel[:, first:last + 2 * NET.context], keys, ones,
                       samples=(last - first) * MEL.hop)
      pieces.append(pcm)
  np.testing.assert_array_equal(np.concatenate(pieces, axis=1), expected)
  np.testing.assert_allclose(state['queue'], end['queue'], atol=1e-9)


def test_a_stream_is_the_whole_utterance_however_it_is_cut():
  for cuts in ([], [1, 2, 3], [0, 5, 5, FRAMES]):
    chunks = np.split(log_mel(FRAMES), cuts)
    found = list(scan.stream_blocks(sampler(), chunks, draw.keys(0, [0])))
    np.testing.assert_array_equal(np.concatenate(found), whole())


def test_a_row_does_not_depend_on_its_neighbours():
  def row(others, seed):
    mels = [log_mel(others[0], seed), log_mel(5), log_mel(others[1], seed + 1)]
    return scan.synthesize(sampler(), mels, draw.keys(0, [seed, 7, seed + 1]))[1]
  np.testing.assert_array_equal(row((5, 5), 10), row((FRAMES, 1), 30))


def test_seeds_utterances_and_the_mel_are_heard():
  drawn = {whole(seed=seed, utterance=utterance).tobytes()
           for seed in (0, 1) for utterance in (0, 1)}
  assert len(drawn) == 4
  other = scan.synthesize(sampler(), [log_mel(FRAMES, 1)], draw.keys(0, [0]))[0]
  assert np.mean(other != whole()) > 0.5


def test_unrolling_and_donation_change_no_sample():
  other = scan.Sampler(NET, parameters(NET), block_frames=BLOCK, unroll=3, donate=True)
  np.testing.assert_array_equal(
      scan.synthesize(other, [log_mel(FRAMES)], draw.keys(0, [0]))[0], whole())


def test_bfloat16_products_stay_near_float32():
  low = build(compute_dtype='bfloat16')
  pcm, mel = speech(NET, 24)
  params = NET.init(0)
  plain, rounded = (nats(model, params, pcm, mel)[0] for model in (NET, low))
  assert (plain != rounded).any()
  np.testing.assert_allclose(rounded, plain, rtol=0.05, atol=0.05)


# Configuration


@pytest.mark.parametrize('changes, message', [
    ({'blocks': 31}, 'model.cycles: found 3, expected a divisor of model.blocks = 31'),
    ({'blocks': 0}, 'model.blocks: found 0, expected a positive number'),
    ({'cycles': 0}, 'model.cycles: found 0, expected a positive number'),
    ({'residual': 0}, 'model.residual: found 0'), ({'skip': 0}, 'model.skip: found 0'),
    ({'mixtures': 0}, 'model.mixtures: found 0'),
    ({'blocks': 60, 'cycles': 2}, 'model.cycles: found 2, expected 4 or more'),
    ({'lanes': 2}, 'model.lanes: found 2, expected 1')])
def test_an_impossible_model_is_named(changes, message):
  config = config_lib.Config(model=config_lib.ModelConfig(kind='wavenet', **changes))
  with pytest.raises(InputError, match=message):
    config_rules.check(config)


def test_pruning_is_refused():
  config = config_lib.Config(model=config_lib.ModelConfig(kind='wavenet'))
  config.pruning.recurrent = 0.9
  with pytest.raises(InputError, match='pruning: found 0.9, expected 0 .*wavenet is not pruned'):
    config_rules.check(config)
