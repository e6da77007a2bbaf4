"""The train step: loss, gradients, Adam, EMA and the NaN guard, one jitted function."""

import functools

import jax
import jax.numpy as jnp
import optax

from wavernn_jax import pruning
from wavernn_jax.config import Config, OptimizerConfig
from wavernn_jax.data import crops

METRICS = ('nll', 'nll_coarse', 'nll_fine', 'gradient_norm', 'learning_rate')


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """Linear warm-up, then a cosine to the final rate at the last step."""
  warmup = min(config.warmup_steps, max(1, steps // 2))
  return optax.warmup_cosine_decay_schedule(
      0.0, config.learning_rate, warmup, max(steps, warmup + 1), config.final_learning_rate)


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
  """Adam behind a clip of the global gradient norm."""
  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.adam(learning_rate(config, steps), config.b1, config.b2, config.eps))


def initial_state(params, config: Config):
  """The train state: a dict of pytrees, all of it checkpointed.

  `masks` has the keys of `params`, None where a leaf is not pruned. `sums` holds the
  metrics summed since the last logged step. `nonfinite_step` is the first step whose
  loss or gradient was not finite, or −1.
  """
  return {
      'step': jnp.zeros((), jnp.int32),
      'params': params,
      'ema': jax.tree.map(jnp.copy, params),
      'optimizer': optimizer(config.optimizer, config.train.steps).init(params),
      'masks': pruning.initial_masks(params, config.pruning),
      'sums': {name: jnp.zeros(()) for name in METRICS},
      'nonfinite_step': jnp.full((), -1, jnp.int32),
  }


def abstract_state(model, config: Config, sharding):
  """Shapes, types and placement of the train state, to restore a checkpoint into."""
  shapes = jax.eval_shape(lambda: initial_state(model.init(0), config))
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def input_noise(key, batch: int, config: Config):
  """Noise on the inputs of every sample of a batch: B x T x 3."""
  shape = (config.train.crop, batch, 3)
  return config.train.input_noise * jax.random.normal(key, shape).swapaxes(0, 1)


def flipped(key, pcm_BxN):
  """Inverts the polarity of a random half of the crops, which leaves their mels as they are."""
  sign_B = jax.random.rademacher(key, (len(pcm_BxN),), jnp.int32)
  return jnp.clip(pcm_BxN * sign_B[:, None], -2**15, 2**15 - 1).astype(jnp.int16)


def crop_loss(model, params, batch, config: Config):
  """Mean nats/sample of a batch of crops, and its coarse and fine parts.

  `batch` comes from `crops.crop_batches`, with the `noise` of `input_noise` if there is
  any. The state at the start of a crop is zero, as in the paper; the first
  `config.train.burn_in` samples, which suffer from that, carry no loss.
  """
  pcm, mel_BxFxM = crops.crop_inputs(batch, config.mel)
  state = model.crop_state(pcm[:, :model.timing.past])
  noise = batch['noise'].swapaxes(0, 1) if 'noise' in batch else None
  parts = model.loss(
      params, state, pcm[:, model.timing.past:], mel_BxFxM, config.train.burn_in, noise)
  return sum(parts.values()), {f'nll_{byte}': value for byte, value in parts.items()}


def accumulated(value_and_grad, batch, count: int):
  """The mean of `value_and_grad(crops)` over `count` micro-batches of a batch."""
  if count == 1:
    return value_and_grad(batch)
  batches = jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)
  shapes = jax.eval_shape(value_and_grad, jax.tree.map(lambda x: x[0], batches))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(
      lambda total, crops: (jax.tree.map(jnp.add, total, value_and_grad(crops)), None),
      zeros, batches)
  return jax.tree.map(lambda x: x / count, total)


def ema_decay(step, config: Config):
  """Decay of the average of the weights at a step.

  Early weights are forgotten sooner, as they are far from any good average. So are
  weights from before the last change of masks: an average that included them, without
  the blocks that are now gone, was 0.5 nats/sample worse than the weights themselves.
  """
  since = step - pruning.last_change(step, config.pruning)
  return jnp.minimum(config.optimizer.ema_decay, (1.0 + since) / (10.0 + since))


def gradients(model, config: Config, params, masks, batch, mesh=None):
  """((loss, its parts), gradients) of a batch that is split over the devices of a mesh.

  Each device runs the program of a single device on its own crops; at the end the means
  of all are averaged. Left to itself XLA would gather the activations, because (T, B)
  are merged into rows, and each device would compute the output layers of all.
  """
  def of_crops(params, masks, crops):
    def loss(params, crops):
      return crop_loss(model, pruning.apply_masks(params, masks), crops, config)
    result = accumulated(functools.partial(jax.value_and_grad(loss, has_aux=True), params),
                         crops, config.train.accumulate)
    return result if mesh is None else jax.lax.pmean(result, mesh.axis_names)
  if mesh is not None:
    of_crops = jax.shard_map(of_crops, mesh=mesh, out_specs=jax.P(), check_vma=False,
                             in_specs=(jax.P(), jax.P(), jax.P(mesh.axis_names)))
  return of_crops(params, masks, batch)


def train_step(model, config: Config, state, batch, mesh=None):
  """One update. Returns the new state and the metrics of the steps since the last log.

  With a mesh the batch is split over its devices and the state is replicated on
  them. Metrics are means over those steps; NLLs are in nats/sample.

  A step whose loss or gradient is not finite changes no weights, so that the guard in
  the loop stops with weights that are still good.
  """
  step = state['step']
  key = jax.random.fold_in(jax.random.key(config.train.seed), step)
  if config.train.flip_polarity:
    batch = batch | {'pcm': flipped(jax.random.fold_in(key, 1), batch['pcm'])}
  if config.train.input_noise:
    batch = batch | {'noise': input_noise(key, len(batch['pcm']), config)}
  masks = pruning.update_masks(state['params'], state['masks'], step, config.pruning)

  (loss, parts), gradient = gradients(model, config, state['params'], masks, batch, mesh)
  norm = optax.tree.norm(gradient)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  updates, optimizer_state = optimizer(config.optimizer, config.train.steps).update(
      gradient, state['optimizer'], state['params'])
  params = optax.apply_updates(state['params'], updates)
  ema = optax.incremental_update(params, state['ema'], 1 - ema_decay(step, config))

  def keep(new, old):
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

  metrics = {'nll': loss, **parts, 'gradient_norm': norm,
             'learning_rate': learning_rate(config.optimizer, config.train.steps)(step)}
  since_log = step % config.train.log_every
  sums = {name: jnp.where(since_log == 0, 0, state['sums'][name]) + metrics[name]
          for name in METRICS}
  new_state = state | {
      'step': step + 1,
      'params': pruning.stored(keep(params, state['params']), masks, config.pruning),
      'ema': pruning.apply_masks(keep(ema, state['ema']), masks),
      'optimizer': keep(optimizer_state, state['optimizer']),
      'masks': masks,
      'sums': sums,
      'nonfinite_step': jnp.where(
          (state['nonfinite_step'] < 0) & ~finite, step + 1, state['nonfinite_step']),
  }
  return new_state, {name: s / (since_log + 1) for name, s in sums.items()}
