"""The compiled loop over samples against plain numpy."""

import itertools

from jax.extend.random import threefry_2x32
import numpy as np
import pytest
import random_models

from wavernn_jax import audio
from wavernn_jax.sampling import blocksparse
from wavernn_jax.sampling.cpu import layout, loop
from wavernn_jax.sampling.cpu.loop import Options, initial_state, sample, score

DTYPES = list(blocksparse.DTYPES)
BLOCKS = list(blocksparse.SHAPES)
HOP = 7


def codes_of(pcm):
  """Coarse and fine bytes [T, 2] of samples."""
  return np.stack(audio.split_bytes(pcm), axis=-1)


def random_samples(count):
  return np.random.default_rng(7).integers(-2**15, 2**15, count).astype(np.int16)


def plain_scores(weights, frames, pcm, hop, state, position=0):
  """The model in float64 numpy, teacher-forced: logits [T, 2, 256] and h."""
  gates = [blocksparse.unpack(m).astype(np.float64) for m in weights.recurrent]
  project = [blocksparse.unpack(m) for m in weights.project]
  output = [blocksparse.unpack(m) for m in weights.logits]
  h, half = state.h.astype(np.float64), len(state.h) // 2
  codes = codes_of(pcm)
  previous, logits = codes_of(state.pcm)[-1], []

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  def head(side, y):
    hidden = np.maximum(project[side] @ y + weights.project_bias[side], 0)
    return output[side] @ hidden + weights.logits_bias[side]

  for t, (coarse, _) in enumerate(codes):
    frame, rest = divmod(position + t, hop)
    ends = [frames[min(k, len(frames) - 1)] for k in (frame, frame + 1)]
    x = (1 - rest / hop) * ends[0].astype(np.float64) + rest / hop * ends[1]
    x = x.reshape(3, -1) + np.einsum(
        'b,bgh->gh', np.array(previous) / 127.5 - 1, weights.input)
    x[:, half:] += (coarse / 127.5 - 1) * weights.current
    g = [m @ h for m in gates]
    u, r = sigmoid(g[0] + x[0]), sigmoid(g[1] + x[1])
    h = u * h + (1 - u) * np.tanh(r * g[2] + x[2])
    logits.append([head(0, h[:half]), head(1, h[half:])])
    previous = codes[t]
  return np.array(logits), h


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('density', [0.3, 1.0])
def test_scores_equal_plain_numpy(dtype, block, density):
  """Teacher-forced logits and likelihoods on the very weights of the file."""
  weights = random_models.weights(density=density, dtype=dtype, block=block)
  network, frames = layout.build(weights), random_models.frames(64)
  pcm = random_samples(40)
  start = initial_state(network)
  scores, state = score(network, frames, pcm, HOP, start, 3, with_logits=True)
  logits, h = plain_scores(weights, frames, pcm, HOP, start, 3)
  error = {'float32': 3e-5, 'bfloat16': 1e-3, 'int8': 2e-3}[dtype]
  np.testing.assert_allclose(scores.logits, logits, atol=error)
  np.testing.assert_allclose(state.h, h, atol=error)
  logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = np.take_along_axis(logits, codes_of(pcm)[..., None], -1)[..., 0]
  np.testing.assert_allclose(scores.log_likelihood, expected, atol=2 * error)


@pytest.mark.parametrize('temperatures', [(1.0, 1.0), (0.6, 0.9), (0.0, 0.0)])
def test_samples_equal_plain_numpy(temperatures):
  """Replays the sampler's codes through numpy and repeats each draw."""
  weights = random_models.weights()
  network, frames = layout.build(weights), random_models.frames(64)
  start = initial_state(network)._replace(index=2 ** 32 - 20)
  options = Options(5, 9, *temperatures)
  pcm, _ = sample(network, frames, 40, HOP, start, options)
  logits, _ = plain_scores(weights, frames, pcm, HOP, start)
  codes = codes_of(pcm)
  for t, side in itertools.product(range(40), range(2)):
    index = start.index + t
    count = np.array([index % 2 ** 32, index >> 32], np.uint32)
    words = np.asarray(threefry_2x32(np.array([5, 9], np.uint32), count))
    u, x = (words[side] >> 8) * 2.0 ** -24, logits[t, side] - logits[t, side].max()
    if temperatures[side]:
      sums = np.cumsum(np.exp(x / temperatures[side]))
      expected = min((sums <= u * sums[-1]).sum(), 255)
    else:
      expected = x.argmax()
    assert codes[t, side] == expected, (t, side)


@pytest.mark.parametrize('dtype', DTYPES)
def test_stream_cut_anywhere_equals_whole(dtype):
  network = layout.build(random_models.weights(dtype=dtype))
  frames = random_models.frames(64)
  whole, end = sample(network, frames, 30, HOP, initial_state(network))
  for cut in (0, 1, 6, 7, 8, 29, 30):
    head, state = sample(network, frames, cut, HOP, initial_state(network))
    first = cut // HOP
    tail, last = sample(network, frames[first:], 30 - cut, HOP, state,
                        position=cut - first * HOP)
    np.testing.assert_array_equal(np.concatenate([head, tail]), whole)
    np.testing.assert_array_equal(last.h, end.h)
    np.testing.assert_array_equal(last.pcm, end.pcm)
    assert last.index == end.index == 30


def test_threads_equal_one_after_another():
  network, frames = layout.build(random_models.weights()), random_models.frames(64)
  jobs = [{'frames_FxG': frames + k, 'count': 500, 'hop': 100,
           'state': initial_state(network), 'options': Options(utterance=k)}
          for k in range(6)]
  apart = [sample(network, **job)[0] for job in jobs]
  together = [pcm for pcm, _ in loop.sample_many(network, jobs, 3)]
  np.testing.assert_array_equal(apart, together)
  assert len({pcm.tobytes() for pcm in apart}) == len(jobs)


def test_coarse_byte_reaches_the_fine_half_only():
  weights = random_models.weights()
  network, frames = layout.build(weights), random_models.frames(64)
  states = [score(network, frames, np.array([256 * c - 2**15], np.int16), HOP,
                  initial_state(network))[1].h for c in (0, 255)]
  np.testing.assert_array_equal(states[0][:32], states[1][:32])
  assert (states[0][32:] != states[1][32:]).all()


def test_wrong_shapes_are_refused():
  network = layout.build(random_models.weights())
  start = initial_state(network)
  with pytest.raises(ValueError, match='frames of shape'):
    sample(network, random_models.frames(32), 1, HOP, start)
  with pytest.raises(ValueError, match='state of shape'):
    sample(network, random_models.frames(64), 1, HOP, start._replace(h=start.h[:8]))
  with pytest.raises(ValueError, match='hop 0'):
    sample(network, random_models.frames(64), 1, 0, start)
  with pytest.raises(ValueError, match='multiple of 32'):
    layout.build(random_models.weights(units=48, projection=32, density=1.0))
