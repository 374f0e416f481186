"""The report of a reproduction: what was run, what came out, and what that shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qabert.evaluation.report.documents import Figure, Paragraph, Section, html_page, markdown
from qabert.evaluation.report.findings import differences, reasons
from qabert.evaluation.report.reproduction import read_reproduction
from qabert.evaluation.report.results import collect
from qabert.evaluation.report.tables import examples_section, results_section, run_section, triplet_section
from qabert.files import check_place, whole_file


def write_report(folder: Path, samples: int = 2000) -> list[Path]:
    """Write `report.md`, `report.html`, `results.json` and `figures/` of a reproduction into its folder.

    `results.json` holds every number that the other two show.  `report.html` needs nothing beside it.

    Args:
        folder: The reproduction's (see `evaluation.reproduction`); the report is of the runs that are finished.
        samples: Resamples of each paired bootstrap.

    Returns:
        The files: report.md, report.html, results.json, then the figures.

    Raises:
        InputError: No run is finished, a file is damaged, matplotlib isn't installed, or the folder can't be written.
    """
    from qabert.evaluation.figures import require_matplotlib
    from qabert.evaluation.report.figures import draw_figures

    require_matplotlib()
    places = [folder / name for name in ("report.md", "report.html", "results.json")]
    for place in places:
        check_place(place)
    check_place(folder / "figures", folder=True)
    reproduction = read_reproduction(folder)
    results = collect(reproduction, samples)
    figures = draw_figures(reproduction, results, folder / "figures")
    results["figures"] = [{"file": f"figures/{figure.png.name}", "caption": figure.caption} for figure in figures]
    sections = document(results, figures)
    models = "the paper's models" if results["paper"] else "models"
    title = f"{' and '.join(results['encoders']) or 'One encoder'}: {models} side by side"
    written = {
        places[0]: markdown(title, sections, folder),
        places[1]: html_page(title, sections),
        places[2]: json.dumps(results, indent=2, ensure_ascii=False) + "\n",
    }
    for place, text in written.items():
        with whole_file(place) as file:
            file.write(text)
    return [*places, *(place for figure in figures for place in (figure.png, figure.svg))]


def document(results: Mapping[str, Any], figures: list[Figure]) -> list[Section]:
    """The report's sections, made of the results alone; those without data are left out."""
    sections = [
        run_section(results),
        results_section(results),
        differences(results),
        triplet_section(results),
        reasons(results),
        Section("Figures", list(figures)),
        examples_section(results),
    ]
    return [section for section in sections if any(not isinstance(block, Paragraph) for block in section.blocks)]
