"""§3: schedule, block scores, exact counts, and masks inside the train step."""

import dataclasses
import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import check, models, pruning
from wavernn_jax.config import Config, MelConfig, ModelConfig, PruningConfig
from wavernn_jax.data import crops
from wavernn_jax.errors import InputError
from wavernn_jax.models import wavernn
from wavernn_jax.training import step as step_lib

SIZES = [(1, 16), (4, 4), (1, 1)]  # (inputs, outputs) of a block


def _config(size=(1, 16), **changes):
  values = dict(recurrent=0.9, hidden=0.5, output=0.75, conditioning=0.5, block_inputs=size[0],
                block_outputs=size[1], start=10, steps=40, interval=5)
  return PruningConfig(**(values | changes))


@pytest.fixture(scope='module')
def params():
  model = wavernn.WaveRNN(ModelConfig(units=32, projection=16, channels=8, layers=1),
                          MelConfig())
  return model.init(0)


def _pruned(params, config, step):
  masks = pruning.initial_masks(params, config)
  return pruning.update_masks(params, masks, step, config)


def test_schedule_is_the_paper_s_cubic():
  config = _config()
  for step in (0, 10, 11, 30, 49, 50, 99):
    t = min(max((step - 10) / 40, 0), 1)
    assert float(pruning.pruned_fraction(step, config)) == pytest.approx(1 - (1 - t)**3)


