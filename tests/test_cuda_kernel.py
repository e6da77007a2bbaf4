"""The kernel for GPUs: emulated against the scan sampler, packed, planned, compiled, lowered."""

import functools
import shutil

import cuda_emulation
import jax
import numpy as np
import pytest
import random_models
import ties

from wavernn_jax import audio, draw, models, pruning
from wavernn_jax.config import Config, MelConfig, ModelConfig, PruningConfig
from wavernn_jax.models import wavernn
from wavernn_jax.sampling import blocksparse, export as export_lib, scan, stream
from wavernn_jax.sampling.persistent import checks, chips, cuda, driver, engine, ffi, operands

H200 = driver.Chip(132, 232_448, 90)
BLOCK = 3
emulated = pytest.mark.skipif(not cuda_emulation.COMPILER, reason='needs g++')
needs_compiler = pytest.mark.skipif(
    not shutil.which('nvcc') and not driver.nvrtc(), reason='needs NVRTC or nvcc')


@functools.cache
def model(units, projection, sparsity=0.0, center=True, taps=0):
  """A random model whose every input moves every later draw, its parameters and its masks."""
  mel = MelConfig(name='tiny', sample_rate=800, n_fft=512 if taps else 16, window=8, hop=4,
                  bands=3, fmax=400.0, center=center)
  config = Config(
      model=ModelConfig(units=units, projection=projection, channels=8, layers=2,
                        prediction='spectral' if taps else 'none', taps=taps or 1,
                        residuals=3), mel=mel,
      pruning=PruningConfig(recurrent=sparsity, hidden=sparsity, output=sparsity))
  return models.build(config), *prune(random_models.pruned_run(config)[0], sparsity)


def prune(params, sparsity):
  """Parameters with that share of the 16x1 blocks left out, and the masks."""
  rng = np.random.default_rng(0)
  masks = jax.tree.map(
      lambda mask: rng.random(mask.shape) >= sparsity,
      pruning.initial_masks(params, PruningConfig(*[sparsity] * 3)))
  return jax.tree.map(np.asarray, pruning.apply_masks(params, masks)), masks


