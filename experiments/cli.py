"""What the programs of experiments share: an InputError is one line and exit status 2."""

import sys
import warnings

from absl import app, logging

from wavernn_jax.errors import InputError


def run(main) -> None:
  """`app.run` of a `main` without arguments; flags are defined before the call."""
  def checked(argv):
    if len(argv) > 1:
      raise InputError(f'found the argument {argv[1]!r}, expected only flags, --name=value.')
    main()
  run_with_arguments(checked)


def run_with_arguments(main) -> None:
  """`app.run` of a `main` that takes what stands beside the flags."""
  logging.set_verbosity(logging.ERROR)  # not which accelerators JAX has looked for
  warnings.formatwarning = lambda message, *_: f'warning: {message}\n'
  try:
    app.run(main)
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
