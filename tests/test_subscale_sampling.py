"""§4 batched sampling against a slow reference, lane after lane; streams and delays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_models
from random_models import MEL, build

from wavernn_jax import audio, draw, likelihood
from wavernn_jax.models import wavernn
from wavernn_jax.sampling import scan, stream

FRAMES = 11  # of the stream that is cut; no multiple of a block
BLOCK = 4  # frames

sampler, whole = random_models.drawn_once(build, BLOCK, FRAMES)
log_mel = functools.partial(random_models.log_mel, MEL)


def lane_after_lane(model, params, mel_FxM, key_2, temperatures=(1.0, 1.0)):
  """The samples of one utterance, drawn one at a time from the logits of `nats`' path.

  Lane 0 is drawn to its end before lane 1 begins; what is not drawn is silent,
  and no logit that is used depends on it.
  """
  samples = len(mel_FxM) * model.mel.hop
  padded = np.full((1, model.frames(samples), model.mel.bands), audio.mel_floor(model.mel))
  padded[0, model.timing.margin:model.timing.margin + len(mel_FxM)] = mel_FxM

  @jax.jit
  def logits(pcm_T):
    pcm_1xN = jnp.pad(pcm_T, (0, model.timing.ahead))[None]
    h, _, seen = model._run(params, model.initial_state(1), pcm_1xN, jnp.float32(padded))
    return [likelihood.layer_logits(params['outputs'][b], y)[:, :, 0]
            for b, y in zip(wavernn.BYTES, wavernn.output_inputs(h, seen), strict=True)]

  pick = jax.jit(draw.categorical)
  uniform_Tx2 = draw.uniforms(key_2[None], np.zeros(1, np.uint32), samples)[..., 0]
  pcm = np.zeros(samples, np.int16)
  for lane in range(model.timing.lanes):
    for t in range(lane, samples, model.timing.lanes):
      drawn = []
      for byte in (0, 1):
        row = logits(jnp.array(pcm))[byte][t // model.timing.lanes, lane]
        drawn.append(pick(row[None], uniform_Tx2[t, byte][None], temperatures[byte]))
        coarse, fine = (*drawn, jnp.zeros(1, jnp.int32))[:2]
        pcm[t] = audio.join_bytes(np.asarray(coarse), np.asarray(fine))[0]
  return pcm


# Samples


@pytest.mark.parametrize('fields', [
    {}, {'lanes': 2, 'horizon': 0, 'context_block': 4}, {'horizon': 1, 'context_block': 1}])
def test_all_lanes_in_one_scan_draw_what_lane_after_lane_draws(fields):
  made = whole(7, **fields)
  model = sampler(**fields).model
  expected = lane_after_lane(model, sampler(**fields).params, log_mel(7), draw.keys(0, [0])[0])
  np.testing.assert_array_equal(made, expected)
  assert len(np.unique(made)) > 0.7 * len(made)


def test_one_lane_draws_the_samples_of_the_plain_model():
  fields = {'lanes': 1, 'horizon': 0}
  plain = build(kind='wavernn', **fields)
  expected = stream.batch(
      scan.ScanEngine(plain, sampler(**fields).params, block_frames=BLOCK), [log_mel(FRAMES)],
      draw.keys(0, [0]))[0]
  np.testing.assert_array_equal(whole(**fields), expected)


@pytest.mark.parametrize('fields', [{'context_block': 1}, {'context_block': 4}, {'block': 2}])
def test_blocks_of_another_length_change_no_sample(fields):
  np.testing.assert_array_equal(whole(**fields), whole())


# Utterances and streams


@pytest.mark.parametrize('frames', [1, 2, BLOCK, BLOCK + 1])
def test_an_utterance_shorter_than_the_delay_is_the_same_alone_and_in_a_batch(frames):
  assert frames * MEL.hop < sampler().model.timing.delay
  lengths = [frames, FRAMES, 0]
  found = stream.batch(sampler(), [log_mel(n) for n in lengths], draw.keys(0, [0, 0, 0]))
  assert [len(pcm) for pcm in found] == [n * MEL.hop for n in lengths]
  np.testing.assert_array_equal(found[0], whole(frames))
  np.testing.assert_array_equal(found[1], whole())


def test_audio_comes_with_the_latency_that_is_documented():
  """block_frames + model.timing.margin frames and model.timing.delay samples, and no later."""
  model, frames, given = sampler().model, 40, []
  def chunks():
    for frame in log_mel(frames):
      given.append(frame)
      yield frame[None]
  delay = (4 - 1) * (3 + 2) * 4
  assert (model.timing.delay, model.timing.lag) == (delay, delay / MEL.hop)
  received = 0
  for chunk in stream.stream(sampler(), chunks(), draw.keys(0, [0])):
    if len(given) < frames:
      known = len(given) * MEL.hop
      assert received >= known - model.timing.delay - (BLOCK + model.timing.margin) * MEL.hop
    received += len(chunk)
  assert received == frames * MEL.hop


def test_a_block_that_lanes_and_context_blocks_do_not_divide_is_an_error():
  with pytest.raises(ValueError, match='block of 12 samples.*multiple of lanes.*= 8'):
    whole(block=3)
