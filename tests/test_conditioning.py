"""Mel frames to gate inputs: plain definitions, blocks, interpolation, backwards."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import audio
from wavernn_jax.config import MelConfig, ModelConfig, mel_preset
from wavernn_jax.models import conditioning, wavernn

PRESETS = ('wavernn24k', 'tacotron2', 'hifigan', 'parallel_wavegan24k')
MODEL = ModelConfig(units=4, projection=3, channels=5, layers=2, kernel=3)
MEL = MelConfig(name='tiny', sample_rate=800, n_fft=16, window=8, hop=4, bands=3, fmax=400.0)
CENTRED = {True: MEL, False: MelConfig(**{**vars(MEL), 'center': False})}


def parameters(config=MODEL, seed=0):
  """Parameters of which none, not even a bias, is zero."""
  rng = np.random.default_rng(seed)
  params = wavernn.WaveRNN(config, MEL).init(0)['conditioning']
  return jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), params)


def log_mel(frames, batch=2, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(audio.mel_floor(MEL), 1, (batch, frames, MEL.bands)))


def plain_frame_gates(params, mel_BxFxM, config):
  """The stack in numpy, one output frame and one tap at a time; BxFxG."""
  floor = audio.mel_floor(MEL)
  x = np.asarray(mel_BxFxM) * (4 / -floor) + 2
  for i in range(config.layers):
    kernel, bias = (np.asarray(params['layers'][str(i)][k]) for k in ('kernel', 'bias'))
    kernel = kernel.reshape(config.kernel, x.shape[2], -1)
    half = config.kernel // 2
    frames = range(half, x.shape[1] - half)
    y = np.stack([np.maximum(0, bias + sum(
        x[:, f + k - half] @ kernel[k] for k in range(config.kernel))) for f in frames], axis=1)
    x = y if i == 0 else y + x[:, half:x.shape[1] - half]
  return x @ np.asarray(params['gates']['kernel']) + np.asarray(params['gates']['bias'])


def assert_close(found, expected, relative=1e-12):
  np.testing.assert_allclose(found, expected, rtol=0, atol=relative * np.abs(expected).max())


@pytest.mark.parametrize('name', PRESETS)
def test_normalisation_maps_floor_to_full_scale_onto_plus_minus_2(name):
  mel = mel_preset(name)
  floor = audio.mel_floor(mel)
  found = conditioning.normalize(np.array([floor, floor / 2, 0]), mel)
  np.testing.assert_allclose(found, [-2, 0, 2], atol=1e-12)


@pytest.mark.parametrize('layers, kernel', [(1, 1), (1, 5), (2, 3), (3, 3)])
def test_the_stack_is_a_residual_convolution(layers, kernel):
  config = ModelConfig(units=4, projection=3, channels=5, layers=layers, kernel=kernel)
  with jax.enable_x64(True):
    params, mel_BxFxM = parameters(config), log_mel(9)
    found = conditioning.frame_gates(params, mel_BxFxM, config, MEL).swapaxes(0, 1)
    expected = plain_frame_gates(params, mel_BxFxM, config)
    assert expected.shape[1] == 9 - 2 * conditioning.margin(config)
    assert_close(found, expected)


@hypothesis.given(cut=st.integers(1, 5), center=st.booleans())
@hypothesis.settings(max_examples=4, deadline=None)
def test_blocks_of_frames_with_their_context_equal_the_whole(cut, center):
  mel, around = CENTRED[center], conditioning.margin(MODEL) + 1
  with jax.enable_x64(True):
    params, frames = parameters(), 6
    mel_BxFxM = log_mel(frames + 2 * around)
    def gates(first, last):
      return conditioning.sample_gates(
          params, mel_BxFxM[:, first:last + 2 * around], (last - first) * mel.hop, MODEL, mel)
    pieces = zip(gates(0, cut), gates(cut, frames), strict=True)
    for pair, whole in zip(pieces, gates(0, frames), strict=True):
      assert_close(np.concatenate(pair), whole)


@hypothesis.given(samples=st.integers(1, 2000), name=st.sampled_from(PRESETS),
                  first=st.integers(-128, 0), step=st.integers(1, 16))
@hypothesis.example(samples=1, name='hifigan', first=0, step=1)
@hypothesis.example(samples=300, name='wavernn24k', first=0, step=1)
@hypothesis.example(samples=301, name='wavernn24k', first=0, step=1)
@hypothesis.example(samples=256, name='hifigan', first=-128, step=2)
@hypothesis.settings(max_examples=20, deadline=None)
def test_interpolation_is_linear_between_the_centres_of_frames(samples, name, first, step):
  mel = mel_preset(name)
  weights_TxF = conditioning.interpolation(samples, mel, first, step)
  F = weights_TxF.shape[1]
  assert F == conditioning.frames(samples, MODEL, mel) - 2 * conditioning.margin(MODEL)
  np.testing.assert_allclose(weights_TxF.sum(axis=1), 1, rtol=1e-12)
  assert weights_TxF.min() >= 0 and ((weights_TxF > 0).sum(axis=1) <= 2).all()
  values = np.random.default_rng(samples).standard_normal(F)
  centres = np.arange(-1, F - 1) * mel.hop + (0 if mel.center else mel.hop / 2)
  times = range(first, samples, step)
  np.testing.assert_allclose(
      weights_TxF @ values, np.interp(times, centres, values), atol=1e-12)


@pytest.mark.parametrize('center', [True, False])
@pytest.mark.parametrize('samples', [1, 3, 9, 12])
def test_gate_inputs_are_the_interpolated_frame_gates(center, samples):
  mel = CENTRED[center]
  with jax.enable_x64(True):
    params = parameters()
    mel_BxFxM = log_mel(conditioning.frames(samples, MODEL, mel))
    found = conditioning.sample_gates(params, mel_BxFxM, samples, MODEL, mel)
    frames_BxFxG = plain_frame_gates(params, mel_BxFxM, MODEL)
    expected_TxBxG = np.einsum(
        'tf,bfg->tbg', conditioning.interpolation(samples, mel), frames_BxFxG)
    for gate, expected in zip(found, np.split(expected_TxBxG, 3, axis=2), strict=True):
      assert_close(gate, expected)


@pytest.mark.parametrize('center', [True, False])
def test_a_frame_reaches_the_samples_nearer_than_context_plus_one_frame(center):
  mel, around, frames, frame = CENTRED[center], conditioning.margin(MODEL) + 1, 12, 6
  with jax.enable_x64(True):
    params, mel_BxFxM = parameters(), log_mel(frames + 2 * around)
    changed = mel_BxFxM.at[:, around + frame].add(0.7)
    gates, others = (jnp.concatenate(conditioning.sample_gates(
        params, m, frames * mel.hop, MODEL, mel), axis=-1) for m in (mel_BxFxM, changed))
  reached = np.asarray((gates != others).any(axis=(1, 2)))
  centre = frame * mel.hop + audio.frame_offset(mel)
  distance = np.abs(np.arange(frames * mel.hop) - centre)
  np.testing.assert_array_equal(reached, distance < around * mel.hop)
  block = np.arange(frames * mel.hop) // mel.hop
  assert (np.abs(block - frame)[reached] <= around).all()


def test_backward_of_upsample_equals_autodiff():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    weights_TxF = jnp.asarray(conditioning.interpolation(10, MEL))
    gates_FxBxH, dx_TxBxH = (
        jnp.asarray(rng.standard_normal((n, 2, 3))) for n in weights_TxF.shape[::-1])
    found, expected = (jax.vjp(lambda g, f=f: f(weights_TxF, g), gates_FxBxH) for f in (
        conditioning.upsample, lambda w, g: jnp.einsum('tf,fbh->tbh', w, g)))
    assert_close(found[0], expected[0])
    assert_close(found[1](dx_TxBxH)[0], expected[1](dx_TxBxH)[0])


@pytest.mark.parametrize('K', [1, 2, 3])
def test_backward_of_add_inputs_equals_autodiff(K):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x, inputs, weights, dx = (jnp.asarray(rng.standard_normal(shape)) for shape in (
        (5, 2, 4), (5, 2, K), (K, 4), (5, 2, 4)))
    found, expected = (jax.vjp(lambda x, w, f=f: f(x, inputs, w), x, weights) for f in (
        conditioning.add_inputs, lambda x, i, w: x + jnp.einsum('tbk,kh->tbh', i, w)))
    assert_close(found[0], expected[0])
    for ours, plain in zip(found[1](dx), expected[1](dx), strict=True):
      assert_close(ours, plain)


def test_bfloat16_gate_inputs_stay_near_float32():
  low = ModelConfig(**{**vars(MODEL), 'compute_dtype': 'bfloat16'})
  params, mel_BxFxM = parameters(), log_mel(conditioning.frames(8, MODEL, MEL))
  for plain, rounded in zip(*(conditioning.sample_gates(
      params, mel_BxFxM, 8, config, MEL) for config in (MODEL, low)), strict=True):
    assert rounded.dtype == np.float32
    assert 1e-5 < np.abs(rounded - plain).max() / np.abs(plain).max() < 2e-2
