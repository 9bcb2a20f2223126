"""``rwkvedit apply-patch MODEL -p FILE``: apply patches to a model, take them back, save it."""

from __future__ import annotations

import argparse
from typing import Any

from rwkvedit.commands import model_verbs


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    about = "apply .lqpatch files to a model's weights in memory, or reverse them, exactly"
    p = subparsers.add_parser("apply-patch", help=about, description=about)
    p.add_argument("model", metavar="MODEL", help="smollm2, toy, embedded, or a path")
    p.add_argument("-p", "--patch", action="append", required=True, metavar="FILE",
                   help="a patch, or a folder or manifest of several; may be repeated")  # fmt: skip
    p.add_argument("--reverse", action="store_true", help="take them out instead")
    p.add_argument("--stack", action="store_true",
                   help="let two patches of one layer add up that were made apart")  # fmt: skip
    p.add_argument("--prompt", metavar="P", help="show what it is answered with afterwards")
    p.add_argument("--save", metavar="DIR", help="write the model there: a folder for transformers "
                   "and, if it was read from one, a GGUF file")  # fmt: skip
    p.add_argument("--json", action="store_true", help="print one JSON document")
    model_verbs.model_group(p)
    return p


def main(args: argparse.Namespace) -> int:
    from rwkvedit.repl import edited
    from rwkvedit.repl.render import Renderer
    from rwkvedit.transformer.patches import apply_patches, reverse_patches
    from rwkvedit.transformer.saving import adopt_saved, save_model

    renderer = Renderer()
    work = model_verbs.Work(args, renderer)
    if args.reverse:
        adopt_saved(work.session)
        done = reverse_patches(work.session, args.patch)
    else:
        done = apply_patches(work.session, args.patch, args.stack)
    view = edited.applied(done, edited.top_of(work.session, args.prompt), args.reverse)
    notices = list(done.notices)
    if args.save is not None:
        saved = save_model(work.session, args.save, [patch for _, patch in done.patches])
        view[0]["saved"] = [str(path) for path in saved.paths]
        notices += saved.notices
    work.show(view, None, notices)
    return 0
