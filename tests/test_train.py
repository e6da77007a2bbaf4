"""The train step against NumPy, the guards of the loop, and what a workdir accepts."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import audio, check, draw, fields, models
from wavernn_jax.config import OptimizerConfig, from_dict, to_dict
from wavernn_jax.data import crops
from wavernn_jax.data.corpus import SPLITS
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import evaluate
from wavernn_jax.sampling import scan, stream
from wavernn_jax.training import (
  checkpoints,
  journal,
  loop,
  start,
  step as step_lib,
)


@functools.cache
def _compiled(values: str):
  config = from_dict(json.loads(values))
  return jax.jit(functools.partial(step_lib.train_step, models.build(config), config))


@dataclasses.dataclass
class Setup:
  """A model, its first state and batches, for steps without the loop."""

  config: object
  batches: list

  def __post_init__(self):
    self.model = models.build(self.config)
    self.state = step_lib.initial_state(self.model.init(0), self.config)
    self.step = _compiled(json.dumps(to_dict(self.config)))

  def run(self, steps):
    """States and metrics after each step, the first state in front."""
    states, metrics = [self.state], []
    for i in range(steps):
      state, m = self.step(states[-1], self.batches[i % len(self.batches)])
      states.append(state)
      metrics.append({k: float(v) for k, v in m.items()})
    return states, metrics


@pytest.fixture
def batches(tiny_config):
  train_set, _ = check.load_corpus(tiny_config)
  crop, model = tiny_config.train.crop, models.build(tiny_config)
  shape = crops.CropShape(crop, model.frames(crop), model.timing.margin)
  source = crops.crop_batches(train_set, shape, tiny_config.mel, 4, 0)
  return [next(source) for _ in range(7)]


@pytest.fixture
def step_config(tiny_config):
  """One for most tests of the step, which so share a compilation."""
  tiny_config.train.log_every, tiny_config.train.steps = 1, 150
  tiny_config.optimizer = OptimizerConfig(
      learning_rate=1e-2, warmup_steps=2, clip_norm=0.3, ema_decay=0.2)
  return tiny_config


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


# The step


def test_the_loss_of_a_batch_that_is_seen_again_and_again_falls(step_config, batches):
  _, metrics = Setup(step_config, batches[:1]).run(150)
  assert 10.5 < metrics[0]['nll'] < 12  # near 2 ln 256 = 11.09, uniform
  assert metrics[-1]['nll'] < metrics[0]['nll'] - 3
  for m in metrics[::50]:
    assert math.isclose(m['nll'], m['nll_coarse'] + m['nll_fine'], rel_tol=1e-6)


def test_metrics_are_means_since_the_last_log(step_config, batches):
  _, each = Setup(step_config, batches).run(7)
  step_config.train.log_every = 3
  _, mean = Setup(step_config, batches).run(7)
  for name in step_lib.METRICS:
    single = np.array([m[name] for m in each])
    for first in (0, 3):
      np.testing.assert_allclose(mean[first + 2][name], single[first:first + 3].mean(), rtol=1e-6)
    np.testing.assert_allclose(mean[6][name], single[6], rtol=1e-6)


def test_the_update_is_adam_behind_a_clip_and_the_ema_follows(step_config, batches):
  o = step_config.optimizer
  setup = Setup(step_config, batches)
  states, metrics = setup.run(3)
  gradient = jax.jit(jax.grad(lambda p, batch: step_lib.crop_loss(
      setup.model, p, batch, step_config)[0]))
  params = [x.astype(np.float64) for x in leaves(states[0]['params'])]
  first = [np.zeros_like(p) for p in params]
  second = [np.zeros_like(p) for p in params]
  ema = [p.copy() for p in params]
  for t in range(3):
    g = leaves(gradient(states[t]['params'], batches[t]))
    norm = math.sqrt(sum((x.astype(np.float64)**2).sum() for x in g))
    assert norm > o.clip_norm
    rate = float(step_lib.learning_rate(o, step_config.train.steps)(t))
    assert (rate > 0) == (t > 0)
    for i, x in enumerate(g):
      x = x * o.clip_norm / norm
      first[i] = o.b1 * first[i] + (1 - o.b1) * x
      second[i] = o.b2 * second[i] + (1 - o.b2) * x**2
      update = first[i] / (1 - o.b1**(t + 1)) / (
          np.sqrt(second[i] / (1 - o.b2**(t + 1))) + o.eps)
      params[i] = params[i] - rate * update
      decay = min(o.ema_decay, (1 + t) / (10 + t))
      ema[i] = decay * ema[i] + (1 - decay) * params[i]
    for kind, expected in (('params', params), ('ema', ema)):
      for got, want in zip(leaves(states[t + 1][kind]), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
  assert int(states[3]['step']) == 3
  assert any((a != b).any() for a, b in zip(
      leaves(states[3]['ema']), leaves(states[3]['params']), strict=True))


def test_a_step_moves_every_parameter(step_config, batches):
  states, _ = Setup(step_config, batches).run(2)  # the first has learning rate 0
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), states[0]['params'],
                       states[2]['params'])
  assert all(jax.tree.leaves(moved)), moved


def test_burn_in_leaves_the_first_samples_out_of_the_loss(step_config, batches):
  model = models.build(step_config)
  params, batch = model.init(0), batches[0]
  pcm, mel = crops.crop_inputs(batch, step_config.mel)
  state = model.initial_state(len(pcm)) | {'pcm': pcm[:, :1]}
  nats, _ = jax.jit(model.nats)(params, state, pcm[:, 1:], mel)
  step_config.train.burn_in = 77
  loss, parts = jax.jit(lambda p: step_lib.crop_loss(model, p, batch, step_config))(params)
  for byte in ('coarse', 'fine'):
    expected = np.asarray(nats[byte], np.float64)[:, 77:].mean()
    np.testing.assert_allclose(parts[f'nll_{byte}'], expected, rtol=1e-5)
  np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-6)


def test_input_noise_is_off_by_default_and_a_function_of_seed_and_step(step_config, batches):
  _, quiet = Setup(step_config, batches[:1]).run(2)
  # Step 0 has learning rate 0, so step 1 sees the same weights and batch.
  assert quiet[0]['nll'] == quiet[1]['nll']
  step_config.train.input_noise = 0.5
  setup = Setup(step_config, batches[:1])
  (_, a), (_, b) = setup.run(3), setup.run(3)
  assert a == b
  assert len({quiet[0]['nll'], a[0]['nll'], a[1]['nll']}) == 3


@pytest.mark.parametrize('steps, warmup, expected', [
    (100, 10, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.505, 100: 0.01, 200: 0.01}),
    (100, 0, {0: 1.0, 50: 0.505, 100: 0.01}),
    (4, 500, {0: 0.0, 1: 0.5, 2: 1.0, 3: 0.505, 4: 0.01}),
    (1, 500, {0: 0.0})])
def test_the_learning_rate_warms_up_linearly_and_falls_by_a_cosine(steps, warmup, expected):
  config = OptimizerConfig(learning_rate=1.0, final_learning_rate=0.01, warmup_steps=warmup)
  rate = step_lib.learning_rate(config, steps)
  np.testing.assert_allclose([rate(s) for s in expected], list(expected.values()), atol=1e-6)


def test_a_step_that_is_not_finite_changes_no_weight_and_is_remembered(tiny_config, batches):
  frames = models.build(tiny_config).frames(tiny_config.train.crop)
  good = {'pcm': batches[0]['pcm'], 'mel': np.full((4, frames, 20), -5, np.float32)}
  bad = good | {'mel': good['mel'].copy()}
  bad['mel'][2, 3, 4] = np.nan
  setup = Setup(tiny_config, [good, good, bad, good, bad])
  states, _ = setup.run(5)
  assert [int(s['nonfinite_step']) for s in states] == [-1, -1, -1, 3, 3, 3]
  assert [int(s['step']) for s in states] == list(range(6))
  for kind in ('params', 'ema', 'optimizer'):
    for a, b in zip(leaves(states[2][kind]), leaves(states[3][kind]), strict=True):
      np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(x).all() for x in leaves(states[5][kind]))


# The loop


def rows(workdir):
  return journal.read_rows(workdir / 'metrics.jsonl')


def test_an_absurd_learning_rate_stops_with_the_step_and_the_last_good_checkpoint(
    tiny_config, tmp_path, monkeypatch):
  for name in ('learning_rate', 'final_learning_rate'):  # refused otherwise
    monkeypatch.setitem(fields.RULES, f'optimizer.{name}', fields.above(0, 1e31))
  tiny_config.optimizer.learning_rate, tiny_config.optimizer.warmup_steps = 1e30, 5
  tiny_config.optimizer.final_learning_rate = 1e30
  with pytest.raises(InputError) as error:
    loop.train(tiny_config, tmp_path)
  message = str(error.value)
  assert 'not finite at step 3.' in message and '--config.optimizer.learning_rate' in message
  # Step 3 is due for a save, which the guard comes before.
  assert 'no checkpoint yet' in message and 'init_from' not in message
  assert not [r for r in rows(tmp_path) if not all(map(math.isfinite, r.values()))]


def test_nan_in_the_middle_leaves_the_checkpoint_before_it(tiny_config, tmp_path, monkeypatch):
  plain = crops.crop_inputs
  def poisoned(batch, mel):
    pcm, mel_BxFxM = plain(batch, mel)
    return pcm, jnp.where(pcm[0, 0] == poisoned.at, jnp.nan, mel_BxFxM)
  train_set, _ = check.load_corpus(tiny_config)
  model, crop = models.build(tiny_config), tiny_config.train.crop
  shape = crops.CropShape(crop, model.frames(crop), model.timing.margin)
  order = crops.crop_batches(train_set, shape, tiny_config.mel, 4, tiny_config.train.seed)
  firsts = [int(next(order)['pcm'][0, 0]) for _ in range(20)]
  step = next(s for s in range(8, 20) if firsts[s - 1] not in firsts[:s - 1])
  poisoned.at = firsts[step - 1]
  monkeypatch.setattr(crops, 'crop_inputs', poisoned)
  with pytest.raises(InputError) as error:
    loop.train(tiny_config, tmp_path)
  saved = (step - 1) // 3 * 3 if (step - 1) % 10 else step - 1
  assert f'not finite at step {step}.' in str(error.value)
  assert f'last good checkpoint is of step {saved}.' in str(error.value)
  reader = checkpoints.Checkpoints(tmp_path, read_only=True)
  state, position = reader.restore(step_lib.initial_state(model.init(0), tiny_config))
  assert int(state['step']) == saved and position == {'batches': saved}
  assert int(state['nonfinite_step']) == -1
  assert all(np.isfinite(x).all() for x in leaves(state))


def test_a_run_leaves_its_curve_and_starts_another_from_its_best_weights(
    tiny_config, tmp_path, monkeypatch):
  heard = []
  monkeypatch.setattr(journal.Journal, 'audio', lambda _, *sounding: heard.append(sounding))
  tiny_config.train.steps, tiny_config.train.eval_every = 8, 4
  first = tmp_path / 'a'
  assert loop.train(tiny_config, first) == 8
  train_rows = [r for r in rows(first) if 'nll' in r]
  valid_rows = [r for r in rows(first) if 'valid_nll' in r]
  assert [r['step'] for r in train_rows] == [2, 4, 6, 8]
  assert [r['step'] for r in valid_rows] == [4, 8]
  copies = [r for r in rows(first) if 'valid_log_mel_l1' in r]
  assert [r['step'] for r in copies] == [4, 8] and copies[-1]['valid_log_mel_l1'] > 0
  assert list((first / 'tensorboard').iterdir())
  for r in valid_rows:
    assert math.isclose(r['valid_nll'], r['valid_nll_coarse'] + r['valid_nll_fine'],
                        rel_tol=1e-6)
  best = min(valid_rows, key=lambda r: r['valid_nll'])
  reader = checkpoints.Checkpoints(first, read_only=True)
  assert reader.best() == best['step'] and reader.latest() == 8
  # The row is the likelihood of the EMA weights that the checkpoint holds.
  _, valid_set = check.load_corpus(tiny_config)
  voice, batch = checkpoints.load(first, tiny_config), tiny_config.evaluation.batch
  sums, samples = evaluate.utterance_nats(
      scan.ScanEngine(voice.model, voice.params, block_frames=8), valid_set, batch)
  found = evaluate.summary(sums, samples, tiny_config.evaluation)['nll']
  np.testing.assert_allclose(found, best['valid_nll'], rtol=1e-6)

  # What TensorBoard plays is the newest EMA weights' copy of a valid utterance.
  state, _ = reader.restore(
      step_lib.initial_state(models.build(tiny_config).init(0), tiny_config), 8)
  mel, frames = tiny_config.mel, 16  # 0.1 s
  sampler = scan.ScanEngine(models.build(tiny_config), state['ema'], block_frames=8)
  target = audio.utterance_log_mel(valid_set[0].pcm, mel)[:frames]
  expected, = stream.batch(sampler, [target], draw.keys(0, [0]))
  assert [(step, name, rate) for step, name, _, rate in heard] == [
      (4, 'valid_0', 8_000), (8, 'valid_0', 8_000)]
  np.testing.assert_array_equal(heard[1][2], expected)

  assert loop.train(tiny_config, first) == 8  # done already: the same rows stay
  assert [r for r in rows(first) if 'nll' in r] == train_rows

  tuned = dataclasses.replace(tiny_config, init_from=str(first))
  state = start.first_state(tuned)
  assert int(state['step']) == 0
  for kind in ('params', 'ema'):
    for a, b in zip(leaves(state[kind]), leaves(voice.params), strict=True):
      np.testing.assert_array_equal(a, b)
  tuned.model.units = 32
  with pytest.raises(InputError, match='config.model.units: 16 there, 32 here'):
    loop.train(tuned, tmp_path / 'c')


def test_bad_audio_in_any_split_stops_before_anything_is_written(tiny_config, tmp_path, corpus):
  for split in SPLITS:
    (tmp_path / split).symlink_to(corpus / split)
  (tmp_path / 'valid').unlink()
  (tmp_path / 'valid').mkdir()
  (tmp_path / 'valid' / 'text.wav').write_text('no audio')
  tiny_config.data.dir = str(tmp_path)
  with pytest.raises(InputError, match=r'(?s)1 of 6 audio files.*valid/text\.wav'):
    loop.train(tiny_config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
