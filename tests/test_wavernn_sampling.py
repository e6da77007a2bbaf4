"""WaveRNN: samples against teacher-forced logits and states."""

import jax
import numpy as np
import pytest
from tiny_wavernn import LOW, MEL, MODEL, RNN, nats, parameters, speech, teacher_forced_logits

from wavernn_jax import audio, draw
from wavernn_jax.models import conditioning

_sample = jax.jit(RNN.sample, static_argnames='samples')
_uniforms = jax.jit(draw.uniforms, static_argnums=2)


@jax.jit
def draw_again(logits, uniform_Tx2xB, temperatures):
  """The bytes, TxB each, that these logits and uniforms give."""
  again = jax.vmap(draw.categorical, (0, 0, None))
  return [again(logits[i], uniform_Tx2xB[:, i], temperatures[i]) for i in (0, 1)]

@pytest.mark.parametrize('temperatures', [(1.0, 1.0), (0.7, 1.3)])
def test_draws_again_from_teacher_forced_logits_give_the_samples(temperatures):
  samples = 40
  _, mel = speech(samples, batch=3)
  state, keys = RNN.initial_state(3), draw.keys(11, [0, 1, 5])
  pcm, _ = _sample(parameters(), state, mel, keys, np.float32(temperatures), samples=samples)
  pcm = np.asarray(pcm)
  assert len(np.unique(pcm)) > 0.5 * pcm.size
  logits = teacher_forced_logits(RNN, parameters(), state, pcm, mel)
  uniform = _uniforms(keys, state['index'], samples)
  coarse, fine = map(np.asarray, draw_again(logits, uniform, temperatures))
  np.testing.assert_array_equal(audio.join_bytes(coarse, fine).T, pcm)


def test_temperature_0_is_the_argmax_of_teacher_forced_logits():
  _, mel = speech(40, batch=3)
  state = RNN.initial_state(3)
  for temperatures in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0)):
    pcm, other = (np.asarray(_sample(
        parameters(), state, mel, draw.keys(seed, [0, 1, 2]), np.float32(temperatures),
        samples=40)[0]) for seed in (1, 2))
    drawn = audio.split_bytes(pcm)
    logits = teacher_forced_logits(RNN, parameters(), state, pcm, mel)
    for byte, temperature, found in zip(logits, temperatures, drawn, strict=True):
      assert np.array_equal(byte.argmax(-1).T, found) == (temperature == 0)
    assert np.array_equal(pcm, other) == (temperatures == (0, 0))


def test_samples_in_pieces_with_carried_state_equal_the_whole():
  frames, hop = 10, MEL.hop
  _, mel = speech(frames * hop, batch=3)
  keys, temperatures = draw.keys(2, [0, 1, 2]), np.ones(2, np.float32)
  whole, end = _sample(parameters(), RNN.initial_state(3), mel, keys, temperatures,
                       samples=frames * hop)
  state, pieces = RNN.initial_state(3), []
  for first in range(0, frames, 5):
    piece, state = _sample(parameters(), state, mel[:, first:first + 5 + 2 * RNN.timing.margin],
                           keys, temperatures, samples=5 * hop)
    pieces.append(piece)
  np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
  np.testing.assert_array_equal(state['index'], end['index'])
  np.testing.assert_array_equal(state['pcm'], whole[:, -1:])
  np.testing.assert_allclose(state['h'], end['h'], atol=1e-5)


def test_the_state_after_sampling_is_the_state_after_teacher_forcing():
  _, mel = speech(20, batch=3)
  start = nats(*speech(8, batch=3, seed=3))[2]
  pcm, drawn = _sample(parameters(), start, mel, draw.keys(0, [0, 1, 2]),
                       np.ones(2, np.float32), samples=20)
  forced = nats(np.asarray(pcm), mel, start)[2]
  for name, expected in forced.items():
    np.testing.assert_allclose(drawn[name], expected, atol=1e-5, err_msg=name)


def test_bfloat16_draws_again_from_teacher_forced_logits_give_the_samples():
  _, mel = speech(40, batch=3)
  state, keys = LOW.initial_state(3), draw.keys(11, range(3))
  pcm, _ = jax.jit(LOW.sample, static_argnames='samples')(
      parameters(), state, mel, keys, np.ones(2, np.float32), samples=40)
  pcm = np.asarray(pcm)
  logits = teacher_forced_logits(LOW, parameters(), state, pcm, mel)
  again = draw_again(logits, _uniforms(keys, state['index'], 40), (1.0, 1.0))
  for found, drawn in zip(again, audio.split_bytes(pcm), strict=True):
    found = np.asarray(found).T
    # Float32 sums in another order may round to another bfloat16.
    assert (found == drawn).mean() > 0.95 and np.abs(found - drawn).max() <= 2


def test_gate_inputs_of_sampling_and_of_likelihood_come_from_the_same_conditioning():
  """The model reads no frame but those that `frames` counts, and reads the outer ones."""
  _, mel = speech(4 * MEL.hop)
  run = jax.jit(lambda m: conditioning.sample_gates(
      parameters()['conditioning'], m, 4 * MEL.hop, MODEL, MEL))
  plain = run(mel)
  # Centred frames: no sample lies before frame 0, so that frame −1 − margin rests.
  for frame, heard in ((0, False), (1, True), (mel.shape[1] - 1, True)):
    changed = mel.copy()
    changed[:, frame] += 2
    moved = any((a != b).any() for a, b in zip(plain, run(changed), strict=True))
    assert moved == heard, frame
