"""Random numbers against a plain Threefry, draws against their definition."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import scipy.stats

from wavernn_jax import draw

_categorical = jax.jit(draw.categorical)
_uniforms = jax.jit(draw.uniforms, static_argnums=2)


def threefry_2x32(key, counter):
  """Threefry-2x32 with 20 rounds in plain integers (Salmon et al., 2011)."""
  rotations = (13, 15, 26, 6, 17, 29, 16, 24)
  k = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
  a, b = (counter[0] + k[0]) % 2**32, (counter[1] + k[1]) % 2**32
  for i in range(20):
    a = (a + b) % 2**32
    rotation = rotations[i % 8]
    b = a ^ (b << rotation | b >> 32 - rotation) % 2**32
    if i % 4 == 3:
      n = i // 4 + 1
      a, b = (a + k[n % 3]) % 2**32, (b + k[(n + 1) % 3] + n) % 2**32
  return a, b


def uniforms(seed, utterances, index, samples):
  """Tx2xB from the same index in every lane."""
  keys = draw.keys(seed, utterances)
  return np.asarray(_uniforms(keys, np.full(len(keys), index, np.uint32), samples))


def inverted(logits, uniform, temperature):
  """The definition in float64: value, and distance of uniform to its interval's ends."""
  p = np.exp((np.float64(logits) - logits.max(-1, keepdims=True)) / temperature)
  cumulative = np.cumsum(p, axis=-1) / p.sum(-1, keepdims=True)
  value = (cumulative <= np.float64(uniform)[:, None]).sum(-1)
  return value, np.abs(cumulative - uniform[:, None]).min(-1)


@pytest.mark.parametrize('counter, key, words', [
    # Known answers of the Random123 distribution (kat_vectors, threefry2x32 20).
    ((0, 0), (0, 0), (0x6b200159, 0x99ba4efe)),
    ((0xffffffff,) * 2, (0xffffffff,) * 2, (0x1cb996fc, 0xbb002be7)),
    ((0x243f6a88, 0x85a308d3), (0x13198a2e, 0x03707344), (0xc4923a9c, 0x483df7a0)),
])
def test_the_plain_threefry_gives_the_known_answers(counter, key, words):
  assert threefry_2x32(key, counter) == words


@hypothesis.given(seed=st.integers(0, 2**32 - 1), utterance=st.integers(0, 2**32 - 1),
                  index=st.integers(0, 2**32 - 4))
@hypothesis.example(seed=0, utterance=0, index=0)
@hypothesis.example(seed=2**32 - 1, utterance=2**31, index=2**31)
@hypothesis.settings(max_examples=15, deadline=None)
def test_uniforms_are_threefry_words_of_seed_utterance_and_index(seed, utterance, index):
  found = uniforms(seed, [utterance], index, 4)[:, :, 0]
  words = np.array([threefry_2x32((seed, utterance), (index + t, 0)) for t in range(4)])
  np.testing.assert_array_equal(found, (words >> 8) / 2**24)


def test_further_draws_are_of_further_counters():
  index_Tx2 = np.array([[3, 700], [4, 2**32 - 1]], np.uint32)
  keys = draw.keys(7, [5, 9])
  found = np.asarray(draw.uniforms_at(keys, index_Tx2, 6))
  for t, lane in np.ndindex(2, 2):
    words = [threefry_2x32((7, (5, 9)[lane]), (int(index_Tx2[t, lane]), n)) for n in range(3)]
    np.testing.assert_array_equal(found[t, :, lane], (np.ravel(words) >> 8) / 2**24)
  np.testing.assert_array_equal(found[:, :2], draw.uniforms_at(keys, index_Tx2))


def test_uniforms_do_not_depend_on_chunks():
  whole = uniforms(5, [0, 9], 100, 12)
  pieces = [uniforms(5, [0, 9], 100 + a, n) for a, n in ((0, 1), (1, 4), (5, 7))]
  np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_uniforms_do_not_depend_on_the_batch():
  whole = uniforms(5, [3, 0, 9], 2, 6)
  for lane, utterance in enumerate((3, 0, 9)):
    np.testing.assert_array_equal(uniforms(5, [utterance], 2, 6)[:, :, 0], whole[:, :, lane])


def test_lanes_may_be_at_different_indices():
  keys = draw.keys(1, [0, 1])
  found = np.asarray(_uniforms(keys, np.array([10, 500], np.uint32), 3))
  np.testing.assert_array_equal(found[..., 0], uniforms(1, [0], 10, 3)[..., 0])
  np.testing.assert_array_equal(found[..., 1], uniforms(1, [1], 500, 3)[..., 0])


