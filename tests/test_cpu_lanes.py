"""Subscale models on the CPU engine, against the scan sampler and the JAX model (§4, §3)."""

import functools

import numpy as np
import pytest
import random_models

from wavernn_jax import audio, draw, models
from wavernn_jax.config import Config, EvaluationConfig, ModelConfig, PruningConfig
from wavernn_jax.sampling import cpu, export as export_lib, scan

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


@pytest.mark.parametrize(('lanes', 'block', 'sparsity'), [
    (4, (16, 1), 0.5), (16, (16, 1), 0.5), (16, (4, 4), 0.5), (16, (16, 1), 0.0)])
def test_samples_are_those_of_the_scan_sampler(lanes, block, sparsity):
  """Rounding differs; these seeds meet no tie."""
  mels, keys = [log_mel(n, n) for n in (FRAMES, 3, 6)], draw.keys(3, range(3))
  options = {'lanes': lanes, 'block': block, 'sparsity': sparsity}
  for temperatures in ((1.0, 1.0), (0.7, 0.0)):
    found = scan.synthesize(sampler(temperatures=temperatures, **options), mels, keys)
    expected = scan.synthesize(reference(temperatures=temperatures, **options), mels, keys)
    for a, b in zip(found, expected, strict=True):
      assert a.dtype == np.int16
      np.testing.assert_array_equal(a, b)
