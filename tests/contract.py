"""What every model (models/system.py) and every engine (sampling/engine.py) must hold to.

A new model or engine is one more line of test_contract.py.
"""

import types

import jax
import numpy as np
import random_models
import ties

from wavernn_jax import draw
from wavernn_jax.evaluation import evaluate
from wavernn_jax.sampling import scan, stream

_VALUES = 1 << 16  # of a sample
_ROWS = 1 << 13  # of a batch that goes through them


def verify_system(model, params=None, block_frames: int = 4) -> None:
  """A model of models/, with weights under which every input moves every later output.

  Args:
    model: small: a sample goes through all its values.
    params: in float32; random ones by default.
    block_frames: of a draw.
  """
  params = random_models.parameters(model) if params is None else params
  probabilities = assert_samples_sum_to_one(model, params)
  assert_draws_have_the_likelihood(model, params, probabilities, block_frames)
  assert_only_earlier_draws_are_heard(model, params)
  assert_rows_of_a_batch_do_not_mix(model, params)
  random_models.assert_pieces_with_carried_state_are_the_whole(model)
  assert_loss_is_the_mean_of_nats(model)


def assert_samples_sum_to_one(model, params):
  """Σ P(s | what is drawn before s) over all 65,536 values; returns P of sample 0.

  With causality that makes the probabilities of all utterances sum to one.
  """
  lanes = model.timing.lanes
  pcm, mel = random_models.speech(model, lanes, batch=1)
  run = _of_one_mel(model, params, mel)
  every, found = np.arange(_VALUES, dtype=np.int32) - _VALUES // 2, {}
  for t in {0, lanes - 1}:
    parts = []
    for values in every.reshape(-1, _ROWS):
      rows = np.repeat(pcm, _ROWS, axis=0)
      rows[:, t] = values
      parts.append(sum(np.asarray(n, np.float64)[:, t] for n in run(rows).values()))
    found[t] = np.exp(-np.concatenate(parts))
    np.testing.assert_allclose(found[t].sum(), 1, rtol=1e-4)
  assert found[0].max() > 20 * found[0].min()
  return found[0]


def _of_one_mel(model, params, mel):
  """Jitted nats of rows of samples RxT; what follows from the mel is computed once."""
  def nats(pcm_T):
    found, _ = model.nats(params, model.initial_state(1), pcm_T[None], mel)
    return {byte: n[0] for byte, n in found.items()}
  return jax.jit(jax.vmap(nats))


