"""The verb ``nnunet_ssl check``."""

from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Datasets, Processes

SHOWN = 10  # findings of one kind on the console; the report file has all


def check(
    datasets: Datasets,
    processes: Processes = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the whole report as JSON.")] = None,
) -> None:
    """Find leaks before training: scans that are there twice, ids in two roles, odd unlabeled scans.

    Exit status 0: nothing found, though there may be notes on what changes no training; 1: something was found.
    """
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.errors import InputError

    if output and len(datasets) > 1:
        raise InputError(f"-o {output} is for the report of one dataset: check them one by one.")
    if output and not output.absolute().parent.is_dir():
        raise InputError(f"-o {output}: the folder {output.absolute().parent} does not exist.")
    if sum(_check(number, processes, output) for number in map(dataset_id, datasets)):
        raise typer.Exit(1)


def _check(number: int, processes: int | None, output: Path | None) -> int:
    """Prints what was found in a dataset; returns how much."""
    from nnunet_ssl.data.not_annotated import in_words
    from nnunet_ssl.data.raw import listed
    from nnunet_ssl.files import write_json
    from nnunet_ssl.machine import processes as default_processes
    from nnunet_ssl.preparation.leaks import check_dataset

    report = check_dataset(number, processes or default_processes(4))
    typer.echo(f"{report.dataset}: " + ", ".join(f"{count} {role}" for role, count in report.cases.items()) + " cases")
    if report.not_annotated:
        typer.echo(f"Not annotated, as dataset.json says: {in_words(report.not_annotated)}")
    kinds: dict[str, list] = {}
    for finding in report.findings:
        kinds.setdefault(finding.kind, []).append(finding)
    for kind, findings in kinds.items():
        typer.echo(f"\n{kind.upper()}: {len(findings)}")
        for finding in findings[:SHOWN]:
            score = "" if finding.score is None else f"  score {finding.score:.3f}"
            who = [f"{case} ({role})" for case, role in zip(finding.cases, finding.roles, strict=True)]
            typer.echo(f"- {listed(who, separator=', ')}{score}\n    {finding.reason}\n    -> {finding.advice}")
        if len(findings) > SHOWN:
            typer.echo(f"- and {len(findings) - SHOWN} more; -o report.json lists all")
    if report.alike:
        best = report.alike[0]
        typer.echo(
            f"\nMost alike of the pairs that are not reported as one scan: {' / '.join(best['cases'])}, "
            f"score {best['score']:.3f} (reported from {report.threshold:g})."
        )
    for note in report.notes:
        typer.echo(
            f"\nNote: {len(note.cases)} unlabeled scan(s) differ, which changes no training: {note.reason}. "
            f"{note.advice}\n    {listed(note.cases, separator=', ')}"
        )
    typer.echo(f"\n{len(report.findings)} finding(s)." if report.findings else "\nNothing found.")
    if output:
        write_json(report.as_json(), output)
    return len(report.findings)