@pytest.mark.parametrize('size', SIZES)
def test_scores_are_mean_magnitudes_of_blocks(size):
  rng = np.random.default_rng(0)
  leaf = rng.normal(size=(8, 32)).astype(np.float32)
  mask = np.ones((8 // size[0], 32 // size[1]), bool)
  scores = pruning.block_scores(leaf, mask)
  for i, j in np.ndindex(*mask.shape):
    block = leaf[i * size[0]:(i + 1) * size[0], j * size[1]:(j + 1) * size[1]]
    assert float(scores[i, j]) == pytest.approx(np.abs(block).mean(), rel=1e-6)


@hypothesis.given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
@hypothesis.settings(deadline=None, max_examples=40)
def test_exactly_the_smallest_go_also_under_ties(values, data):
  count = data.draw(st.integers(0, len(values)))
  kept = np.asarray(pruning.smallest_pruned(jnp.asarray(values, jnp.float32), count))
  assert (~kept).sum() == count
  if 0 < count < len(values):
    assert np.asarray(values)[~kept].max() <= np.asarray(values)[kept].min()


@pytest.mark.parametrize('size', SIZES)
def test_every_matrix_reaches_its_own_target(params, size):
  config = _config(size)
  masks = _pruned(params, config, 50)
  for gate in 'ure':
    mask = masks['recurrent'][gate]
    assert int((~mask).sum()) == int(0.9 * mask.size + 0.5)
  for byte in wavernn.BYTES:
    for part, sparsity in (('hidden', 0.5), ('output', 0.75)):
      mask = masks['outputs'][byte][part]['kernel']
      assert int((~mask).sum()) == int(sparsity * mask.size + 0.5)
      assert masks['outputs'][byte][part]['bias'] is None
  mask = masks['conditioning']['gates']['kernel']
  assert int((~mask).sum()) == int(0.5 * mask.size + 0.5)
  assert masks['conditioning']['layers']['0']['kernel'] is None and masks['previous'] is None


def test_gates_are_sorted_separately(params):
  scaled = params | {'recurrent': params['recurrent'] | {'u': 100 * params['recurrent']['u']}}
  masks, rescaled = (_pruned(p, _config(), 50)['recurrent'] for p in (params, scaled))
  for gate in 'ure':
    np.testing.assert_array_equal(masks[gate], rescaled[gate])


def test_what_is_pruned_stays_pruned(params):
  config = _config()
  update = jax.jit(functools.partial(pruning.update_masks, config=config))
  masks = pruning.initial_masks(params, config)
  rng = np.random.default_rng(0)
  zeros = []
  for step in range(60):
    noisy = jax.tree.map(lambda p: p + rng.normal(size=p.shape).astype(np.float32), params)
    new = update(noisy, masks, step)
    for old, now in zip(jax.tree.leaves(masks), jax.tree.leaves(new), strict=True):
      assert not (now & ~old).any()
      if int(pruning.last_change(step, config)) != step:
        np.testing.assert_array_equal(old, now)
    masks = new
    zeros.append(int((~masks['recurrent']['e']).sum()))
  size = masks['recurrent']['e'].size
  expected = [round(int(0.9 * size + 0.5) * float(pruning.pruned_fraction(s - s % 5, config)))
              for s in range(60)]
  assert zeros == expected
  assert update._cache_size() == 1


def test_with_regrowth_the_largest_blocks_of_all_are_kept(params):
  config = _config(regrow=True)
  update = jax.jit(functools.partial(pruning.update_masks, config=config))
  masks, rng, returned = pruning.initial_masks(params, config), np.random.default_rng(0), 0
  for step in range(70):
    noisy = jax.tree.map(lambda p: p + rng.normal(size=p.shape).astype(np.float32), params)
    new = update(noisy, masks, step)
    if int(pruning.last_change(step, config)) == step:
      leaf, mask = (tree['recurrent']['e'] for tree in (noisy, new))
      scores = np.abs(np.asarray(leaf)).reshape(*mask.shape, -1).mean(-1)
      assert scores[mask].min() >= scores[~mask].max(initial=0)
      final = int(0.9 * mask.size + 0.5)
      assert (~mask).sum() == round(final * float(pruning.pruned_fraction(step, config)))
      returned += int((mask & ~masks['recurrent']['e']).sum())
    else:  # not due, or the schedule is over
      assert all(map(np.array_equal, jax.tree.leaves(masks), jax.tree.leaves(new)))
    masks = new
  assert returned > 10


def test_regrowth_takes_up_no_blocks_that_a_run_began_without(params):
  config = _config(regrow=True)
  masks = pruning.update_masks(params, pruning.initial_masks(params, _config()), 50, _config())
  again = pruning.update_masks(params, masks, 10, config)  # the schedule begins: nothing due
  for old, new in zip(jax.tree.leaves(masks), jax.tree.leaves(again), strict=True):
    assert (~new).sum() == (~old).sum()


@pytest.mark.parametrize('regrow', [False, True])
def test_a_train_step_hides_pruned_weights_and_keeps_them_only_to_regrow(tiny_config, regrow):
  config = dataclasses.replace(tiny_config, pruning=_config(regrow=regrow, block_outputs=8))
  config.train.steps, config.optimizer.warmup_steps = 60, 1
  model = models.build(config)
  batches = crops.crop_batches(check.load_corpus(config)[0],
                               crops.crop_shape(model, config.train.crop), config.mel,
                               config.train.batch, 0)
  params = model.init(0)
  before = np.asarray(params['recurrent']['e'])
  state = step_lib.initial_state(params, config) | {'step': jnp.asarray(50)}
  step = jax.jit(functools.partial(step_lib.train_step, model, config))
  for _ in range(2):  # the first is at rate 0
    after, _ = step(state, next(batches))
    state = after | {'step': jnp.asarray(51)}
  pruned = np.repeat(~np.asarray(after['masks']['recurrent']['e']), 8, axis=1)
  assert pruned.mean() == pytest.approx(0.9, abs=0.02)
  kept = np.asarray(after['params']['recurrent']['e'])
  np.testing.assert_array_equal(kept[pruned], before[pruned] if regrow else 0)
  assert (kept[~pruned] != before[~pruned]).mean() > 0.5
  assert not np.asarray(after['ema']['recurrent']['e'])[pruned].any()


def test_masks_change_when_due_and_never_after_the_schedule():
  found = [int(pruning.last_change(jnp.asarray(s), _config(steps=38))) for s in range(70)]
  expected = [0 if s < 10 else min(s, 50) // 5 * 5 for s in range(70)]
  assert found == expected
  assert int(pruning.last_change(jnp.asarray(60), PruningConfig())) == 0


def test_the_average_of_the_weights_starts_anew_when_masks_change():
  config = Config(pruning=_config())
  decay = [float(step_lib.ema_decay(jnp.asarray(s), config)) for s in range(20_000)]
  assert decay[10] == decay[15] == decay[50] == pytest.approx(0.1)
  assert decay[14] == pytest.approx(5 / 14)
  assert decay[-1] == pytest.approx(config.optimizer.ema_decay)
  # What the average still holds, five updates later, of weights from before a change.
  assert np.prod(decay[15:20]) < 1e-2


@pytest.mark.parametrize('size', SIZES)
def test_masked_blocks_are_zero_and_the_rest_untouched(params, size):
  masks = _pruned(params, _config(size), 50)
  masked = pruning.apply_masks(params, masks)
  mask = np.kron(np.asarray(masks['recurrent']['r']), np.ones(size))
  np.testing.assert_array_equal(masked['recurrent']['r'], params['recurrent']['r'] * mask)
  np.testing.assert_array_equal(masked['previous'], params['previous'])
  nonzero = sum(int(np.count_nonzero(leaf)) if mask is not None else leaf.size
                for leaf, mask in zip(jax.tree.leaves(masked), jax.tree.leaves(
                    masks, is_leaf=lambda m: m is None), strict=True))
  assert pruning.count_parameters(params, masks) == nonzero


def test_unpruned_parameters_all_count(params):
  masks = pruning.initial_masks(params, PruningConfig())
  assert not jax.tree.leaves(masks)
  assert pruning.count_parameters(params, masks) == sum(p.size for p in jax.tree.leaves(params))


def test_blocks_that_do_not_divide_are_an_error(params):
  with pytest.raises(InputError, match='do not divide outputs/coarse/hidden/kernel of 16'):
    pruning.initial_masks(params, _config((1, 12)))
