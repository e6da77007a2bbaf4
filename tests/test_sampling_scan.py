"""Streams and batches of utterances against one another."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import ties

from wavernn_jax import audio, draw
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import wavernn
from wavernn_jax.sampling import scan, stream

MEL = MelConfig(name='tiny', sample_rate=800, n_fft=16, window=8, hop=4, bands=3, fmax=400.0)
RNN = wavernn.WaveRNN(ModelConfig(units=8, projection=16, channels=8, layers=2), MEL)
FRAMES = 11  # of the stream that is cut; no multiple of a block
BLOCK = 4


@functools.cache
def parameters():
  """Weights and biases so large that every input moves every later draw."""
  rng = np.random.default_rng(0)
  scale = {'conditioning': 0.6, 'recurrent': 1, 'previous': 1, 'coarse': 1, 'outputs': 2}
  return {name: jax.tree.map(
      lambda a, s=scale[name]: np.float32(s * rng.standard_normal(a.shape) / np.sqrt(len(a))),
      tree) for name, tree in jax.eval_shape(lambda: RNN.init(0)).items()}


@functools.cache
def sampler(block=BLOCK, temperatures=(1.0, 1.0)):
  return scan.ScanEngine(RNN, parameters(), temperatures, block)


def log_mel(frames, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(audio.mel_floor(MEL), 1, (frames, MEL.bands)).astype(np.float32)


def joined(chunks):
  return np.concatenate([np.zeros(0, np.int16), *chunks])


@functools.cache
def whole(frames=FRAMES, block=BLOCK, seed=0, utterance=0):
  return stream.batch(
      sampler(block), [log_mel(frames)], draw.keys(seed, [utterance]))[0]


# Streams


@hypothesis.given(frames=st.integers(1, FRAMES), cuts=st.lists(st.integers(0, FRAMES), max_size=8))
@hypothesis.example(frames=FRAMES, cuts=[])
@hypothesis.example(frames=FRAMES, cuts=list(range(1, FRAMES)))
@hypothesis.example(frames=FRAMES, cuts=[0, 0, 5, 5, 5, FRAMES, FRAMES])
@hypothesis.example(frames=BLOCK, cuts=[1])
@hypothesis.settings(max_examples=30, deadline=None)
def test_a_stream_is_the_whole_utterance_however_it_is_cut(frames, cuts):
  chunks = np.split(log_mel(FRAMES)[:frames], sorted(min(c, frames) for c in cuts))
  found = list(stream.stream(sampler(), chunks, draw.keys(0, [0])))
  expected = stream.batch(sampler(), [log_mel(FRAMES)[:frames]], draw.keys(0, [0]))[0]
  assert [len(c) for c in found[:-1]] == [BLOCK * MEL.hop] * (len(found) - 1)
  assert joined(found).dtype == np.int16
  np.testing.assert_array_equal(joined(found), expected)


def test_audio_comes_as_soon_as_a_block_and_its_lookahead_are_known():
  given = []
  def chunks():
    for frame in log_mel(FRAMES):
      given.append(frame)
      yield frame[None]
  pieces = stream.stream(sampler(), chunks(), draw.keys(0, [0]))
  next(pieces)
  assert len(given) == BLOCK + RNN.timing.margin
  next(pieces)
  assert len(given) == min(FRAMES, 2 * BLOCK + RNN.timing.margin)


@pytest.mark.parametrize('chunks', [[], [log_mel(0)], [log_mel(0)] * 3])
def test_an_empty_stream_yields_nothing(chunks):
  assert list(stream.stream(sampler(), chunks, draw.keys(0, [0]))) == []


@pytest.mark.parametrize('chunk, message', [
    (np.zeros((2, 4)), r'found shape \(2, 4\), expected \[frames, 3\]'),
    (np.zeros(3), r'found shape \(3,\)'),
    (np.zeros((1, 2, 3)), r'found shape \(1, 2, 3\)'),
    (np.array([[0, np.nan, 0]]), 'NaN or infinite'),
    (np.array([[0, 0, -np.inf]]), 'NaN or infinite'),
])
def test_a_bad_chunk_is_an_error_wherever_it_comes(chunk, message):
  for before in ([], [log_mel(1)]):
    with pytest.raises(ValueError, match=message):
      list(stream.stream(sampler(), [*before, chunk], draw.keys(0, [0])))


def test_the_callers_chunks_are_left_alone():
  chunks = np.split(log_mel(FRAMES), [3, 9])
  list(stream.stream(sampler(), chunks, draw.keys(0, [0])))
  np.testing.assert_array_equal(np.concatenate(chunks), log_mel(FRAMES))


# Utterances


@pytest.mark.parametrize('frames', [1, BLOCK - 1, BLOCK, BLOCK + 1, FRAMES])
def test_an_utterance_has_hop_samples_a_frame(frames):
  assert len(whole(frames)) == frames * MEL.hop


def test_a_lane_does_not_depend_on_its_neighbours():
  def lane(others, seed):
    mels = [log_mel(others[0], seed), log_mel(5), log_mel(others[1], seed + 1)]
    return stream.batch(sampler(), mels, draw.keys(0, [seed, 7, seed + 1]))[1]
  first = lane((5, 5), 10)
  np.testing.assert_array_equal(lane((5, 5), 20), first)
  np.testing.assert_array_equal(lane((FRAMES, 1), 30), first)


def test_seeds_and_utterances_draw_differently():
  drawn = {whole(seed=seed, utterance=utterance).tobytes()
           for seed in (0, 1) for utterance in (0, 1)}
  assert len(drawn) == 4


def test_the_mel_is_heard():
  pcm = stream.batch(sampler(), [log_mel(FRAMES, 1)], draw.keys(0, [0]))[0]
  assert np.mean(pcm != whole()) > 0.2


@pytest.mark.parametrize('block', [1, 3, 16])
def test_the_block_size_changes_no_sample(block):
  """Convolutions of other lengths may round otherwise."""
  ties.assert_same([whole(block=block)], [whole()], sampler(), [log_mel(FRAMES)],
                   draw.keys(0, [0]))


def test_the_whole_utterance_is_one_call_of_the_model():
  """Frames outside the utterance hold the floor, whatever the blocks."""
  frames, margin = 50, RNN.timing.margin
  mel = np.pad(log_mel(frames), ((margin, margin), (0, 0)),
               constant_values=audio.mel_floor(MEL))
  pcm, _ = jax.jit(RNN.sample, static_argnames='samples')(
      parameters(), RNN.initial_state(1), mel[None], draw.keys(0, [0]),
      np.ones(2, np.float32), samples=frames * MEL.hop)
  np.testing.assert_array_equal(pcm[0], whole(frames))


def test_progress_adds_up_to_the_samples_made():
  lengths, made = [5, 1, FRAMES], []
  stream.batch(sampler(), [log_mel(n) for n in lengths], draw.keys(0, range(3)), made.append)
  assert sum(made) == sum(lengths) * MEL.hop
  assert made == [(4 + 1 + 4) * MEL.hop, (1 + 0 + 4) * MEL.hop, 3 * MEL.hop]


def test_parameters_may_be_replaced_without_compiling_anew():
  traces = []
  class Counting(wavernn.WaveRNN):
    def sample(self, *arguments, **options):
      traces.append(1)
      return super().sample(*arguments, **options)
  other = scan.ScanEngine(Counting(RNN.config, RNN.mel), jax.tree.map(np.zeros_like, parameters()),
                       block_frames=BLOCK)
  silent = stream.batch(other, [log_mel(FRAMES)], draw.keys(0, [0]))[0]
  other.params = parameters()
  found = stream.batch(other, [log_mel(FRAMES)], draw.keys(0, [0]))[0]
  np.testing.assert_array_equal(found, whole())
  assert not np.array_equal(found, silent) and len(traces) == 1


def test_unrolling_and_donation_change_no_sample():
  inputs = [log_mel(FRAMES)], draw.keys(0, [0])
  other = scan.ScanEngine(RNN, parameters(), block_frames=BLOCK, unroll=3, donate=True)
  np.testing.assert_array_equal(stream.batch(other, *inputs)[0], whole())
