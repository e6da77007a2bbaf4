"""Checkpoints of a run with damaged, missing and strange files."""

import shutil

import attacks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import models
from wavernn_jax.training import checkpoints, step as step_lib, workdir as workdir_lib

STEPS = 3, 6, 9


def state_at(config, step):
  """A state whose weights tell its step."""
  state = step_lib.initial_state(models.build(config).init(step), config)
  return state | {'step': jnp.int32(step)}


@pytest.fixture
def run(tmp_path, tiny_config):
  """A run with three checkpoints."""
  folder = tmp_path / 'run'
  workdir_lib.claim(folder, tiny_config, '').close()
  saved = checkpoints.Checkpoints(folder)
  for step in STEPS:
    saved.save(state_at(tiny_config, step), {'batches': step}, tiny_config, 1 / step)
    saved.wait()
  saved.close()
  return folder


def harm(folder, rng) -> None:
  """Damages, empties, removes or replaces some files of a folder."""
  for _ in range(1 + rng.integers(3)):
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    path, kind = files[rng.integers(len(files))], rng.integers(6)
    if kind == 0:
      path.unlink()
    elif kind == 1:
      path.write_bytes(b'')
    elif kind == 2:
      path.unlink()
      path.mkdir()
    elif kind == 3:
      (path.parent / f'strange{rng.integers(9)}').write_bytes(rng.bytes(30))
    else:
      path.write_bytes(attacks.damage(path.read_bytes(), rng))


def equal(a, b) -> bool:
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
      np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@attacks.counts(10, 500)
def test_checkpoints(run, tmp_path, tiny_config, count):
  """What is loaded is, bit for bit, what was saved at a step; no damage goes unnoticed."""
  tally, damaged = attacks.Tally('checkpoints'), tmp_path / 'damaged'
  known = [state_at(tiny_config, step)['ema'] for step in STEPS]
  assert equal(checkpoints.load(run).params, known[-1])
  like = step_lib.initial_state(models.build(tiny_config).init(0), tiny_config)
  for number, rng in attacks.seeded(count):
    shutil.copytree(run, damaged)
    # Of one checkpoint, which leaves others to fall back to; of all; or of the run.
    part = damaged / ('', 'checkpoints', *(f'checkpoints/{s}' for s in STEPS))[number % 5]
    harm(part, rng)

    def load(number=number):
      if number % 2:
        return checkpoints.load(damaged).params
      saved = checkpoints.Checkpoints(damaged)
      try:
        found = saved.resume(like)
        return None if found is None else found[0]['ema']
      finally:
        saved.close()
    tally.attack(number, load, lambda found: found is not None and any(
        equal(found, ema) for ema in known))
    shutil.rmtree(damaged)
  tally.report(count)
