"""The CPU engine where residuals of a prediction are coded, and a bias inside the reset gate."""

import dataclasses
import functools

import jax
import numpy as np
import plain_reader
import pytest
import random_models
import ties

from wavernn_jax import audio, draw, models
from wavernn_jax.config import Config, ModelConfig, PruningConfig
from wavernn_jax.models import prediction
from wavernn_jax.sampling import cpu, export as export_lib, scan, stream
from wavernn_jax.sampling.cpu import engine, hear, loop

BLOCK = 4
MEL10 = (('log', '10'), ('center', False), ('power', 2.0))


@functools.cache
def packed(weights='float32', block=(16, 1), mel=(), **model):
  model = dict(units=32, projection=16, channels=8, layers=2, prediction='spectral', taps=6,
               residuals=3) | model
  config = Config(
      model=ModelConfig(**model), mel=dataclasses.replace(random_models.MEL, **dict(mel)),
      pruning=PruningConfig(recurrent=0.5, hidden=0.5, output=0.5, block_outputs=block[0],
                            block_inputs=block[1], start=0, steps=1))
  return export_lib.pack(*random_models.pruned_run(config), config, weights)


def engines(export, temperatures=(1.0, 1.0), block=BLOCK):
  """The CPU engine and the scan sampler of the same file."""
  return cpu.CpuEngine(export, temperatures, block), scan.ScanEngine(
      models.build(export.config), export.params(), temperatures, block)


def forced(export, mel_FxM, pcm_T):
  """Teacher-forced logits and state of the CPU engine."""
  sampler = cpu.CpuEngine(export, block_frames=len(mel_FxM))
  window = stream.padded_mels([mel_FxM], len(mel_FxM), sampler.model.timing.around,
                              sampler.model.mel)[0]
  state = {name: v[0] for name, v in sampler.initial_state(1).items()}
  return loop.score(sampler.network, sampler.gates(window), pcm_T, sampler.model.mel.hop,
                    engine.stream_state(state), sampler.position, with_logits=True,
                    predictor=sampler.predictor(window))


@pytest.mark.parametrize(('weights', 'block', 'mel', 'model', 'error'), [
    ('float32', (16, 1), (), {}, 2e-4),
    ('float32', (4, 4), MEL10, {'reset_bias': True}, 2e-4),
    ('bfloat16', (16, 1), (), {'taps': 8}, 5e-3),
    ('int8', (4, 4), (), {'prediction': 'none', 'reset_bias': True}, 5e-3)])
def test_a_reader_written_from_the_page_of_the_format_finds_the_same(
    weights, block, mel, model, error):
  """Of files, in float64 numpy; the priors' steepest logits are rounded in float32."""
  export = packed(weights, block, mel, **model)
  mel = export.config.mel
  mel_FxM = random_models.log_mel(mel, 9)
  mel_FxM[4:6] = audio.mel_floor(mel)
  pcm = np.random.default_rng(2).normal(0, 4_000, 9 * mel.hop).astype(np.int16)
  scores, state = forced(export, mel_FxM, pcm)
  logits, h = plain_reader.score(export_lib.to_bytes(export), mel_FxM, pcm)
  np.testing.assert_allclose(scores.logits, logits, rtol=1e-6, atol=error)
  np.testing.assert_allclose(state.h, h, atol=error)
  logits -= logits.max(axis=-1, keepdims=True)
  nats = np.log(np.exp(logits).sum(axis=-1))
  assert np.ptp(nats) > 0.5


