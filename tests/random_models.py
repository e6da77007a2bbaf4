"""Random models for tests."""

import dataclasses
import functools

import jax
import numpy as np

from wavernn_jax import audio, draw, models, pruning
from wavernn_jax.config import Config, MelConfig, ModelConfig
from wavernn_jax.models import context, fused, wavernn
from wavernn_jax.sampling import blocksparse, scan, stream
from wavernn_jax.sampling.cpu import layout

MEL = MelConfig(name='tiny', sample_rate=800, n_fft=16, window=8, hop=4, bands=3, fmax=400.0)
SUBSCALE = ModelConfig(kind='subscale', units=8, projection=16, channels=8, layers=1, lanes=4,
                       horizon=3, context_layers=2, context_channels=6, context_kernel=3,
                       context_block=2, residuals=3)
FUSED = ModelConfig(kind='fused', units=16, projection=16, channels=8, layers=1, lanes=2,
                    horizon=2)
WAVENET = ModelConfig(kind='wavenet', units=8, projection=16, channels=8, layers=1, blocks=6,
                      cycles=2, residual=6, skip=10, mixtures=3)
# Half a frame is what the first lane may be ahead.
FUSED_MEL = MelConfig(name='tiny', sample_rate=2_400, n_fft=48, window=24, hop=12, bands=3,
                      fmax=1_200.0)


def changed_config(**values) -> Config:
  """A configuration with fields set: part__field=value."""
  config = Config()
  for name, value in values.items():
    part, field = name.split('__')
    setattr(getattr(config, part), field, value)
  return config


def build(mel=MEL, **fields):
  """A tiny subscale model, of other fields where they are given."""
  return models.build(Config(model=dataclasses.replace(SUBSCALE, **fields), mel=mel))


def build_fused(mel=FUSED_MEL, **fields):
  """A tiny fused model, of other fields where they are given."""
  return models.build(Config(model=dataclasses.replace(FUSED, **fields), mel=mel))


def build_wavenet(**fields):
  """A tiny WaveNet, of other fields where they are given."""
  return models.build(Config(model=dataclasses.replace(WAVENET, **fields), mel=MEL))


def parameters(model, seed=0, dtype=np.float32):
  """Weights and biases so large that every input moves every later logit."""
  return _parameters(model, np.random.default_rng(seed), 2, dtype)


def _parameters(model, rng, outputs, dtype):
  scale = {'conditioning': 0.6, 'recurrent': 1, 'heard': 1, 'previous': 0.1, 'coarse': 0.1,
           'outputs': outputs, 'context': 0.6, 'samples': 0.6, 'nibbles': 0.2,
           'input': 1, 'blocks': 1, 'lane': 0.3, 'prior': 0.3, 'reset_bias': 2}
  params = {name: jax.tree.map(
      lambda a, s=scale[name]: (s * rng.standard_normal(a.shape) / np.sqrt(len(a))).astype(dtype),
      tree) for name, tree in jax.eval_shape(lambda: model.init(0)).items()}
  if 'prior' in params:  # what is heard of residuals has no gain
    for name in {'previous', 'coarse'} & set(params):
      params[name] *= np.array(20, dtype)
  if 'context' in params:  # whose samples have a gain
    for name in ('distances', 'pairs'):
      params['context'][name] *= np.array([[4 / context.GAIN], [4]], dtype)
    params['context']['nearest'] *= np.array(0.1, dtype)
  for name in {'samples', 'nibbles'} & set(params):  # too
    heard = params[name].reshape(-1, 2, params[name].shape[1])
    params[name] = (heard * (2 / np.array(fused.GAINS, dtype)[:, None])).reshape(
        params[name].shape)
  return params


def log_mel(mel, frames, seed=0, dtype=np.float32):
  """Frames between the floor of a convention and 1."""
  rng = np.random.default_rng(seed)
  return rng.uniform(audio.mel_floor(mel), 1, (frames, mel.bands)).astype(dtype)


def speech(model, samples, batch=2, seed=0, dtype=np.float32):
  """Samples, with those ahead, and the log mel around them."""
  rng = np.random.default_rng(seed)
  mel = np.stack([log_mel(model.mel, model.frames(samples), seed + b, dtype)
                  for b in range(batch)])
  return rng.integers(-2**15, 2**15, (batch, samples + model.timing.ahead)).astype(np.int16), mel


def nats(model, params, pcm, mel, state=None):
  """Coarse and fine nats 2xBxT, from the start or from a state, and the state after them."""
  state = model.initial_state(len(pcm)) if state is None else state
  found, state = jax.jit(model.nats)(params, state, pcm, mel)
  return np.stack([found['coarse'], found['fine']]), state


