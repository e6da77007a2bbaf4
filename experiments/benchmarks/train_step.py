"""Pieces of the benchmarks of training: the loader over noise, the step, its parts, its bounds."""

import functools
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measure
from wavernn_jax import audio, backend, config as config_lib, likelihood, models, rules
from wavernn_jax.data import corpus, crops
from wavernn_jax.models import cell
from wavernn_jax.training import step as step_lib


def noise_batches(model, config, folder, shard=(0, 1)):
  """The loader over a minute of noise, written to a folder."""
  rng = np.random.default_rng(0)
  for i in range(10):
    pcm = rng.normal(0, 2000, 6 * config.mel.sample_rate).astype(np.int16)
    audio.write_wav(pathlib.Path(folder) / f'{i}.wav', pcm, config.mel.sample_rate)
  utterances = corpus.load_utterances(corpus.find_audio(folder), config.data, config.mel, 1)
  shape = crops.crop_shape(model, config.train.crop)
  return crops.crop_batches(utterances, shape, config.mel, config.train.batch, 0, shard=shard)


def both_ways(function, cotangent, *args):
  """Value and gradients; returned together, so that neither is optimised away."""
  value, pullback = jax.vjp(function, *args)
  return value, pullback(cotangent)


def parts(model, config, batch, repeats: int) -> dict[str, float]:
  """Milliseconds of each part of the step, forward and backward, compiled alone."""
  params = model.init(0)
  pcm, mel = jax.jit(lambda b: crops.crop_inputs(b, config.mel))(batch)
  state = model.initial_state(len(pcm)) | {'pcm': pcm[:, :1]}
  coarse, fine = audio.split_bytes(jnp.asarray(pcm).T)

  def inputs(p):
    return model.gate_inputs(p, state, pcm[:, 1:], mel)[0]

  x = jax.jit(inputs)(params)
  R, h = model.recurrent(params), state['h']
  y = jnp.split(jax.jit(cell.scan)(R, x, h), 2, axis=-1)
  weight = jnp.ones(y[0].shape[:2])

  def outputs(p, y):
    return sum(likelihood.mean_nats(p['outputs'][byte], part, target[1:], weight,
                                    config.model.compute_dtype)
               for byte, part, target in zip(('coarse', 'fine'), y, (coarse, fine), strict=True))

  optimizer = step_lib.optimizer(config.optimizer, config.train.steps)
  optimizer_state = optimizer.init(params)
  seconds = measure.interleaved({
      'mel': measure.compiled(lambda b: crops.crop_inputs(b, config.mel), batch),
      'gate_inputs': measure.compiled(
          functools.partial(both_ways, inputs), x, params),
      'recurrence': measure.compiled(
          functools.partial(both_ways, cell.scan), x[0], R, x, h),
      'output_layers': measure.compiled(jax.grad(outputs, argnums=(0, 1)), params, y),
      'optimizer': measure.compiled(
          lambda p, s: optimizer.update(p, s, p), params, optimizer_state),
  }, repeats)
  return {name: round(1e3 * s, 1) for name, s in seconds.items()}


def device_step(units: int = 896, projection: int = 448, batch: int = 256, crop: int = 960,
                compute_dtype: str = 'bfloat16', repeats: int = 10) -> dict:
  """The train step of a large batch on the default device, its bounds and its parts.

  `bound_ms` are the matrix products at the rate that one large product reaches
  on this device, and the time steps of an otherwise empty scan, forward and
  backward; both in the same run. The step cannot be faster than the larger,
  and `fraction_of_bound` is that over the time measured. Crops are on the device; the
  loader, which works while the device does, is timed alone.
  """
  config = config_lib.Config(
      model=config_lib.ModelConfig(units=units, projection=projection,
                                   compute_dtype=compute_dtype),
      train=config_lib.TrainConfig(batch=batch, crop=crop))
  rules.check(config)
  model = models.build(config)
  with tempfile.TemporaryDirectory() as folder:
    batches = noise_batches(model, config, folder)
    crops = jax.device_put(next(batches))
    start = time.perf_counter()
    for _ in range(repeats):
      next(batches)
    loading = (time.perf_counter() - start) / repeats
  step = backend.jit(functools.partial(step_lib.train_step, model, config), donate_argnums=0)
  state = step_lib.initial_state(model.init(0), config)
  state, _ = step(state, crops)
  jax.block_until_ready(state)
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    state, _ = step(state, crops)
    jax.block_until_ready(state)
    times.append(time.perf_counter() - start)
  seconds, samples = float(np.median(times)), batch * crop
  bounds = {'products': step_flops(config) * samples / product_rate(compute_dtype, repeats),
            'time_steps': empty_scan_seconds(config, repeats)}
  return {'units': units, 'projection': projection, 'batch': batch, 'crop': crop,
          'compute_dtype': compute_dtype, 'samples_per_second': samples / seconds,
          'step_ms': 1e3 * seconds, 'flops_per_sample': step_flops(config),
          'bound_ms': {name: 1e3 * s for name, s in bounds.items()},
          'fraction_of_bound': max(bounds.values()) / seconds,
          'loader_samples_per_second': samples / loading,
          'parts_ms': parts(model, config, crops, repeats)}


def step_flops(config) -> int:
  """Operations a sample of the products of the recurrence and of the output layers.

  Forward, and twice as many backward: for the inputs and for the weights. The
  conditioning network, at frame rate, adds under 1%.
  """
  m = config.model
  products = 3 * m.units**2 + 2 * (m.units // 2 * m.projection + m.projection * 256)
  return 3 * 2 * products


def product_rate(dtype: str, repeats: int) -> float:
  """Operations a second of one large square product on the default device."""
  size = 8192 if jax.default_backend() != 'cpu' else 2048
  a = jnp.ones((size, size), dtype)
  product = measure.compiled(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32), a)
  return 2 * size**3 / measure.interleaved({'product': product}, repeats)['product']


def empty_scan_seconds(config, repeats: int) -> float:
  """Seconds of as many dependent time steps as a train step has, with one addition each."""
  h = jnp.ones((config.train.batch, config.model.units))
  scan = measure.compiled(lambda h: jax.lax.scan(
      lambda h, _: (h + 1, None), h, length=2 * config.train.crop)[0], h)
  return measure.interleaved({'scan': scan}, repeats)['scan']
