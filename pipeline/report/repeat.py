"""The settings of runs, and how each is repeated."""

import json
import shlex

from pipeline.report import tables
from pipeline.report.methods import Method
from pipeline.report.parts import Part, Section


def repeat_section(methods: list[Method]) -> Section:
    """Return the settings in which methods differ, a command for each run, and the whole recipes."""
    differs = tables.settings_table(methods)
    parts = [Part(tables=[differs])] if differs else []
    commands = [
        shlex.join(
            [
                "deepspeed",
                "launch/pretrain.py",
                "--ds_config",
                f"{run.path}/ds_config.json",
                "--recipe",
                f"{run.path}/recipe.yaml",
                f"run_dir={run.path}-again",
            ]
        )
        for method in methods
        for run in method.runs
    ]
    lines = [
        "Each line repeats a run in a directory of its own, started where the run was; paths in a recipe are relative to that."
    ]
    ranks = {len(run.summary["peak_memory"]) for method in methods for run in method.runs if run.summary is not None}
    if ranks:
        lines.append(f"Ranks: {', '.join(str(number) for number in sorted(ranks))}.")
    versions = sorted({run.transformers for method in methods for run in method.runs if run.transformers})
    lines.append(
        f"Written by transformers {', '.join(versions)}; other versions are not on record."
        if versions
        else "Versions are not on record."
    )
    parts.append(Part(heading="Again", lines=lines, commands=["\n".join(commands)]))
    for method in methods:
        run = method.runs[0]
        of = "" if len(methods) == 1 else f", {method.name}" + (f" ({run.path})" if len(method.runs) > 1 else "")
        parts.append(Part(heading=f"Recipe as resolved{of}", settings=run.recipe.to_yaml()))
        if run.ds_config is not None:
            parts.append(
                Part(heading=f"DeepSpeed's configuration as resolved{of}", settings=json.dumps(run.ds_config, indent=2))
            )
    return Section("repeat", "Settings, and how to repeat", parts)