def test_a_gru_of_another_program_is_packed_with_the_bias_that_its_reset_gate_gates():
  """Equations of torch.nn.GRU, of random weights r, z, n, side by side with the engine."""
  rng, units = np.random.default_rng(3), 32
  w_hh, b_hh = rng.normal(0, 0.3, (3 * units, units)), rng.normal(0, 0.5, 3 * units)
  b_ih, w_ih = rng.normal(0, 0.5, 3 * units), rng.normal(0, 0.3, (3 * units, 2))
  export = packed(prediction='none', reset_bias=True)
  params = jax.tree.map(np.array, export.params())
  r, z, n = np.split(np.arange(3 * units), 3)
  for gate, rows in zip('ure', (z, r, n), strict=True):
    params['recurrent'][gate] = w_hh[rows].T
  order = np.concatenate([z, r, n])
  outside = b_ih + np.where(np.arange(3 * units) < 2 * units, b_hh, 0)
  params['conditioning']['gates'] = {'kernel': np.zeros((8, 3 * units)), 'bias': outside[order]}
  params['previous'] = w_ih[order].T / np.array([[64.0], [1.0]])  # less the gains
  params['coarse'] = np.zeros_like(params['coarse'])
  params['reset_bias'] = b_hh[n]
  masks = jax.tree.map(lambda _: None, params)
  export = export_lib.pack(params, masks, export.config, 'float32')
  pcm = rng.integers(-2**15, 2**15, 40).astype(np.int16)
  _, state = forced(export, random_models.log_mel(random_models.MEL, 10), pcm)
  h, heard = np.zeros(units), np.concatenate([[0], pcm[:-1]])
  for byte in np.stack(audio.split_bytes(heard.astype(np.int16)), axis=1):
    gi = w_ih @ (byte / 127.5 - 1) + b_ih
    gh = w_hh @ h + b_hh
    reset, update = (1 / (1 + np.exp(-(gi[k] + gh[k]))) for k in (r, z))
    new = np.tanh(gi[n] + reset * gh[n])
    h = (1 - update) * new + update * h
  np.testing.assert_allclose(state.h, h, atol=1e-5)
  model = models.build(export.config)
  _, after = model.nats(export.params(), model.initial_state(1), pcm[None],
                        random_models.log_mel(model.mel, model.frames(40))[None])
  np.testing.assert_allclose(np.asarray(after['h'])[0], h, atol=1e-5)
  made = [stream.batch(one, [random_models.log_mel(model.mel, 5)], draw.keys(0, [0]))[0]
          for one in engines(export)]
  np.testing.assert_array_equal(*made)


