"""The page about a study: verdicts, definitions, every figure, plots, learning rates."""

from __future__ import annotations

import math
from pathlib import Path

from monosem.disk import whole_file
from monosem.reproduce import picture
from monosem.reproduce.claim import Plot, Table
from monosem.reproduce.ledger import Ledger
from monosem.reproduce.result import Result
from monosem.reproduce.row import Rows
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study

RULE = (
    "Verdicts come from paired per-seed differences: *confirmed* when the 95 % t interval of the mean difference lies "
    "on the claimed side, *contradicted* when it lies on the other, else *undecided*. A claim about several budgets "
    "is confirmed when all of them are and contradicted when one is. Learning rates are chosen once for each family "
    "of arms, on a seed that is not reported, on other held-out tokens. Explained variance (EV) is "
    "1 − Σ‖x − x̂‖² / Σ‖x − mean‖² over all held-out tokens; L0 is the mean number of active latents of a token."
)


def write(study: Study, results: list[Result], rows: Rows, folder: Path) -> None:
    """Write `NAME.md` and one SVG a plot; pictures of earlier pages that are not in this one are deleted."""
    drawn = _pictures(study, results, folder) if picture.available() else {}
    with whole_file(folder / f"{study.name}.md") as temporary:
        temporary.write_text(text(study, results, rows, drawn))


def _pictures(study: Study, results: list[Result], folder: Path) -> dict[tuple[str, str], list[tuple[Plot, str]]]:
    """The files of each claim at each scale, written."""
    drawn: dict[tuple[str, str], list[tuple[Plot, str]]] = {}
    for result in results:
        key = result.scale.name, result.claim.id
        names = [(plot, _file(study, result, plot)) for plot in result.finding.plots]
        for plot, name in names:
            picture.write(plot, folder / name)
        drawn[key] = names
    kept = {name for names in drawn.values() for _, name in names}
    for path in folder.glob(f"{study.name}-*.svg"):
        if path.name not in kept:
            path.unlink()
    return drawn


def _file(study: Study, result: Result, plot: Plot) -> str:
    return f"{study.name}-{result.scale.name}-{result.claim.id.lower().replace('.', '-')}-{plot.name}.svg"


def text(study: Study, results: list[Result], rows: Rows, drawn: dict[tuple[str, str], list[tuple[Plot, str]]]) -> str:
    """The page in Markdown."""
    scales = list({result.scale.name: result.scale for result in results}.values())
    blocks = [f"# {study.title}, re-tested", f"arXiv {study.paper}. {RULE}", markdown(_summary(results))]
    for scale in scales:
        blocks += _about(study, scale, rows)
        for result in results:
            if result.scale.name == scale.name:
                blocks += _section(result, drawn.get((scale.name, result.claim.id), []))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _summary(results: list[Result]) -> Table:
    rows = [
        [
            one.claim.id,
            one.claim.claim,
            one.scale.name,
            f"**{one.finding.verdict}**",
            interval(one.finding.interval),
            str(len(one.scale.seeds)) if one.finding.interval else "–",
        ]
        for one in results
    ]
    return Table("", ["", "claim", "scale", "verdict", "95 % interval that decided", "seeds"], rows)


def _about(study: Study, scale: Scale, rows: Rows) -> list[str]:
    own = [row for row in rows.all if row["scale"] == scale.name]
    settings = ", ".join(f"{key} {value}" for key, value in scale.settings.items())
    seeds = ", ".join(map(str, scale.seeds))
    facts = f"{settings}; seeds {seeds}; {scale.held_out:,} held-out tokens."
    if own:
        threads = ", ".join(sorted({str(row["threads"]) for row in own}))
        facts += f" {len(own)} rows in `{rows.path.name}`, made with {threads} thread(s)."
    return [f"## Scale {scale.name}", scale.note, facts, study.about(scale), *_rates(study, scale, rows)]


def _rates(study: Study, scale: Scale, rows: Rows) -> list[str]:
    """A table of the scores of every learning rate, for the families that were tuned."""
    ledger, lines = Ledger(study, scale, rows), []
    for family, choice in study.families.items():
        tried = [(run.lr, ledger.found(run)) for run in ledger.grid(family)]
        if all(one is not None for _, one in tried):
            scores = [f"{choice.score(one):.4f}" for _, one in tried if one is not None]
            rate = ledger.rate(family)
            edge = " (edge of the grid)" if rate in (min(scale.rates), max(scale.rates)) else ""
            lines.append([family, *scores, f"{rate:g}{edge}"])
    if not lines:
        return []
    header = ["family", *(f"lr {rate:g}" for rate in scale.rates), "chosen"]
    share = "all tokens" if scale.tuning_share == 1 else f"{scale.tuning_share:g} of the tokens"
    title = f"Learning rates: score on validation tokens, seed {scale.tuning_seed}, {share}"
    return [markdown(Table(title, header, lines))]


def _section(result: Result, drawn: list[tuple[Plot, str]]) -> list[str]:
    claim, finding = result.claim, result.finding
    head = f"Verdict: **{finding.verdict}**"
    if finding.interval:
        head += f", interval {interval(finding.interval)}"
    blocks = [f"### {claim.id} · {claim.claim}", claim.definition, f"{head}. {finding.note}".strip()]
    if finding.verdict != "not tested":
        blocks.append(f"`{result.command}`")
    blocks += [markdown(table) for table in finding.tables]
    blocks += [f"![{plot.title}]({name})\n\n{plot.caption}" for plot, name in drawn]
    return blocks


def interval(found: tuple[float, float] | None) -> str:
    """Both ends with a sign, or a dash."""
    if found is None or not all(map(math.isfinite, found)):
        return "–"
    return f"{found[0]:+.4f} … {found[1]:+.4f}"


def markdown(table: Table) -> str:
    """A table under its title; columns of numbers are right-aligned; a folded one opens on a click."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (table.header, *table.rows)]
    rule = ["--:" if all(map(_is_number, column)) else ":--" for column in zip(*table.rows, strict=True)]
    body = "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))
    if table.folded:
        return f"<details><summary>{table.title}</summary>\n\n{body}\n\n</details>"
    return f"{table.title}\n\n{body}" if table.title else body


def _is_number(cell: str) -> bool:
    return cell[:1] in "0123456789+-−–"
