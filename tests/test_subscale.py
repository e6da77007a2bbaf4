"""§4 Subscale WaveRNN: folding, causality by gradients, exact likelihood, blocks."""

import dataclasses
import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_models
from random_models import build, nats, parameters, speech

from wavernn_jax import audio, config as config_lib, likelihood
from wavernn_jax.evaluation import evaluate
from wavernn_jax.models import conditioning, context, subscale, wavernn
from wavernn_jax.models.system import Timing
from wavernn_jax.sampling import scan

MEL, MODEL = random_models.MEL, random_models.SUBSCALE


# Folding


@hypothesis.given(samples=st.integers(0, 40), lanes=st.integers(1, 9), width=st.integers(0, 2))
@hypothesis.settings(max_examples=30, deadline=None)
def test_unfold_is_the_inverse_of_fold(samples, lanes, width):
  x = np.arange(samples * 2**width).reshape(samples, *[2] * width) + 1
  folded = subscale.fold(x, lanes)
  assert folded.shape == (-(-samples // lanes), lanes, *x.shape[1:])
  np.testing.assert_array_equal(subscale.unfold(folded, samples), x)
  for s, i in itertools.product(range(lanes), range(len(folded))):
    t = lanes * i + s
    np.testing.assert_array_equal(folded[i, s], x[t] if t < samples else 0)


# Causality


def _differentiable_logits(model, params, mel, samples):
  """A function from scaled bytes NxSxBx2 to all logits of each sample, IxSx2xV."""
  x_TxBxH = conditioning.sample_gates(
      params['conditioning'], mel, samples, model.config, model.mel)
  x_IxSxBxH = [subscale.fold(x, model.timing.lanes) for x in x_TxBxH]
  def logits(bytes_NxSxBx2):
    h, seen = model.states(params, model.initial_state(1)['h'], x_IxSxBxH, bytes_NxSxBx2)
    return jnp.stack([
        likelihood.layer_logits(params['outputs'][b], y)
        for b, y in zip(wavernn.BYTES, wavernn.output_inputs(h, seen), strict=True)], -2)[:, :, 0]
  return logits


@pytest.mark.parametrize('lanes, horizon', [(4, 3), (3, 0), (2, 4)])
def test_gradients_are_zero_exactly_where_the_scheme_says(lanes, horizon, monkeypatch):
  # `add_inputs` has no gradient of the bytes, which training does not need.
  monkeypatch.setattr(conditioning, 'add_inputs', lambda x, b, w: x + b @ w)
  positions = 9
  with jax.enable_x64(True):
    model = build(lanes=lanes, horizon=horizon)
    params = parameters(model, dtype=np.float64)
    for layer in params['context']['layers'].values():
      layer['bias'] = layer['bias'] + 4  # a ReLU at rest would hide a connection
    pcm, mel = speech(model, positions * lanes, batch=1, dtype=np.float64)
    first = model.timing.past // lanes
    pcm = np.concatenate([np.zeros((1, model.timing.past), np.int16), pcm], axis=1)
    scaled = jnp.stack([subscale.fold(audio.scale_byte(b).astype(np.float64), lanes)
                        for b in audio.split_bytes(pcm.T)], axis=-1)
    logits = _differentiable_logits(model, params, mel, positions * lanes)
    weights = np.random.default_rng(1).standard_normal(likelihood.BYTE_VALUES)
    slopes = np.asarray(jax.jit(jax.jacrev(lambda b: logits(b) @ weights))(scaled))
  slopes = slopes[:, :, :, first:, :, 0]  # i, s, predicted byte, k, z, heard byte
  assert slopes.shape[3] == positions + horizon
  for i, s, k, z in itertools.product(range(positions), range(lanes),
                                      range(positions + horizon), range(lanes)):
    found = slopes[i, s, :, k, z] != 0
    heard = (z < s and k <= i + horizon) or (z == s and k < i)
    expected = np.full((2, 2), heard)
    expected[1, 0] |= (k, z) == (i, s)  # the fine byte sees its own coarse byte
    np.testing.assert_array_equal(found, expected, err_msg=f'{i, s} from {k, z}')


@pytest.mark.parametrize('fields', [{}, {'lanes': 2, 'horizon': 0}])
def test_every_parameter_has_a_gradient(fields):
  model = build(**fields)
  pcm, mel = speech(model, 80, batch=4)
  def total(params):
    return sum(model.loss(params, model.initial_state(4), pcm, mel).values())
  # Not from `init`: there the context has no influence, and so no gradient.
  gradients = jax.jit(jax.grad(total))(parameters(model, seed=3))
  for path, gradient in jax.tree.leaves_with_path(gradients):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(gradient).all() and gradient.any(), name
    if 'layers' not in name and 'outputs' not in name:  # there, a ReLU may rest
      assert gradient.all(), name


# The context network


@pytest.mark.parametrize('horizon', [0, 1, 2, 3, 5, 8])
def test_the_horizon_is_reached_exactly_and_without_gaps(horizon):
  reach = context.reach(dataclasses.replace(MODEL, horizon=horizon, context_layers=3))
  ahead = {0}
  for f in [1] * reach.near_ahead + [f for _, f in reach.dilations]:
    ahead |= {a + f for a in ahead}
  assert ahead == set(range(horizon + 1)) and reach.ahead == horizon
  assert reach.past == 1 + 1 + 2 + 4


def test_all_samples_are_heard_apart_and_in_order():
  pcm = np.arange(-2**15, 2**15).astype(np.int16)
  scaled = np.stack([audio.scale_byte(b) for b in audio.split_bytes(pcm)], axis=-1)
  value, level = np.asarray(jax.jit(context.hear)(scaled)).T
  np.testing.assert_allclose(value, context.GAIN * pcm / 32_768, atol=1e-6 * context.GAIN)
  assert (np.diff(value) > 0).all() and (np.diff(level) > 0).all()
  np.testing.assert_allclose(level[[1, 2**15 - 1, 2**15, 2**15 + 1, -1]],
                             [-1, -np.log(2) / np.log(2**15), 0, np.log(2) / np.log(2**15), 1],
                             atol=1e-3)


@pytest.mark.parametrize('horizon, block', [(3, 1), (3, 2), (0, 3), (4, 5)])
def test_the_context_network_block_by_block_is_the_whole(horizon, block):
  """Every lane at its own time, from silence on, as the sampler runs it."""
  model = build(horizon=horizon)
  config, reach = model.config, context.reach(model.config)
  params, blocks = parameters(model)['context'], 5
  rng = np.random.default_rng(0)
  silent = [audio.scale_byte(np.array(b)) for b in (128, 0)]
  late = (block + horizon) * np.arange(4)
  lead = late[-1]
  bytes_NxBxSx2 = np.full((lead + reach.past + blocks * block + reach.ahead, 2, 4, 2), silent)
  heard = lead + reach.past  # before: silence
  bytes_NxBxSx2[heard:] = rng.uniform(-1, 1, bytes_NxBxSx2[heard:].shape)
  whole = context.features(params, bytes_NxBxSx2.astype(np.float32), config)
  still = context.silence(params, np.float32(silent), config)
  caches = [jnp.broadcast_to(c, (d + f, 4, 2, 6)) for c, (d, f) in
            zip(still, reach.dilations, strict=True)]
  window = np.arange(block + reach.near + reach.near_ahead) - reach.near - reach.near_ahead
  compared, run = 0, jax.jit(functools.partial(context.block_features, config=config))
  for b in range(blocks + lead // block):
    # Positions of each lane's block in `whole`, and where its first layer's window ends.
    first = lead + b * block - late
    rows = reach.past + first[:, None] + reach.ahead + window
    rows = np.minimum(rows, len(bytes_NxBxSx2) - 1)
    own = bytes_NxBxSx2[rows].transpose(1, 0, 2, 3, 4).astype(np.float32)
    found, caches = run(params, caches, own)
    for lane in range(4):
      if first[lane] + block <= len(whole):
        np.testing.assert_allclose(
            found[:, lane], whole[first[lane]:first[lane] + block, lane], rtol=1e-4, atol=1e-5)
        compared += 1
  assert compared >= 4 * blocks


# Likelihood


def test_the_likelihood_of_all_utterances_of_a_tiny_alphabet_sums_to_one():
  lanes, samples = 2, 5  # 4 values a sample, no multiple of the lanes
  with jax.enable_x64(True):
    model = build(lanes=lanes, horizon=1)
    params = parameters(model, dtype=np.float64)
    for byte in wavernn.BYTES:
      output = params['outputs'][byte]['output']
      params['outputs'][byte]['output'] = {k: a[..., :2] for k, a in output.items()}
    values = [256 * c + f - 2**15 for c in (0, 1) for f in (0, 1)]
    pcm = np.array(list(itertools.product(values, repeat=samples)), np.int16)
    mel = np.broadcast_to(speech(model, samples, batch=1, dtype=np.float64)[1][0],
                          (len(pcm), model.frames(samples), MEL.bands))
    after = np.zeros((len(pcm), model.timing.ahead), np.int16)
    found, _ = nats(model, params, np.concatenate([pcm, after], axis=1), mel)
  p = np.exp(-found.sum(axis=(0, 2)))
  assert len(p) == 1024 and p.max() > 20 * p.min()
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-9)


def test_padding_carries_no_likelihood_and_changes_none():
  model = build()
  params, samples = parameters(model), 3 * MEL.hop - 3
  pcm, mel = speech(model, samples)
  pcm[:, samples:] = 0
  short, _ = nats(model, params, pcm, mel)
  padded = np.pad(pcm, ((0, 0), (0, 3)))
  long, _ = nats(model, params, padded, mel)
  assert short.shape == (2, 2, samples)
  np.testing.assert_allclose(long[:, :, :samples], short, rtol=1e-5, atol=1e-5)


def test_input_noise_of_a_sample_is_that_of_its_own_lane():
  model = build()
  params, (pcm, mel) = parameters(model), speech(model, 16)
  run = jax.jit(lambda noise: model.loss(params, model.initial_state(2), pcm, mel, 0, noise))
  none = np.zeros((16, 2, 3), np.float32)
  # c_t of the last sample reaches its own fine byte alone.
  at_the_end = none + (np.arange(16) == 15)[:, None, None] * np.float32([0, 0, 1])
  plain, last = run(none), run(at_the_end)
  assert last['coarse'] == plain['coarse'] and last['fine'] != plain['fine']


# One lane


def test_one_lane_is_the_plain_model():
  model, plain = build(lanes=1, horizon=0), build(kind='wavernn', lanes=1, horizon=0)
  jax.tree.map(np.testing.assert_array_equal, model.init(3), plain.init(3))
  params, (pcm, mel) = parameters(plain), speech(plain, 22)
  np.testing.assert_allclose(nats(model, params, pcm, mel)[0], nats(plain, params, pcm, mel)[0],
                             rtol=1e-6)
  losses = [jax.jit(jax.value_and_grad(lambda p, m=m: sum(
      m.loss(p, m.initial_state(2), pcm, mel, 5).values())))(params) for m in (model, plain)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *losses)
  assert model.timing == Timing(margin=plain.timing.margin)


# Evaluation


class _Utterance:
  mel_FxM = None

  def __init__(self, samples, seed):
    self.pcm = np.random.default_rng(seed).integers(-3000, 3000, samples).astype(np.int16)
    self.samples = samples

  def read(self, start, stop, rate):
    return self.pcm[start:stop]


@pytest.mark.parametrize('block_frames', [2])
def test_evaluation_in_blocks_is_the_whole_utterance_lane_by_lane(block_frames):
  model = build()
  params = parameters(model)
  engine = scan.ScanEngine(model, params, block_frames=block_frames)
  utterances = [_Utterance(n, n) for n in (37, 21, 50)]
  sums, samples = evaluate.lane_nats(engine, utterances, batch=2)
  lanes = evaluate.lane_summary(sums, samples)['nll_lanes']
  expected, counts = np.zeros((3, 4)), np.zeros(4)
  for u, utterance in enumerate(utterances):
    mel_FxM = audio.utterance_log_mel(utterance.pcm, MEL)
    mel = np.full((1, model.frames(utterance.samples), 3), audio.mel_floor(MEL), np.float32)
    rest = mel[0, model.timing.margin:]
    rest[:len(mel_FxM)] = mel_FxM[:len(rest)]
    found, _ = nats(model, params, np.pad(utterance.pcm, (0, model.timing.ahead))[None], mel)
    for t, n in enumerate(found.sum(axis=0)[0]):
      expected[u, t % 4] += n
      counts[t % 4] += 1
  np.testing.assert_allclose(sum(sums.values()), expected, rtol=1e-5)
  np.testing.assert_allclose(lanes, expected.sum(axis=0) / counts, rtol=1e-5)
  whole = evaluate.summary({b: s.sum(axis=1) for b, s in sums.items()}, samples,
                           config_lib.EvaluationConfig())
  assert whole['nll'] == pytest.approx(np.dot(lanes, counts) / counts.sum())