def test_bytes_seeds_utterances_and_samples_have_numbers_of_their_own():
  found = np.stack([uniforms(seed, [0, 1, 2], 0, 50) for seed in (0, 1)])
  assert 0 <= found.min() and found.max() < 1
  assert len(np.unique(found)) == found.size == 2 * 50 * 2 * 3


def test_uniforms_are_uniform_and_uncorrelated():
  u = uniforms(0, [0], 0, 20_000)[:, :, 0]
  for column in u.T:
    assert scipy.stats.kstest(column, 'uniform').pvalue > 1e-3
  for a, b in ((u[:, 0], u[:, 1]), (u[1:, 0], u[:-1, 0]), (u[1:, 1], u[:-1, 1])):
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))


@pytest.mark.parametrize('V', [16, 256])
@pytest.mark.parametrize('temperature', [1.0, 0.5, 2.0])
@pytest.mark.parametrize('scale', [0.1, 3.0, 20.0])
def test_draws_invert_the_cumulative_distribution(V, temperature, scale):
  rng = np.random.default_rng(0)
  logits = (scale * rng.standard_normal((500, V))).astype(np.float32)
  uniform = rng.uniform(size=500).astype(np.float32)
  found = np.asarray(_categorical(logits, uniform, temperature))
  expected, margin = inverted(logits, uniform, temperature)
  assert found.dtype == np.int32
  tied = margin < 1e-6
  assert tied.mean() < 0.01
  np.testing.assert_array_equal(found[~tied], expected[~tied])
  assert np.abs(found - expected)[tied].max(initial=0) <= V


@pytest.mark.parametrize('V', [16, 256])
def test_the_ends_of_the_unit_interval_give_the_first_and_last_values(V):
  logits = np.random.default_rng(0).standard_normal((2, V)).astype(np.float32)
  found = _categorical(logits, np.array([0, 1 - 2**-24], np.float32), 1.0)
  np.testing.assert_array_equal(found, [0, V - 1])


@pytest.mark.parametrize('V', [16, 256])
def test_equal_logits_draw_the_scaled_uniform(V):
  uniform = (np.arange(V) + np.float32(0.5)) / V
  found = _categorical(np.full((V, V), 7, np.float32), uniform.astype(np.float32), 1.0)
  np.testing.assert_array_equal(found, np.arange(V))


@pytest.mark.parametrize('V', [16, 256])
def test_frequencies_match_probabilities(V):
  n = 20_000
  logits = np.random.default_rng(1).standard_normal(V).astype(np.float32)
  p = np.exp(np.float64(logits))
  for byte in (0, 1):
    uniform = uniforms(3, [7], 0, n)[:, byte, 0]
    found = _categorical(np.broadcast_to(logits, (n, V)), uniform, 1.0)
    counts = np.bincount(found, minlength=V)
    assert scipy.stats.chisquare(counts, n * p / p.sum()).pvalue > 1e-3


@pytest.mark.parametrize('V', [16, 256])
def test_temperature_0_is_the_argmax(V):
  rng = np.random.default_rng(2)
  logits = rng.standard_normal((300, V)).astype(np.float32)
  uniform = rng.choice(np.array([0, 0.5, 1 - 2**-24], np.float32), 300)
  first, second = np.sort(logits)[:, :-3:-1].T
  clear = first - second > 3e-5
  assert clear.mean() > 0.95
  found = np.asarray(_categorical(logits, uniform, 0.0))
  np.testing.assert_array_equal(found[clear], logits.argmax(-1)[clear])


def test_temperature_divides_logits():
  rng = np.random.default_rng(3)
  logits = rng.standard_normal((400, 256)).astype(np.float32)
  uniform = rng.uniform(size=400).astype(np.float32)
  np.testing.assert_array_equal(_categorical(logits, uniform, 0.25),
                                _categorical(4 * logits, uniform, 1.0))


@pytest.mark.parametrize('temperature', [0.0, 1e-9, 1.0])
@pytest.mark.parametrize('V', [16, 256])
def test_extreme_logits_draw_only_what_is_possible(V, temperature):
  logits = np.full((8, V), -1e4, np.float32)
  possible = np.array([0, 1, V // 2 - 1, V // 2, V - 2, V - 1, 5, 15])
  logits[np.arange(8), possible] = 1e4
  for uniform in (0, 0.5, 1 - 2**-24):
    found = _categorical(logits, np.full(8, uniform, np.float32), temperature)
    np.testing.assert_array_equal(found, possible)