def assert_draws_have_the_likelihood(model, params, probabilities, block_frames: int) -> None:
  """χ² of the high byte of the first sample of many utterances with the same mel."""
  count = 2_000
  _, mel = random_models.speech(model, model.timing.lanes, batch=1)
  engine = scan.ScanEngine(model, params, block_frames=block_frames)
  state, blocks = engine.initial_state(count), _blocks(engine)
  frames = stream.padded_mels(mel, block_frames * blocks + engine.window,
                              (model.timing.lag, 0), model.mel)
  keys, made = draw.keys(3, range(count)), []
  for b in range(blocks):
    window = frames[:, b * block_frames:][:, :engine.window]
    pcm, state = engine.next_block(state, np.repeat(window, count, axis=0), keys)
    made.append(pcm)
  drawn = np.concatenate(made, axis=1)[:, model.timing.delay]
  expected = count * probabilities.reshape(256, 256).sum(axis=1)
  counts = np.bincount((drawn.astype(int) + _VALUES // 2) >> 8, minlength=256)
  often = expected > 5
  bins = [(counts[often], expected[often]), ([counts[~often].sum()], [expected[~often].sum()])]
  observed, expected = (np.concatenate([part[i] for part in bins]) for i in (0, 1))
  freedom = len(expected) - 1
  statistic = ((observed - expected)**2 / np.maximum(expected, 1)).sum()
  assert statistic < freedom + 5 * np.sqrt(2 * freedom), (statistic, freedom)


def _blocks(engine) -> int:
  """Blocks until the first sample is out."""
  return 1 + engine.model.timing.delay // (engine.block_frames * engine.model.mel.hop)


def assert_only_earlier_draws_are_heard(model, params) -> None:
  """Each sample is changed in turn: only nats of itself and of what is drawn later may move."""
  timing, hop = model.timing, model.mel.hop
  samples = -(-(timing.delay + 4 * timing.lanes) // hop) * hop
  with jax.enable_x64(True):
    params = jax.tree.map(np.float64, params)
    pcm, mel = random_models.speech(model, samples, batch=1, dtype=np.float64)
    # Small, so that no prediction is held at full scale, where nothing would move it.
    rows = np.repeat(pcm // 256, samples + 1, axis=0)
    rows[np.arange(samples), np.arange(samples)] += 12_345
    found = np.stack(list(_of_one_mel(model, params, mel)(rows).values()))
  moved = (np.abs(found - found[:, -1:]) > 1e-9).any(axis=0)[:-1]  # [changed, heard by]
  step = ties.drawn_at(timing, np.arange(samples))
  later = step[None, :] > step[:, None]
  assert not (moved & ~later & ~np.eye(samples, dtype=bool)).any()
  assert moved.diagonal().all() and moved.diagonal(timing.lanes).all()


def assert_rows_of_a_batch_do_not_mix(model, params) -> None:
  """Nats of two utterances together, and of each alone."""
  pcm, mel = random_models.speech(model, random_models.WHOLE_FRAMES * model.mel.hop - 1)
  together, _ = random_models.nats(model, params, pcm, mel)  # compiled for the pieces, too
  for row in range(2):
    alone, _ = random_models.nats(model, params, pcm[row:row + 1], mel[row:row + 1])
    np.testing.assert_allclose(together[:, row:row + 1], alone, rtol=1e-4, atol=1e-4)


def assert_loss_is_the_mean_of_nats(model) -> None:
  """Value and gradients, with a burn-in and a crop that the lanes do not divide."""
  with jax.enable_x64(True):
    params = random_models.parameters(model, dtype=np.float64)
    pcm, mel = random_models.speech(model, 2 * model.mel.hop + 3, dtype=np.float64)
    past = np.random.default_rng(5).integers(-2**15, 2**15, (2, model.timing.past))
    state = model.crop_state(past.astype(np.int16))
    random_models.assert_loss_is_the_mean_of_nats(model, params, state, pcm, mel, 5)


def verify_engine(make, reference, frames=(9, 2, 0, 5), nats: float = 1e-4) -> None:
  """An engine against the scan sampler of the same weights; its samples may differ in ties.

  Args:
    make: temperatures -> engine.
    reference: temperatures -> scan.ScanEngine, of other blocks if `make` is one too.
    frames: of utterances, the first the longest.
    nats: by which their likelihoods may differ, of a sample.
  """
  engine, plain = make((1.0, 1.0)), reference((1.0, 1.0))
  mels = [random_models.log_mel(engine.model.mel, n, seed) for seed, n in enumerate(frames)]
  keys = draw.keys(3, range(len(mels)))
  made = stream.batch(engine, mels, keys)
  ties.assert_same(made, stream.batch(plain, mels, keys), plain, mels, keys)
  assert [len(pcm) for pcm in made] == [n * engine.model.mel.hop for n in frames]
  assert len(np.unique(made[0])) > 0.5 * len(made[0])
  assert_batches_change_no_sample(engine, mels, keys, made)
  assert_cuts_change_no_sample(engine, mels[0], keys[:1], made[0])
  assert_scores_are_those_of(engine, plain, mels, nats)
  cold = [stream.batch(make((0.0, 0.0)), mels[:1], draw.keys(seed, [0]))[0] for seed in (1, 2)]
  assert_same(cold[:1], cold[1:])
  plain = reference((0.0, 0.0))
  ties.assert_same(cold[:1], stream.batch(plain, mels[:1], keys[:1]), plain, mels, keys, (0.0, 0.0))


def assert_same(found, expected) -> None:
  for one, other in zip(found, expected, strict=True):
    assert one.dtype == np.int16
    np.testing.assert_array_equal(one, other)


def assert_batches_change_no_sample(engine, mels, keys, made) -> None:
  """The utterances in another order, and the last alone; told what is done."""
  order, done = [*range(1, len(mels)), 0], []
  turned = stream.batch(engine, [mels[i] for i in order], keys[order], done.append)
  assert_same(turned, [made[i] for i in order])
  assert sum(done) == sum(map(len, made)) and min(done) >= 0
  assert_same(stream.batch(engine, mels[-1:], keys[-1:]), made[-1:])


def assert_cuts_change_no_sample(engine, mel_FxM, key_1x2, whole) -> None:
  """A stream of one utterance in chunks, whose audio is no later than `latency` says."""
  hop, rate = engine.model.mel.hop, engine.model.mel.sample_rate
  for cuts in ([], [1, 2, 3], [0, 7, 7, len(mel_FxM)], list(range(1, len(mel_FxM)))):
    pieces = list(stream.stream(engine, np.split(mel_FxM, cuts), key_1x2))
    assert_same([np.concatenate(pieces)], [whole])
  known, received = 0, 0

  def frame_by_frame():
    nonlocal known
    for frame in mel_FxM:
      known += 1
      yield frame[None]
  for piece in stream.stream(engine, frame_by_frame(), key_1x2):
    if known < len(mel_FxM):
      assert received >= known * hop - round(engine.latency * rate)
    received += len(piece)


def assert_scores_are_those_of(engine, plain, mels, nats: float) -> None:
  """Teacher-forced likelihoods of recordings of any lengths, lane by lane."""
  rng, hop, utterances = np.random.default_rng(2), engine.model.mel.hop, []
  for samples, mel_FxM in ((len(mels[0]) * hop, mels[0]), (5, mels[0][:2]), (hop + 3, mels[1])):
    pcm = rng.integers(-2**15, 2**15, samples).astype(np.int16)
    utterances.append(types.SimpleNamespace(
        samples=samples, mel_FxM=mel_FxM,
        read=lambda start, stop, rate, pcm=pcm: pcm[start:stop]))
  done = []
  found, samples = evaluate.lane_nats(engine, utterances, 2, done.append)
  expected, _ = evaluate.lane_nats(plain, utterances, 3)
  assert samples.tolist() == [u.samples for u in utterances] and sum(done) == samples.sum()
  for byte, sums_UxS in found.items():
    assert sums_UxS.shape == (3, engine.model.timing.lanes) and sums_UxS[0].min() > 5
    np.testing.assert_allclose(sums_UxS / samples[:, None], expected[byte] / samples[:, None],
                               atol=nats)
