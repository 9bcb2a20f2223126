"""``/study``: anatomy of the session's model. The conversation is neither read nor changed."""

from __future__ import annotations

from typing import Any

from rwkvedit.repl.commands.base import command
from rwkvedit.repl.registry import Arg, Option
from rwkvedit.repl.result import Result, Table, Text, result

OPTIONS = [
    Option("--worlds", "worlds (each study has its default)", kind=int, metavar="N"),
    Option("--seed", "of the worlds", kind=int, default=0, metavar="S"),
    Option("--lexicon", "common, held-out, or a JSON file of words", default="common"),
    Option("--a", "prompts to contrast, one a line", metavar="FILE"),
    Option("--b", "the prompts they are contrasted with", metavar="FILE"),
    Option("--out", "write JSON, PNGs and a page there", metavar="DIR"),
]


@command(
    "study",
    group="memory",
    args=[Arg("name", required=False)],
    options=OPTIONS,
    help="How this model holds a told fact; without a name, list the studies.",
    example="/study layer-sweep --worlds 10",
)
def study(ctx: Any, name: str | None, out: str | None, **options: Any) -> Result:
    from rwkvedit.report.tables import grid
    from rwkvedit.study import STUDIES, Options, find_study, run_study

    if name is None or name == "list":
        rows = tuple((entry.name, entry.question) for entry in STUDIES.values())
        return result("study", Table(("study", "question"), rows), studies=[r[0] for r in rows])
    chosen = Options(**options)
    if name == "all":
        return _all(ctx, chosen, out)
    find_study(name)
    folder = None
    if out is not None:
        from rwkvedit.study.files import open_folder

        folder = open_folder(out)
    found = run_study(name, ctx.session, chosen)
    blocks: list[Any] = [Text(found.question), Text(found.finding)]
    for table in found.tables:
        if table.title:
            blocks.append(Text(f"\n{table.title}"))
        blocks.append(Table(*grid(table)))
    blocks.append(Text(f"{found.meta['command']}  ({found.meta['seconds']:.1f} s)"))
    document = found.to_json()
    notices = []
    if folder is not None:
        from rwkvedit.study.files import write_one

        notices.append(f"wrote {write_one(document, folder)[-1]}")
    return result("study", *blocks, notices=notices, **document)


def _all(ctx: Any, options: Any, out: str | None) -> Result:
    from rwkvedit.errors import UsageError
    from rwkvedit.study.files import PAGE, run_all

    if out is None:
        raise UsageError("/study all writes files: say where with --out DIR")
    documents = run_all(ctx.session, options, out)
    blocks = [Text(f"{d['study']}: {d['finding']}") for d in documents]
    findings = {d["study"]: d["finding"] for d in documents}
    return result("study", *blocks, notices=[f"wrote {out}/{PAGE}"], findings=findings)
