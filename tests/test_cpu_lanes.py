"""Subscale models on the CPU engine, against the scan sampler and the JAX model (§4, §3)."""

import dataclasses
import functools
import types

import numpy as np
import pytest
import random_models

from wavernn_jax import audio, draw, models
from wavernn_jax.config import Config, EvaluationConfig, ModelConfig, PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import evaluate as evaluation
from wavernn_jax.sampling import blocksparse, cpu, export as export_lib, scan
from wavernn_jax.sampling.cpu import kernels, lane_kernels, layout

FRAMES, BLOCK = 11, 4
MEL = random_models.MEL


@functools.cache
def packed(weights='float32', lanes=4, block=(16, 1), sparsity=0.5):
  """A random model whose every input moves every later draw."""
  config = Config(
      model=ModelConfig(kind='subscale', units=32, projection=16, channels=8, layers=1,
                        lanes=lanes, horizon=3, context_layers=2, context_channels=8,
                        context_kernel=3, context_block=BLOCK * MEL.hop // lanes),
      mel=MEL, evaluation=EvaluationConfig(block_frames=BLOCK),
      pruning=PruningConfig(recurrent=sparsity, hidden=sparsity, output=sparsity,
                            conditioning=sparsity, block_outputs=block[0],
                            block_inputs=block[1], start=0, steps=1))
  return export_lib.pack(*random_models.pruned_run(config), config, weights)


@functools.cache
def sampler(*key, threads=0, temperatures=(1.0, 1.0), **options):
  return cpu.open_sampler(packed(*key, **options), temperatures, BLOCK, threads)


@functools.cache
def reference(*key, temperatures=(1.0, 1.0), **options):
  """The scan sampler of the same file."""
  export = packed(*key, **options)
  return scan.Sampler(models.build(export.config), export.params(), temperatures, BLOCK)


def log_mel(frames, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(audio.mel_floor(MEL), 1, (frames, MEL.bands)).astype(np.float32)


# Products


def multiply(packed_matrix, x_Nx16):
  """A packed matrix times X through the compiled kernels, and X as it was multiplied."""
  matrix, unit = layout.stream(packed_matrix, lanes=True), np.float32(1)
  y = layout.aligned((packed_matrix.shape[0], 16), np.float32)
  if matrix.values.dtype == np.int16:
    unit = np.float32(np.abs(x_Nx16).max() / 4096)
    x_Nx16 = np.rint(x_Nx16 / unit).astype(np.int16)
  lane_kernels.product(matrix, x_Nx16, y, unit)
  return y, x_Nx16 * unit


@pytest.mark.parametrize('dtype', list(blocksparse.DTYPES))
@pytest.mark.parametrize('block', list(blocksparse.SHAPES))
def test_product_with_16_vectors_is_the_dense_one_for_every_count_of_blocks(dtype, block):
  """Row i keeps i blocks, from none to all."""
  rng = np.random.default_rng(0)
  outputs, inputs = 256, 64
  shape = outputs // block[0], inputs // block[1]
  mask = np.zeros(shape, bool)
  for row in range(shape[0]):
    mask[row, rng.permutation(shape[1])[:row * shape[1] // (shape[0] - 1)]] = True
  for kept in (mask, np.ones_like(mask)):
    packed_matrix = blocksparse.pack(
        rng.standard_normal((outputs, inputs)), block, dtype, kept)
    y, x = multiply(packed_matrix, rng.standard_normal((inputs, 16)).astype(np.float32))
    error = 4e-3 if dtype == 'bfloat16' else 3e-5  # sums of some 64 products
    np.testing.assert_allclose(y, blocksparse.unpack(packed_matrix) @ x, atol=error)


@pytest.mark.parametrize('block', list(blocksparse.SHAPES))
@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
@pytest.mark.parametrize('inputs', [512, 520, 2048])
def test_integer_sums_of_long_rows_cannot_overflow(dtype, inputs, block):
  """The greatest activations, with signs that make every product add up."""
  rng = np.random.default_rng(3)
  signs = rng.choice([-1, 1], inputs)
  dense = (1 if dtype == 'int8' else np.exp2(rng.normal(0, 2, (16, inputs)))) * signs
  packed_matrix = blocksparse.pack(np.broadcast_to(dense, (16, inputs)), block, dtype)
  matrix, y = layout.stream(packed_matrix, lanes=True), layout.aligned((16, 16), np.float32)
  limit = layout.limit(packed_matrix, lanes=True)
  assert matrix.values.dtype == np.int16 and limit >= 4096
  x = np.repeat(np.int16(limit * signs)[:, None], 16, axis=1)
  lane_kernels.product(matrix, x, y, np.float32(1))
  np.testing.assert_allclose(
      y, blocksparse.unpack(packed_matrix) @ x.astype(np.float64), rtol=4e-3)


def test_weights_of_lanes_are_columns_and_squares_of_two_types():
  for dtype, stored in (('float32', np.float32), ('bfloat16', np.int16), ('int8', np.int16)):
    for block, kind in (((16, 1), kernels.Columns), ((4, 4), kernels.Squares)):
      matrix = layout.stream(blocksparse.pack(np.ones((32, 8)), block, dtype), lanes=True)
      assert isinstance(matrix, kind) and matrix.values.dtype == stored


# Samples


@pytest.mark.parametrize(('lanes', 'block', 'sparsity', 'temperatures'), [
    (4, (16, 1), 0.5, (0.7, 0.0)), (16, (16, 1), 0.5, (1.0, 1.0)), (16, (16, 1), 0.0, (1.0, 0.9)),
    pytest.param(16, (4, 4), 0.5, (1.0, 1.0), marks=pytest.mark.slow)])
def test_samples_are_those_of_the_scan_sampler(lanes, block, sparsity, temperatures):
  """Rounding differs; these seeds meet no tie."""
  seed = 3 if block == (16, 1) else 4
  mels, keys = [log_mel(n, n) for n in (FRAMES, 3, 6)], draw.keys(seed, range(3))
  options = {'lanes': lanes, 'block': block, 'sparsity': sparsity, 'temperatures': temperatures}
  found = scan.synthesize(sampler(**options), mels, keys)
  expected = scan.synthesize(reference(**options), mels, keys)
  for a, b in zip(found, expected, strict=True):
    assert a.dtype == np.int16
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('weights', ['float32', 'bfloat16'])
def test_a_stream_is_the_whole_utterance_however_it_is_cut(weights):
  mel = log_mel(FRAMES)
  whole = scan.synthesize(sampler(weights), [mel], draw.keys(1, [5]))[0]
  assert len(np.unique(whole)) > 0.7 * len(whole)
  for cuts in ([], [1, 2, 3], [0, 7, 7, 11]):
    chunks = scan.stream_blocks(sampler(weights), np.split(mel, cuts), draw.keys(1, [5]))
    np.testing.assert_array_equal(np.concatenate(list(chunks)), whole)


def test_neither_batch_nor_threads_change_a_sample():
  random_models.assert_neither_batch_nor_threads_change_a_sample(
      sampler, [log_mel(n, n) for n in (FRAMES, 0, 6, 9, 1)])


def test_the_state_is_that_of_the_scan_sampler():
  """Some blocks of two utterances by either engine, the others by the other."""
  engines, keys = [sampler(), reference()], draw.keys(0, range(2))
  before, after = scan.around(engines[0])
  mel = np.stack([log_mel(before + 40 * BLOCK + after, seed) for seed in (0, 1)])
  made = []
  for first, second in (engines, engines[::-1], engines[:1] * 2):
    state, pieces = first.initial_state(2), []
    for b in range(40):
      engine = first if b < 20 else second
      pcm, state = engine.next_block(state, mel[:, b * BLOCK:before + (b + 1) * BLOCK + after],
                                     keys)
      pieces.append(pcm)
    made.append(np.concatenate(pieces, axis=1))
  assert len(np.unique(made[0])) > 300
  np.testing.assert_array_equal(made[0], made[2])
  np.testing.assert_array_equal(made[1], made[2])


@functools.cache
def evaluator():
  """Of the JAX model, compiled once."""
  return evaluation.Evaluator(
      models.build(packed().config), EvaluationConfig(batch=3, block_frames=BLOCK))


@pytest.mark.parametrize(('weights', 'of_stored', 'of_run'), [
    ('float32', 1e-4, 1e-4), ('bfloat16', 2e-3, 5e-2), ('int8', 2e-3, 0.5)])
def test_teacher_forced_nats_are_those_of_the_model(weights, of_stored, of_run):
  """Of the JAX model with the weights as they are stored, and as the run has them."""
  rng = np.random.default_rng(2)
  utterances = []
  for samples in (FRAMES * MEL.hop, 5, 23):  # 5: shorter than the delay, no multiple of lanes
    pcm = rng.integers(-2**15, 2**15, samples).astype(np.int16)
    utterances.append(types.SimpleNamespace(
        samples=samples, read=lambda start, stop, rate, pcm=pcm: pcm[start:stop],
        mel_FxM=log_mel(-(-samples // MEL.hop), samples)))
  done = []
  found, samples = sampler(weights).lane_nats(utterances, done.append)
  assert list(samples) == done == [u.samples for u in utterances]
  for kind, error in ((weights, of_stored), ('float32', of_run)):
    expected, _ = evaluator().lane_nats(packed(kind).params(), utterances)
    for byte, sums_UxS in found.items():
      assert sums_UxS.shape == (3, 4) and sums_UxS[0].min() > 20
      each = samples[:, None] / 4
      np.testing.assert_allclose(sums_UxS / each, expected[byte] / each, atol=error)


def test_one_lane_is_the_plain_engine():
  config = dataclasses.replace(packed().config)
  config.model = dataclasses.replace(config.model, lanes=1, horizon=0, context_block=BLOCK)
  alone = export_lib.pack(*random_models.pruned_run(config), config, 'float32')
  plain = dataclasses.replace(config, model=dataclasses.replace(config.model, kind='wavernn'))
  waves = [scan.synthesize(cpu.open_sampler(export, block_frames=BLOCK), [log_mel(FRAMES)],
                           draw.keys(0, [0]))[0]
           for export in (alone, dataclasses.replace(alone, config=plain))]
  np.testing.assert_array_equal(*waves)


def test_models_that_do_not_fit_are_refused():
  export = packed()
  many = dataclasses.replace(export.config, model=dataclasses.replace(
      export.config.model, lanes=17))
  assert cpu.fits(export.config) and not cpu.fits(many)
  with pytest.raises(InputError, match='subscale model of 32 units.*17 lanes.*at most 16'):
    cpu.open_sampler(dataclasses.replace(export, config=many))
  with pytest.raises(ValueError, match='block of 12 samples.*multiple of lanes'):
    cpu.open_sampler(export, block_frames=3)
