"""Files that appear complete or not at all."""

import contextlib
import fcntl
import os
import pathlib
import secrets

from wavernn_jax.errors import InputError

_UNFINISHED = '.wavernn-tmp'


@contextlib.contextmanager
def replacing(path):
  """Gives a binary file that takes the name `path` once it is complete."""
  path = pathlib.Path(path)
  # Told apart also from those of other hosts that write here.
  temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}{_UNFINISHED}')
  try:
    with open(temporary, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
  except OSError as e:
    raise InputError(
        f'{path}: cannot be written ({e.strerror or e}); give an existing folder that '
        'you may write to, with space left.') from e
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def sync_folder(folder) -> None:
  """Has the names in a folder reach the disk, where its file system can do that."""
  with contextlib.suppress(OSError):
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)


def remove_unfinished(folder, suffix: str) -> None:
  """Removes what killed writers of such files left below a folder; none may be at work."""
  for path in pathlib.Path(folder).rglob(f'.*{suffix}.*{_UNFINISHED}'):
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path, problem: str):
  """Holds a lock file, which the end of the process releases too.

  Raises:
    InputError: with `problem`, if another process holds it.
  """
  with open(path, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise InputError(f'{problem}; wait for that one or stop it.') from e
    yield


@contextlib.contextmanager
def turn(path):
  """Waits until no other process is in its turn; without a lock where none can be written."""
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):
      file = stack.enter_context(open(path, 'a'))
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def write_text(path, text: str) -> None:
  """Writes a whole text file under its name at once."""
  with replacing(path) as file:
    file.write(text.encode())
