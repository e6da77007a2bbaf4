"""The CPU engine against the scan sampler and the JAX model, on the same exports."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import processes
import pytest
import random_models
import ties

from wavernn_jax import audio, commands, draw, likelihood, models, sampling
from wavernn_jax.config import Config, MelConfig, ModelConfig, PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.models import wavernn
from wavernn_jax.sampling import cpu, export as export_lib, scan, stream
from wavernn_jax.sampling.cpu import engine, loop

FRAMES, BLOCK = 11, 4
BLOCKS = [(16, 1), (4, 4)]


@functools.cache
def packed(weights='float32', block=(16, 1), center=True, sparsity=0.5, units=32):
  """A random model whose every input moves every later draw."""
  mel = MelConfig(name='tiny', sample_rate=800, n_fft=16, window=8, hop=4, bands=3, fmax=400.0,
                  center=center)
  config = Config(
      model=ModelConfig(units=units, projection=16, channels=8, layers=2), mel=mel,
      pruning=PruningConfig(recurrent=sparsity, hidden=sparsity, output=sparsity,
                            block_outputs=block[0], block_inputs=block[1], start=0, steps=1))
  return export_lib.pack(*random_models.pruned_run(config), config, weights)


@functools.cache
def sampler(*key, threads=0, temperatures=(1.0, 1.0), **options):
  return cpu.Sampler(packed(*key, **options), temperatures, BLOCK, threads)


def reference(export, temperatures=(1.0, 1.0)):
  """The scan sampler of the same file."""
  return scan.Sampler(models.build(export.config), export.params(), temperatures, BLOCK)


def log_mel(frames, mel, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(audio.mel_floor(mel), 1, (frames, mel.bands)).astype(np.float32)


def utterances(export, frames=(FRAMES, 3, 6)):
  return [log_mel(n, export.config.mel, seed) for seed, n in enumerate(frames)]


@pytest.mark.parametrize(('block', 'center', 'sparsity'), [
    ((16, 1), True, 0.5), ((4, 4), False, 0.5), ((16, 1), False, 0.0)])
def test_samples_are_those_of_the_scan_sampler(block, center, sparsity):
  """Rounding differs."""
  export = packed('float32', block, center, sparsity)
  mels, keys = utterances(export), draw.keys(3, range(3))
  for temperatures in ((1.0, 1.0), (0.7, 0.9)):
    plain = reference(export, temperatures)
    found = stream.batch(cpu.Sampler(export, temperatures, BLOCK), mels, keys)
    ties.assert_same(found, stream.batch(plain, mels, keys), plain, mels, keys, temperatures)


@pytest.mark.slow
def test_one_second_is_that_of_the_scan_sampler():
  """About one draw in 50,000 lies so near the edge of a value that float32 rounding
  decides it, in either engine: these are proved to be such."""
  config = Config(model=ModelConfig(units=128, projection=128, channels=32))
  export = export_lib.pack(*random_models.pruned_run(config), config, 'float32')
  mels, keys = [log_mel(80, config.mel)], draw.keys(0, [1])
  plain = scan.Sampler(models.build(config), export.params())
  found = stream.batch(cpu.Sampler(export), mels, keys)
  assert len(found[0]) == config.mel.sample_rate
  ties.assert_same(found, stream.batch(plain, mels, keys), plain, mels, keys)


def forced_logits(model, pcm_T, mel_FxM, params):
  """Teacher-forced logits Tx2x256 of the JAX model, from the start of an utterance."""
  h_TxBxH, _ = model._run(params, model.initial_state(1), jnp.asarray(pcm_T)[None],
                          mel_FxM[None])
  halves = jnp.split(h_TxBxH[:, 0], 2, axis=-1)
  return np.stack([likelihood.layer_logits(params['outputs'][byte], y)
                   for byte, y in zip(wavernn.BYTES, halves, strict=True)], axis=1)


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize(('weights', 'of_stored', 'of_run'), [
    ('float32', 1e-4, 1e-4), ('bfloat16', 1e-3, 2e-2), ('int8', 1e-3, 0.1)])
def test_teacher_forced_logits_are_those_of_the_model(weights, of_stored, of_run, block):
  """Of the JAX model with the weights as they are stored, and as the run has them."""
  forced = sampler(weights, block, False)
  mel, model = forced.model.mel, forced.model
  window = log_mel(BLOCK + 2 * model.timing.margin, mel)
  pcm = np.random.default_rng(1).integers(-2**15, 2**15, BLOCK * mel.hop).astype(np.int16)
  state = {name: v[0] for name, v in forced.initial_state(1).items()}
  scores, _ = loop.score(forced.network, forced.gates(window), pcm, mel.hop,
                         engine.stream_state(state), forced.position, with_logits=True)
  for kind, error in ((weights, of_stored), ('float32', of_run)):
    expected = forced_logits(model, pcm, window, packed(kind, block, False).params())
    assert np.abs(expected).max() > 2
    np.testing.assert_allclose(scores.logits, expected, atol=error)


@pytest.mark.parametrize('weights', ['float32', 'int8'])
def test_a_stream_is_the_whole_utterance_however_it_is_cut(weights):
  stream_sampler = sampler(weights)
  mel = log_mel(FRAMES, stream_sampler.model.mel)
  whole = stream.batch(stream_sampler, [mel], draw.keys(1, [5]))[0]
  for cuts in ([], [1, 2, 3], [4], [0, 7, 7, 11]):
    chunks = stream.stream(stream_sampler, np.split(mel, cuts), draw.keys(1, [5]))
    np.testing.assert_array_equal(np.concatenate(list(chunks)), whole)


def test_neither_batch_nor_threads_change_a_sample():
  random_models.assert_neither_batch_nor_threads_change_a_sample(
      sampler, utterances(packed(), (FRAMES, 0, 6, 9, 1)))


def test_the_state_is_that_of_the_scan_sampler():
  """Half an utterance by either engine, the rest by the other."""
  engines = [sampler(), reference(packed())]
  mel = log_mel(BLOCK + engines[0].window, packed().config.mel)[None]
  windows = mel[:, :engines[0].window], mel[:, BLOCK:]
  made = []
  for first, second in (engines, engines[::-1], engines[:1] * 2):
    pcm, state = first.next_block(first.initial_state(1), windows[0], draw.keys(0, [0]))
    rest, state = second.next_block(state, windows[1], draw.keys(0, [0]))
    assert state['index'][0] == 2 * BLOCK * packed().config.mel.hop
    made.append(np.concatenate([pcm, rest], axis=1))
  np.testing.assert_array_equal(made[0], made[2])
  np.testing.assert_array_equal(made[1], made[2])


def test_neither_a_size_that_the_kernels_lack_nor_lanes_are_accepted():
  odd = packed(units=48, block=(4, 4))
  with pytest.raises(InputError, match='units = 48, expected a multiple of 32; use --engine=scan'):
    cpu.Sampler(odd)
  lanes = dataclasses.replace(packed(), config=Config(
      model=dataclasses.replace(random_models.SUBSCALE, units=32), mel=random_models.MEL))
  with pytest.raises(InputError, match='model.lanes = 4, expected 1; use --engine=scan'):
    cpu.Sampler(lanes)


def test_a_subscale_model_of_one_lane_is_the_plain_one():
  config = packed().config
  alone = dataclasses.replace(config, model=dataclasses.replace(config.model, kind='subscale'))
  waves = [stream.batch(cpu.Sampler(export, block_frames=BLOCK), utterances(packed())[:1],
                           draw.keys(0, [0]))[0]
           for export in (packed(), export_lib.pack(
               *random_models.pruned_run(alone), alone, 'float32'))]
  np.testing.assert_array_equal(*waves)


def test_the_least_latency_of_the_bundled_voice_is_that_of_the_page():
  found = []
  for block_frames in (16, 1):
    voice = export_lib.read(commands.PRETRAINED)
    voice.config.evaluation.block_frames = block_frames
    found.append(sampling.open(voice, 'cpu').latency)
  assert found == [0.25, 0.0625]
  assert '5 frames or 62.5 ms' in (processes.ROOT / 'docs' / 'sampling.md').read_text()
