"""What a run found, in a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from xcertify.runs import Run


def summary(run: Run, folder: Path) -> str:
    """How many inputs, what is proved of them, how long it took, and where it is."""
    from xcertify.runs.proved import NUMBERS, Rows, headline_of

    rows = Rows.of(run.table([n for n in ("input", "error", *NUMBERS) if n in run.columns]))
    nb, nb_failed = len(rows.numbers), int(rows.failed.sum())
    lines = [f"inputs:  {nb:,}" + (f", {nb_failed:,} with an error" if nb_failed else "")]
    certificate = next((found for _, found in run.certificates()), None)
    if certificate is not None:
        headline, known = headline_of(certificate), ~rows.failed
        proved = int((rows.proved(headline) & known).sum())
        share = proved / max(1, known.sum())
        how = "sampled: " if headline.sampled else "proved:  "
        lines += [f"{how}{proved:,} of {known.sum():,} ({share:.1%}): {headline.proved}"]
        if headline.sampled:
            lines += [f"level:   {certificate.describe_level()}"]
        medians = {"certified": rows.certified[known], "an attack": rows.attacked[known]}
        said = [f"{name} {_median(values)}" for name, values in medians.items() if _any(values)]
        if said:
            lines.append(f"median:  {headline.quantity}: {', '.join(said)}")
    seconds = float(np.nansum(rows.seconds))
    lines.append(f"seconds: {seconds:.1f} of work, {seconds / max(1, nb):.3g} for each input")
    if run.missing:
        lines.append("missing: some inputs; the same command with --resume goes on")
    lines.append(f"folder:  {folder}")
    return "\n".join(lines)


def _any(values: np.ndarray) -> bool:
    return bool((~np.isnan(values)).any())


def _median(values: np.ndarray) -> str:
    return f"{np.nanmedian(values):.4g}"
