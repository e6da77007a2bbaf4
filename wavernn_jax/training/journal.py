"""The records of a run for people: metrics.jsonl, TensorBoard events, a progress bar."""

import contextlib
import json
import pathlib
import time

import tensorboardX
import tqdm

from wavernn_jax import files
from wavernn_jax.errors import InputError


class Journal:
  """Appends rows to RUN/metrics.jsonl and TensorBoard events beside it.

  Rows after `step` belong to a part of the run that was lost. They are dropped first,
  so that the file always shows one uninterrupted curve.
  """

  def __init__(self, workdir, step: int):
    self._path = pathlib.Path(workdir) / 'metrics.jsonl'
    keep = [row for row in read_rows(self._path) if row['step'] <= step]
    files.write_text(self._path, ''.join(json.dumps(row) + '\n' for row in keep))
    self._file = self._path.open('a')
    self._events = tensorboardX.SummaryWriter(
        str(pathlib.Path(workdir) / 'tensorboard'), purge_step=step + 1, flush_secs=30)

  def scalars(self, step: int, values: dict[str, float]) -> None:
    try:
      self._file.write(json.dumps({'step': step, **values}) + '\n')
      self._file.flush()
    except OSError as error:
      raise InputError(f'{self._path}: cannot be written ({error.strerror}); free disk space '
                       'and run the same command again to go on.') from error
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def audio(self, step: int, name: str, pcm, sample_rate: int) -> None:
    self._events.add_audio(name, pcm[:, None] / 32_768, step, sample_rate)

  def picture(self, step: int, name: str, image_HxWx3) -> None:
    self._events.add_image(name, image_HxWx3, step, dataformats='HWC')

  def close(self) -> None:
    with contextlib.suppress(OSError):  # of a row that `scalars` has reported
      self._file.close()
    self._events.close()


class Nothing:
  """The journal of a process that leaves the writing to the first one."""

  def scalars(self, step: int, values: dict[str, float]) -> None:
    pass

  def close(self) -> None:
    pass


def read_rows(path) -> list[dict]:
  """The rows of a metrics.jsonl, without a last line that a kill cut short."""
  path = pathlib.Path(path)
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


class Progress:
  """One line with steps, speed, NLL and time left, if `shown`."""

  def __init__(self, first: int, last: int, samples_per_step: int, sample_rate: int,
               shown: bool = True):
    self._bar = tqdm.tqdm(total=last, initial=first, unit='step', dynamic_ncols=True,
                          smoothing=0.05, disable=not shown)
    self._seconds = samples_per_step / sample_rate
    self._samples = samples_per_step
    self._since, self._step = time.perf_counter(), first

  def advance(self) -> None:
    self._bar.update()

  def report(self, step: int, metrics: dict[str, float]) -> float:
    """Shows metrics; returns samples trained per second since the last report."""
    now = time.perf_counter()
    rate = (step - self._step) / (now - self._since)
    self._since, self._step = now, step
    self._bar.set_postfix_str(
        f'{rate * self._seconds:.1f} s audio/s, coarse {metrics["nll_coarse"]:.3f} '
        f'+ fine {metrics["nll_fine"]:.3f} nats', refresh=False)
    return rate * self._samples

  def pause(self, step: int) -> None:
    """Excludes the time since the last report from the next rate."""
    self._since, self._step = time.perf_counter(), step

  def write(self, text: str) -> None:
    if not self._bar.disable:
      self._bar.write(text)

  def close(self) -> None:
    self._bar.close()
