"""Files that appear complete or not at all."""

import contextlib
import os
import pathlib

from wavernn_jax.errors import InputError


@contextlib.contextmanager
def replacing(path):
  """Gives a binary file that takes the name `path` once it is complete."""
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    with open(temporary, 'wb') as file:
      yield file
    os.replace(temporary, path)
  except OSError as e:
    raise InputError(
        f'{path}: cannot be written ({e.strerror or e}); give an existing folder that '
        'you may write to, with space left.') from e
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def write_text(path, text: str) -> None:
  """Writes a whole text file under its name at once."""
  with replacing(path) as file:
    file.write(text.encode())
