"""What a person can do about a connection's trouble, in words: on a page, in `doctor`, in a message. Pure."""

from __future__ import annotations

import shlex

from syncd.errors import Transient
from syncd.policy import MISCONFIGURED, NEEDS_REAUTH

PLACEHOLDER = "WORKSPACE"  # whose it is, where words are for many or are stored without a name


def way_out(
    trouble: str,
    kind: str | None,
    hint: str,
    *,
    source: str,
    only: int | None = None,
    workspace: str | None = None,
    when: str = "",
) -> str:
    """Of a ``trouble`` that is not about being late. ``kind``: of the last error; ``hint``: what the source said to do.

    ``only``: the one connection that it is about. ``when``: it is tried again, such as "in 5 min".
    """
    hint = f"{hint[0].upper()}{hint[1:].rstrip('.')}. " if hint else ""
    one = "ID" if only is None else str(only)
    if trouble == NEEDS_REAUTH:
        whose = PLACEHOLDER if workspace is None else shlex.quote(workspace)
        link = f"syncd connect-link --source {source} --workspace {whose}"
        return f"{hint}Connect it again: `{link}` makes a link for its owner. It is read at the next turn after that."
    if trouble == MISCONFIGURED:
        return f"{hint}Then `syncd connections check {one}` tells what is still missing, and `resume` is not needed."
    again = f"It is tried again{when and f' {when}'}, at most 6 h apart."
    if kind == Transient.kind:
        return f"{hint}Nothing to do while the vendor does not answer. {again}"
    if kind == "internal":
        return f"A defect in syncd: the log has its traceback under `run.defect`. {again}"
    return f"{hint}{again} `syncd connections check {one}` asks the vendor what is wrong."