def drawn_once(build, block, frames):
  """Two functions: scan samplers of random models, and utterances, each drawn once.

  Args:
    build: fields -> model.
    block, frames: of a call and of an utterance, unless others are given.
  """
  @functools.cache
  def sampler(block=block, temperatures=(1.0, 1.0), **fields):
    model = build(**fields)
    return scan.ScanEngine(model, parameters(model), temperatures, block)

  @functools.cache
  def whole(frames=frames, block=block, seed=0, utterance=0, **fields):
    chosen = sampler(block, **fields)
    mel = log_mel(chosen.model.mel, frames)
    return stream.batch(chosen, [mel], draw.keys(seed, [utterance]))[0]
  return sampler, whole


def assert_neither_batch_nor_threads_change_a_sample(sampler, mels):
  """`sampler`: threads -> CPU sampler."""
  keys = draw.keys(2, range(len(mels)))
  alone = [stream.batch(sampler(threads=1), [m], keys[i:i + 1])[0]
           for i, m in enumerate(mels)]
  for threads in (1, 3):
    together = stream.batch(sampler(threads=threads), mels, keys)
    for a, b in zip(alone, together, strict=True):
      np.testing.assert_array_equal(a, b)


WHOLE_FRAMES = 4  # the last one incomplete


def assert_pieces_with_carried_state_are_the_whole(model):
  """`nats` of three pieces of an utterance whose last frame is incomplete."""
  hop = model.mel.hop
  params, samples = parameters(model), WHOLE_FRAMES * hop - 1
  pcm, mel = speech(model, samples)
  whole, _ = nats(model, params, pcm, mel)
  state, pieces = None, []
  for first, last in ((0, 1), (1, 3), (3, 4)):
    found, state = nats(model, params, pcm[:, first * hop:last * hop + model.timing.ahead],
                        mel[:, first:last + 2 * model.timing.margin], state)
    pieces.append(found)
  np.testing.assert_allclose(np.concatenate(pieces, axis=2), whole, rtol=1e-4, atol=1e-4)


def assert_loss_is_the_mean_of_nats(model, params, state, pcm, mel, burn_in):
  """Value and gradients, of float64 parameters, over the samples after the burn-in."""
  def mean(params):
    found, _ = model.nats(params, state, pcm, mel)
    return sum((i + 1) * found[b][:, burn_in:].mean() for i, b in enumerate(wavernn.BYTES))

  def loss(params):
    found = model.loss(params, state, pcm, mel, burn_in)
    return sum((i + 1) * found[b] for i, b in enumerate(wavernn.BYTES))

  plain, fast = (jax.jit(jax.value_and_grad(f))(params) for f in (mean, loss))
  for (path, expected), found in zip(jax.tree.leaves_with_path(plain), jax.tree.leaves(fast),
                                     strict=True):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max(),
                               err_msg=jax.tree_util.keystr(path))


def weights(units=64, projection=32, density=0.3, dtype='float32',
            block=(16, 1), seed=0):
  """A small random model; density 1 keeps all blocks."""
  rng = np.random.default_rng(seed)

  def matrix(outputs, inputs, scale):
    shape = outputs // block[0], inputs // block[1]
    mask = rng.random(shape) < density
    dense = rng.standard_normal((outputs, inputs))
    dense *= scale / np.sqrt(inputs * density)
    return blocksparse.pack(dense, block, dtype, mask)

  half = units // 2
  return layout.Weights(
      tuple(matrix(units, units, 1.0) for _ in range(3)),
      tuple(matrix(projection, half, 2.0) for _ in range(2)),
      0.1 * rng.standard_normal((2, projection)),
      tuple(matrix(256, projection, 2.0) for _ in range(2)),
      0.1 * rng.standard_normal((2, 256)),
      rng.standard_normal((2, 3, units)), rng.standard_normal((3, half)))


def frames(units, count=6, seed=1):
  """Gate inputs at frame rate."""
  rng = np.random.default_rng(seed)
  return (0.5 * rng.standard_normal((count, 3 * units))).astype(np.float32)


def pruned_run(config, seed=0):
  """Parameters and masks as training leaves them, as if finished.

  The weights are so large that every input moves every later draw.
  """
  rng = np.random.default_rng(seed)
  params = _parameters(models.build(config), rng, 1.5, np.float32)
  masks = jax.tree.map(lambda mask: rng.random(mask.shape) < 0.5,
                       pruning.initial_masks(params, config.pruning))
  return jax.tree.map(np.asarray, pruning.apply_masks(params, masks)), masks