def test_predictions_are_those_of_the_model_whatever_the_samples():
  """All frames; loud noise, full-scale squares, silence."""
  export = packed(taps=8)
  sampler = cpu.CpuEngine(export, block_frames=6)
  model, rng = sampler.model, np.random.default_rng(5)
  window = rng.uniform(-11.5, 3, (sampler.window, model.mel.bands)).astype(np.float32)
  filters, row_T = model.hearing.filters(window[None], 24)
  square = np.where(np.arange(36) // 3 % 2, 2**15 - 1, -2**15)
  for pcm in (rng.integers(-2**15, 2**15, 36), square, np.zeros(36, int)):
    pcm = pcm.astype(np.int16)
    predicted = np.asarray(prediction.predict_all(
        filters.taps.transpose(2, 1, 0), filters.shift[row_T], pcm[:, None], row_T,
        prediction.offsets(8), 12))[:, 0]
    past = pcm[:12]
    seen = loop.State(np.zeros(32, np.float32), past, 0)
    _, after = loop.score(sampler.network, sampler.gates(window), pcm[12:], model.mel.hop, seen,
                          sampler.position, predictor=sampler.predictor(window))
    np.testing.assert_array_equal(after.pcm, pcm[-12:])
    found = _predicted(sampler.predictor(window), pcm, row_T)
    np.testing.assert_array_equal(found, predicted)


def test_weights_of_a_long_prediction_are_those_of_the_model():
  """192 taps at 24 kHz; speech, and what is none."""
  config = Config(model=ModelConfig(units=32, projection=16, channels=16, layers=1,
                                    prediction='spectral'))
  packed = export_lib.pack(*random_models.pruned_run(config), config)
  sampler = cpu.CpuEngine(packed, block_frames=6)
  rng, shape = np.random.default_rng(8), (sampler.window, config.mel.bands)
  for mel in (np.cumsum(rng.normal(0, 0.4, shape), axis=1) - 5, rng.uniform(-11, 2, shape),
              np.full(shape, -11.6)):
    found = sampler.predictor(mel.astype(np.float32))
    filters, _ = sampler.model.hearing.filters(mel[None].astype(np.float32), 0)
    for one, other in zip((found.taps, found.shifts, found.scales, found.levels), filters,
                          strict=True):
      np.testing.assert_array_equal(one, np.asarray(other)[:, 0])


def _predicted(predictor, pcm, row_T):
  """What the compiled loop predicts of pcm[12:]."""
  made = np.zeros(len(row_T), np.int32)
  _PREDICT(predictor, np.concatenate([np.zeros(32, np.int16), pcm]), row_T, made)
  return made


def _predict(predictor, pcm, rows, made):
  p, samples = hear.simd.borrow(predictor), hear.simd.borrow(pcm)
  for t in range(len(rows)):
    made[t] = hear._predict(p, 44 + t, rows[t], samples).predicted


_PREDICT = loop.numba.njit(**loop.OPTIONS)(_predict)


@pytest.mark.parametrize('level', ['loud', 'silent', 'noise'])
def test_spectrograms_that_no_audio_has_are_spoken_alike(level):
  """Saturated and not: a wrap would be a click that the scan sampler does not make."""
  export, rng = packed(), np.random.default_rng(6)
  floor = audio.mel_floor(export.config.mel)
  mel = {'loud': np.full((9, 3), 8.0), 'silent': np.full((9, 3), floor),
         'noise': rng.normal(-3, 8, (9, 3))}[level].astype(np.float32)
  both, keys = engines(export), draw.keys(1, [2])
  (found,), expected = (stream.batch(one, [mel], keys) for one in both)
  ties.assert_same([found], expected, both[1], [mel], keys)
  assert (np.abs(found.astype(int)) >= 2**15 - 1).any() == (level == 'noise')


def test_a_state_goes_from_one_engine_to_the_other():
  export = packed()
  both = engines(export)
  mel = random_models.log_mel(export.config.mel, BLOCK + both[0].window)[None]
  windows, made = (mel[:, :both[0].window], mel[:, BLOCK:]), []
  for first, second in (both, both[::-1], both[:1] * 2, both[1:] * 2):
    pcm, state = first.next_block(first.initial_state(1), windows[0], draw.keys(0, [0]))
    rest, state = second.next_block(state, windows[1], draw.keys(0, [0]))
    assert state['pcm'].shape == (1, 9)
    made.append(np.concatenate([pcm, rest], axis=1))
  for other in made[1:]:
    np.testing.assert_array_equal(made[0], other)


def test_what_does_not_fit_a_prediction_is_refused():
  sampler = cpu.CpuEngine(packed(), block_frames=2)
  window = np.zeros((sampler.window, 3), np.float32)
  gates, predictor = sampler.gates(window), sampler.predictor(window)
  start = loop.initial_state(sampler.network, 9)
  with pytest.raises(ValueError, match='a state of 1 samples, expected those of 32 taps'):
    loop.sample(sampler.network, gates, 1, 4, loop.initial_state(sampler.network), loop.DEFAULTS,
                0, predictor)
  with pytest.raises(ValueError, match='predictions of 4 frames, expected 3'):
    loop.sample(sampler.network, gates[1:], 1, 4, start, loop.DEFAULTS, 0, predictor)


@pytest.mark.slow
def test_one_second_is_that_of_the_scan_sampler():
  """192 taps at 24 kHz; float32 rounding may decide a draw in some 50,000."""
  config = Config(model=ModelConfig(units=128, projection=128, channels=32,
                                    prediction='spectral'))
  params, masks = random_models.pruned_run(config)
  params['outputs'] = jax.tree.map(lambda a: 0.2 * a, params['outputs'])
  export = export_lib.pack(params, masks, config, 'float32')
  rng = np.random.default_rng(0)
  mel = np.cumsum(rng.normal(0, 0.3, (80, config.mel.bands)), axis=0).astype(np.float32) - 5
  found, expected = (stream.batch(one, [mel], draw.keys(0, [1]))[0]
                     for one in engines(export, block=16))
  assert len(found) == config.mel.sample_rate and np.abs(found.astype(int)).max() > 1_000
  np.testing.assert_array_equal(found, expected)
