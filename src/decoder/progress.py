"""A progress bar where somebody is watching."""

import os
import sys

from tqdm.auto import tqdm


def progress_bar(**options):
    """A bar for a terminal or JupyterLab; nothing where the output is stored or compared.

    Args:
        **options: As for tqdm: total, initial, unit, desc, ...

    Returns:
        A tqdm bar, to be used in a `with`; it is gone when done.
    """
    # Only Lab's kernels have this variable; those of nbclient, nbval and a book's build do not.
    watched = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ
    return tqdm(**options, leave=False, disable=not watched)
