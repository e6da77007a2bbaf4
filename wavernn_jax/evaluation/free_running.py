"""Free-running metrics of any engine: compares what it samples with the recordings."""

from wavernn_jax.data import corpus
from wavernn_jax.evaluation import metrics
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.synthesis import sources as sources_lib


def measure(engine: Engine, utterances, seed: int, batch: int) -> dict:
  """Means of `metrics.compare` over utterances and their copy-syntheses.

  Args:
    engine: with the weights.
    utterances: of corpus.py.
    seed: of the random numbers.
    batch: largest number of utterances at a time.
  """
  mel = engine.model.mel
  targets = {u.name: u.read(0, u.samples, mel.sample_rate) for u in utterances}
  sources = [sources_lib.Source(u.name, corpus.utterance_mel(u, mel), u.samples)
             for u in utterances]
  pairs = sources_lib.synthesize(engine, sources, seed, min(batch, len(sources)))
  return metrics.average(metrics.compare(targets[s.name], pcm, mel) for s, pcm in pairs)