def large(units, sparsity=0.0, prediction='none'):
  """Parameters of a large model, of noise, and its masks."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: wavernn.WaveRNN(
      ModelConfig(units=units, projection=units // 2, prediction=prediction),
      MelConfig()).init(0))
  return prune(jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), shapes), sparsity)


def log_mels(rnn, frames):
  rng = np.random.default_rng(1)
  return [rng.uniform(audio.mel_floor(rnn.mel), 1, (n, rnn.mel.bands)).astype(np.float32)
          for n in frames]


# Samples


CASES = {  # units, projection, sparsity, weights, team, streams, teams, utterances, temperatures
    'dense team, two launches, cut rows': (72, 20, 0.0, 'float32', 5, 2, 1, 3, (1.0, 0.7)),
    'sparse teams': (96, 48, 0.8, 'bfloat16', 2, 1, 2, 2, (0.0, 1.0)),
    'sparse member': (128, 32, 0.9, 'int8', 1, 4, 1, 3, (1.0, 1.0))}


FEW = [('dense team, two launches, cut rows', 0), ('dense team, two launches, cut rows', 1),
       ('sparse teams', 45), ('sparse member', 0), ('sparse member', 45)]
ALL = [(case, taps) for case in CASES for taps in (0, 1, 45)]


@emulated
@pytest.mark.parametrize(('case', 'taps'), [
    pytest.param(*each, marks=() if each in FEW else pytest.mark.slow) for each in ALL])
def test_samples_are_those_of_the_scan_sampler(case, taps):
  """Over blocks of a stream. Rounding differs."""
  units, projection, sparsity, weights, team, streams, teams, utterances, temperatures = CASES[case]
  rnn, params, masks = model(units, projection, sparsity, center=units != 72, taps=taps)
  chip = cuda_emulation.chip(params, weights, team, streams, teams, taps, masks)
  found = engine.PersistentEngine(rnn, params, chip, temperatures, BLOCK)
  expected = scan.ScanEngine(rnn, checks.rounded(params, weights), temperatures, BLOCK)
  inputs = log_mels(rnn, (7, 3, 5)[:utterances]), draw.keys(4, range(utterances))
  ties.assert_same(stream.batch(found, *inputs), stream.batch(expected, *inputs), expected,
                   *inputs, temperatures)


@emulated
@pytest.mark.parametrize('taps', [0, 7])
def test_forced_logits_are_those_of_the_model(taps):
  """Also where the given samples are so loud that their residuals wrap."""
  rnn, params, _ = model(72, 20, center=False, taps=taps)
  chip = cuda_emulation.chip(params, 'float32', 5, 2, taps=taps)
  sampler = engine.PersistentEngine(rnn, params, chip, (1, 1), BLOCK)
  pcm = np.random.default_rng(0).integers(-2**15, 2**15, (2, BLOCK * rnn.mel.hop)).astype(np.int16)
  mel = np.stack(log_mels(rnn, [BLOCK + 2 * rnn.timing.margin] * 2))
  state, keys = rnn.initial_state(2), draw.keys(0, [0, 1])
  echoed, after, found = sampler.run(state, mel, keys, BLOCK, pcm)
  expected = engine.reference_logits(rnn, params, state, pcm, mel, np.float32)
  np.testing.assert_array_equal(echoed, pcm)
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-4)
  _, model_state = rnn.nats(params, state, pcm, mel)
  np.testing.assert_allclose(after['h'], model_state['h'], atol=1e-5)


@emulated
def test_the_first_sample_hears_the_whole_state():
  """Gates must not change it while slower warps multiply it."""
  rnn, params, masks = model(96, 48, 0.8)
  chip = cuda_emulation.chip(params, 'float32', 2, 1, 2, masks=masks)
  sampler = engine.PersistentEngine(rnn, params, chip, (1, 1), 1)
  pcm = np.random.default_rng(0).integers(-2**15, 2**15, (2, rnn.mel.hop)).astype(np.int16)
  mel = np.stack(log_mels(rnn, [1 + 2 * rnn.timing.margin] * 2))
  state = jax.tree.map(np.array, rnn.initial_state(2))
  state['h'][:] = np.random.default_rng(1).uniform(-1, 1, state['h'].shape)
  *_, found = sampler.run(state, mel, draw.keys(0, [0, 1]), 1, pcm)
  expected = engine.reference_logits(rnn, params, state, pcm, mel, np.float32)
  np.testing.assert_allclose(found, expected, atol=3e-5)


@emulated
@pytest.mark.parametrize('taps', [0, 7])
def test_a_kernel_is_checked_before_it_is_used(taps):
  rnn, params, _ = model(24, 20, taps=taps)
  chip = cuda_emulation.chip(params, 'float32', 1, 1, 2, taps)
  sampler = engine.PersistentEngine(rnn, params, chip, (1, 1), 3)
  sampler.check(2, params)
  for name in {'coarse', 'previous', 'prior'} & set(params):
    with pytest.raises(checks.CheckFailed, match='log-probabilities differ'):
      sampler.check(2, params | {name: 1.5 * params[name]})
  sampler._chip.call = lambda *a, **more: (lambda pcm, *rest: (pcm + 1, *rest))(
      *chips.Cuda.call(sampler._chip, *a, **more))
  with pytest.raises(checks.CheckFailed):
    engine.PersistentEngine(rnn, params, sampler._chip, (1, 1), 3).check(2, params)


@emulated
def test_members_that_lose_one_another_give_up():
  rnn, params, _ = model(24, 20)
  chip = cuda_emulation.chip(params, 'float32', 2, 1, SPINS=50, LOST_STORE=2000)
  sampler = engine.PersistentEngine(rnn, params, chip, (1, 1), BLOCK)
  with pytest.raises(RuntimeError, match='--engine=scan'):
    sampler.warm_up(1)


@emulated
def test_an_error_of_the_driver_reaches_the_caller():
  rnn, params, _ = model(24, 20)
  chip = cuda_emulation.chip(params, 'float32', 1, 1, 133)  # blocks for 132 multiprocessors
  with pytest.raises(jax.errors.JaxRuntimeError, match='cuLaunchCooperativeKernel'):
    engine.PersistentEngine(rnn, params, chip, (1, 1), BLOCK).warm_up(1)


# Packing and plans


@pytest.mark.parametrize(('sparsity', 'weights', 'team'), [
    (0.0, 'float32', 5), (0.7, 'bfloat16', 3), (0.7, 'int8', 1)])
def test_members_hold_the_matrices_between_them(sparsity, weights, team):
  _, params, masks = model(128, 48, sparsity)
  built = operands.build(params, cuda.BLOCK)
  matrices = cuda.pack(built, weights, operands.kept(params, masks, cuda.BLOCK))
  assert matrices.dense == (sparsity == 0)
  ends = np.cumsum([0, *(len(m) for m in map(blocksparse.unpack, matrices.packed))])
  macros, shared = cuda.layout(built, matrices, team, 2)
  sizes = dict(macros)
  found = [np.zeros(m.shape, np.float32) for m in matrices.packed]
  for share in cuda.shares(matrices, cuda.Plan(team, 2, 1, macros, shared)).view(np.uint8):
    first = share[:24].view(np.int32)
    end = 32 + cuda.ROW.itemsize * sizes['ROWS']
    table, at = share[32:end].view(cuda.ROW), operands.round_up(end, 16)
    values = share[at:at + sizes['VALUES']].view(blocksparse.DTYPES[weights])
    values = values.view(jax.numpy.bfloat16) if weights == 'bfloat16' else values
    columns = share[at + sizes['VALUES']:].view(np.uint16)
    for i in range(5):
      for row in table[first[i]:first[i + 1]]:
        blocks = slice(row['begin'], row['begin'] + row['count'])
        where = np.arange(row['count']) if matrices.dense else columns[blocks]
        outputs = np.arange(16) + 16 * row['index']
        scales = matrices.scales[ends[i] + outputs] if weights == 'int8' else np.ones(16)
        found[i][outputs[:, None], where] += (
            values.reshape(-1, 16)[blocks].T.astype(np.float32) * np.float32(scales)[:, None])
  for matrix, packed in zip(found, matrices.packed, strict=True):
    np.testing.assert_array_equal(matrix, blocksparse.unpack(packed))


def packed(params, masks, weights, taps=0):
  """Operands and matrices."""
  kept = operands.kept(params, masks, cuda.BLOCK, taps)
  built = operands.build(params, cuda.BLOCK, taps)
  return built, cuda.pack(built, weights, kept)


def test_int8_weights_of_an_export_are_multiplied_as_they_are():
  """Quantised once more, each output still has its own scale, and each weight its value."""
  config = Config(model=ModelConfig(units=64, projection=32, channels=8, layers=1),
                  mel=random_models.MEL, pruning=PruningConfig(recurrent=0.8, output=0.6))
  export = export_lib.pack(*random_models.pruned_run(config), config, 'int8')
  params = export.params()
  again = checks.rounded(params, 'int8')
  for name in 'ure':
    np.testing.assert_allclose(again['recurrent'][name], params['recurrent'][name], rtol=1e-6)
  for byte in wavernn.BYTES:
    np.testing.assert_allclose(again['outputs'][byte]['output']['kernel'],
                               params['outputs'][byte]['output']['kernel'], rtol=1e-6)
  _, matrices = packed(params, export.masks(), 'int8')
  np.testing.assert_allclose(
      blocksparse.unpack(matrices.packed[2]),
      blocksparse.unpack(export.tensors['outputs.coarse.output.kernel']), rtol=1e-6)


def test_the_masks_say_which_blocks_are_kept():
  """One that a mask keeps stays, also where its weights are zero."""
  params, masks = large(64, 0.9)
  params['outputs']['fine']['output']['kernel'] = np.zeros((32, 256), np.float32)
  _, matrices = packed(params, masks, 'bfloat16')
  mask = masks['outputs']['fine']['output']['kernel']
  np.testing.assert_array_equal(np.diff(matrices.packed[4].offsets), mask.sum(axis=0))
  assert packed(params, None, 'bfloat16')[1].dense


def test_plans_of_an_h200():
  built, matrices = packed(*large(896), 'bfloat16')
  one, many = (cuda.choose(built, matrices, H200, batch) for batch in (1, 16))
  assert (one.team, one.streams, one.teams) == (132, 1, 1)
  assert many.batch >= 16 and many.team * many.teams <= 132
  sparse = large(1024, 0.95)
  plan = cuda.choose(*packed(*sparse, 'int8'), H200, 132)
  assert (plan.team, plan.streams, plan.teams) == (1, 1, 132)  # a stream on each
  needed = [cuda.layout(*packed(*sparse, 'bfloat16'), team, 1)[1] for team in (1, 2)]
  assert needed[0] > H200.shared_bytes >= needed[1]


def test_a_model_too_large_for_the_chip_says_what_fits():
  class Driver:
    def chip(self, _):
      return driver.Chip(4, 100_000, 90)

  with pytest.raises(chips.DoesNotFit, match=r'294,912 weights of 256 units .* about \d') as caught:
    chips.Cuda(large(256)[0], 'float32', driver=Driver()).fit(1)
  room = int(str(caught.value).split('about ')[1].split(' ')[0].replace(',', ''))
  assert 4 * 100_000 / 4 * 0.8 < room < 4 * 100_000 / 4


def test_an_old_gpu_is_refused():
  class Driver:
    def chip(self, _):
      return driver.Chip(56, 65_536, 60)

  with pytest.raises(driver.CudaError, match='found a GPU of compute capability 6.0'):
    chips.Cuda(large(32)[0], 'float32', driver=Driver())


# Compilation and lowering


@needs_compiler
@pytest.mark.parametrize(('units', 'sparsity', 'weights', 'batch', 'taps'), [
    (896, 0.0, 'bfloat16', 1, 0), (896, 0.0, 'bfloat16', 1, 192), (1024, 0.95, 'int8', 132, 192)])
def test_machine_code_for_an_h200(units, sparsity, weights, batch, taps):
  run = large(units, sparsity, 'spectral' if taps else 'none')
  plan = cuda.choose(*packed(*run, weights, taps), H200, batch)
  image = driver.compile_source(plan.macros, H200.capability)
  assert image.startswith(b'\x7fELF') and b'.text.sample' in image


@needs_compiler
def test_an_error_of_the_compiler_is_told():
  with pytest.raises(driver.CudaError, match='is undefined'):
    driver.compile_source((('P', 16),), H200.capability)


@pytest.mark.parametrize('prediction', ['none', 'spectral'])
def test_lowering_for_a_gpu(prediction):
  class Driver:
    def chip(self, _):
      return H200

  config = ModelConfig(prediction=prediction)
  rnn = wavernn.WaveRNN(config, MelConfig())
  chip = chips.Cuda(large(896, prediction=prediction)[0], 'bfloat16', driver=Driver(),
                    compile_source=lambda *_: b'', taps=operands.taps(rnn))
  sampler = engine.PersistentEngine(rnn, jax.eval_shape(lambda: rnn.init(0)), chip)
  shapes = jax.eval_shape(lambda: (
      chip.weights(1), rnn.init(0), rnn.initial_state(1),
      np.zeros((1, 16 + 2 * rnn.timing.margin, 80), np.float32), np.zeros((1, 2), np.uint32),
      np.zeros(2, np.float32), None))
  exported = jax.export.export(
      sampler._run, platforms=['cuda'],
      disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(ffi.TARGETS['CUDA'])])(
          *shapes, frames=16, batch=1)
  assert ffi.TARGETS['CUDA'] in exported.mlir_module()
