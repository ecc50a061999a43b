"""Keeps finished warm starts between runs, so that only the first demo on a machine has to train one."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from services.demo.warm_start import DEFAULT_RECIPE, REPORT_FILE, Progress, Recipe, WarmStart, warm_start


def default_cache_folder() -> Path:
    """Return the user's cache folder for warm starts."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "treerl" / "warm-start"


def cached_warm_start(
    cache_folder: Path, on_progress: Callable[[Progress], None], recipe: Recipe = DEFAULT_RECIPE
) -> WarmStart:
    """Return the cached warm start for a recipe, training it first if there is none."""
    folder = cache_folder / recipe_hash(recipe)
    if not (folder / REPORT_FILE).exists():
        try:
            return warm_start(folder, on_progress, recipe)
        except OSError:
            # Another process may have finished the same recipe first: its policy is as good as ours.
            if not (folder / REPORT_FILE).exists():
                raise
    return WarmStart.load(folder)


def recipe_hash(recipe: Recipe) -> str:
    """Return the name under which a recipe's warm start is cached."""
    # The sources belong to the recipe: a changed habit, tokenizer or policy must not meet an old warm start.
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    here = Path(__file__).parent
    for path in (*sorted(here.glob("*.py")), *sorted(here.with_name("sft").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
