"""§2 WaveRNN: causality, carried state, loss, sampling against likelihood."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from tiny_wavernn import LOW, MEL, MODEL, RNN, nats, parameters, speech, teacher_forced_logits

from wavernn_jax import audio, config, rules
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.errors import InputError
from wavernn_jax.models import wavernn


def replace_byte(pcm, t, coarse=0, fine=0):
  """pcm with bytes of sample t moved by so much, modulo 256."""
  c, f = audio.split_bytes(pcm[:, t])
  pcm = pcm.copy()
  pcm[:, t] = audio.join_bytes((c + coarse) % 256, (f + fine) % 256)
  return pcm


# Parameters


def test_parameters_are_nested_dicts_of_arrays_with_string_keys():
  def check(tree, where='params'):
    if isinstance(tree, dict):
      for key, value in tree.items():
        assert type(tree) is dict and type(key) is str, where
        check(value, f'{where}.{key}')
    else:
      assert isinstance(tree, jax.Array) and tree.dtype == np.float32, where
      assert np.isfinite(tree).all(), where
  params = RNN.init(3)
  check(params)
  assert sorted(params) == ['coarse', 'conditioning', 'outputs', 'previous', 'recurrent']
  for gate in 'ure':
    matrix = params['recurrent'][gate]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-5)


def test_parameters_depend_on_the_seed_alone():
  first, again, other = RNN.init(3), RNN.init(3), RNN.init(4)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first['recurrent']['u'], other['recurrent']['u'])


@pytest.mark.parametrize('units', [7, 1, 0, -2])
def test_odd_or_no_units_are_rejected_by_name(units):
  rules.check(config.Config(model=ModelConfig(units=8)))
  with pytest.raises(InputError, match=f'config.model.units: found {units}, expected'):
    rules.check(config.Config(model=ModelConfig(units=units)))


@pytest.mark.parametrize('center', [True, False])
def test_every_parameter_has_a_gradient(center):
  model = wavernn.WaveRNN(MODEL, MelConfig(**{**vars(MEL), 'center': center}))
  pcm, mel = speech(40, batch=4)
  def total(params):
    return sum(model.loss(params, model.initial_state(4), pcm, mel).values())
  gradients = jax.jit(jax.grad(total))(RNN.init(3))
  for path, gradient in jax.tree.leaves_with_path(gradients):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(gradient).all() and gradient.any(), name
    if 'layers' not in name and 'outputs' not in name:  # there, a ReLU may rest
      assert gradient.all(), name


# Causality


@pytest.mark.parametrize('t', [0, 5, 10])
def test_a_fine_byte_matters_to_its_own_target_and_to_later_samples(t):
  pcm, mel = speech(12)
  coarse, fine, _ = nats(pcm, mel)
  coarse2, fine2, _ = nats(replace_byte(pcm, t, fine=100), mel)
  np.testing.assert_array_equal(coarse2[:, :t + 1], coarse[:, :t + 1])
  np.testing.assert_array_equal(fine2[:, :t], fine[:, :t])
  assert (fine2[:, t] != fine[:, t]).all()
  assert (coarse2[:, t + 1] != coarse[:, t + 1]).all()
  assert (fine2[:, t + 1] != fine[:, t + 1]).all()


@pytest.mark.parametrize('t', [0, 5, 10])
def test_a_coarse_byte_matters_to_its_target_the_fine_byte_and_later_samples(t):
  pcm, mel = speech(12)
  coarse, fine, _ = nats(pcm, mel)
  coarse2, fine2, _ = nats(replace_byte(pcm, t, coarse=100), mel)
  np.testing.assert_array_equal(coarse2[:, :t], coarse[:, :t])
  np.testing.assert_array_equal(fine2[:, :t], fine[:, :t])
  assert (coarse2[:, t] != coarse[:, t]).all()
  assert (fine2[:, t] != fine[:, t]).all()  # the fine target is the same
  assert (coarse2[:, t + 1] != coarse[:, t + 1]).all()
  assert (fine2[:, t + 1] != fine[:, t + 1]).all()


def test_a_coarse_byte_does_not_see_itself():
  pcm, mel = speech(12)
  state = RNN.initial_state(2)
  for t in (0, 5, 11):
    (coarse, fine), (coarse2, fine2) = (
        teacher_forced_logits(RNN, parameters(), state, p, mel)
        for p in (pcm, replace_byte(pcm, t, coarse=100, fine=50)))
    np.testing.assert_array_equal(coarse2[:t + 1], coarse[:t + 1])
    np.testing.assert_array_equal(fine2[:t], fine[:t])
    assert (np.abs(fine2[t] - fine[t]).max(axis=-1) > 1e-4).all()


def test_noise_on_the_coarse_input_does_not_reach_the_coarse_loss():
  pcm, mel = speech(8)
  loss = jax.jit(lambda noise: RNN.loss(
      parameters(), RNN.initial_state(2), pcm, mel, input_noise=noise))
  zero, on = np.zeros((8, 2, 3), np.float32), np.ones((8, 2, 3), np.float32)
  on[:, :, :2] = 0
  at_the_end = on * (np.arange(8) == 7)[:, None, None]
  plain, everywhere, last = loss(zero), loss(on), loss(at_the_end.astype(np.float32))
  without = nats(pcm, mel)
  assert [plain['coarse'], plain['fine']] == pytest.approx(
      [n.mean() for n in without[:2]], rel=1e-5)
  # c_t reaches later coarse bytes through the state, but never its own.
  assert last['coarse'] == plain['coarse'] and last['fine'] != plain['fine']
  assert everywhere['coarse'] != plain['coarse']


@pytest.mark.parametrize('center', [True, False])
def test_a_mel_frame_is_heard_from_its_context_on(center):
  model = wavernn.WaveRNN(MODEL, MelConfig(**{**vars(MEL), 'center': center}))
  run = jax.jit(model.nats)
  frames, frame, hop = 8, 5, MEL.hop
  pcm, mel = speech(frames * hop)
  changed = mel.copy()
  changed[:, frame + model.timing.margin] += 2
  one, two = (np.stack(jax.tree.leaves(run(
      parameters(), model.initial_state(2), pcm, m)[0])) for m in (mel, changed))
  first = frame * hop + audio.frame_offset(model.mel) - model.timing.margin * hop + 1
  np.testing.assert_array_equal(two[:, :, :first], one[:, :, :first])
  heard = (two != one).any(axis=(0, 1))
  assert heard[first:first + 2 * model.timing.margin * hop].all()
  assert first >= (frame - model.timing.margin) * hop  # as `margin` says


# Likelihood


def test_two_byte_likelihood_sums_to_one_over_all_65536_samples():
  every = np.arange(-2**15, 2**15).astype(np.int16)[:, None]
  pcm, mel = speech(8, batch=1)
  _, _, state = nats(pcm, mel)
  state = {k: np.broadcast_to(v, (len(every), *v.shape[1:])) for k, v in state.items()}
  mel = np.broadcast_to(speech(1, batch=1)[1], (len(every), RNN.frames(1), MEL.bands))
  coarse, fine, _ = nats(every, mel, state)
  p = np.exp(-np.float64(coarse + fine))
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
  assert p.max() > 20 * p.min()
  # The coarse byte's distribution is the same whatever byte follows it.
  coarse = coarse.reshape(256, 256)
  np.testing.assert_allclose(coarse, coarse[:, :1] + np.zeros(256), rtol=1e-6)
  np.testing.assert_allclose(np.exp(-np.float64(coarse[:, 0])).sum(), 1, rtol=1e-5)


@hypothesis.given(cuts=st.sets(st.integers(1, 3)))
@hypothesis.settings(max_examples=5, deadline=None)
def test_nats_in_pieces_with_carried_state_equal_the_whole(cuts):
  frames, samples = 4, 4 * MEL.hop - 1  # the last frame is incomplete
  pcm, mel = speech(samples)
  whole = nats(pcm, mel)
  state, pieces, ends = RNN.initial_state(2), [], [*sorted(cuts), frames]
  for first, last in zip([0, *ends], ends, strict=False):
    coarse, fine, state = nats(pcm[:, first * MEL.hop:last * MEL.hop],
                               mel[:, first:last + 2 * RNN.timing.margin], state)
    pieces.append((coarse, fine))
  for expected, found in zip(whole, zip(*pieces, strict=True), strict=False):
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(state['h'], whole[2]['h'], atol=1e-5)
  np.testing.assert_array_equal(state['index'], samples)
  np.testing.assert_array_equal(state['pcm'], pcm[:, -1:])


def test_loss_and_gradients_are_those_of_the_mean_of_nats_after_the_burn_in():
  burn_in = 5
  with jax.enable_x64(True):
    params = parameters(dtype=np.float64)
    pcm, mel = speech(11, dtype=np.float64)
    state = {**RNN.initial_state(2), 'h': np.full((2, MODEL.units), 0.3)}
    def mean(params, h):
      found, _ = RNN.nats(params, {**state, 'h': h}, pcm, mel)
      found = {k: v[:, burn_in:].mean() for k, v in found.items()}
      return found['coarse'] + 2 * found['fine'], found
    def loss(params, h):
      found = RNN.loss(params, {**state, 'h': h}, pcm, mel, burn_in)
      return found['coarse'] + 2 * found['fine'], found
    plain, fast = (jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(params, state['h'])
                   for f in (mean, loss))
  for (path, expected), found in zip(jax.tree.leaves_with_path(plain), jax.tree.leaves(fast),
                                     strict=True):
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=1e-10 * np.abs(expected).max(),
        err_msg=jax.tree_util.keystr(path))


def test_bfloat16_nats_stay_near_float32():
  pcm, mel = speech(40)
  low, _ = jax.jit(LOW.nats)(parameters(), LOW.initial_state(2), pcm, mel)
  for plain, rounded in zip(nats(pcm, mel), (low['coarse'], low['fine']), strict=False):
    assert rounded.dtype == np.float32
    difference = np.abs(rounded - plain)
    assert 1e-5 < difference.mean() < 0.05 and difference.max() < 0.5
