"""What a person can do about a connection's trouble, in words: on a page, in `doctor`, in a message. Pure."""

from __future__ import annotations

import shlex

from syncd.errors import Transient
from syncd.policy import MISCONFIGURED, NEEDS_REAUTH

PLACEHOLDER = "WORKSPACE [--account ACCOUNT]"  # whose it is, where words are for many or are stored without a name


def whose(workspace: str | None, account: str | None) -> str:
    """What follows ``--workspace`` in a command about a connection: without its account it would be about another."""
    if workspace is None:
        return PLACEHOLDER
    return shlex.quote(workspace) + (f" --account {shlex.quote(account)}" if account else "")


def way_out(
    trouble: str,
    kind: str | None,
    hint: str,
    *,
    source: str,
    only: int | None = None,
    workspace: str | None = None,
    account: str | None = None,
    when: str = "",
) -> str:
    """Of a ``trouble`` that is not about being late. ``kind``: of the last error; ``hint``: what the source said to do.

    ``only``: the one connection that it is about. ``when``: it is tried again, such as "in 5 min".
    """
    hint = f"{hint[0].upper()}{hint[1:].rstrip('.')}. " if hint else ""
    one = "ID" if only is None else str(only)
    if trouble == NEEDS_REAUTH:
        its = whose(workspace, account)
        here, there = (
            f"syncd connect {source} --workspace {its}",
            f"syncd connect-link --source {source} --workspace {its}",
        )
        again = f"Connect it again: `{here}`, or `{there}` for a link that its owner signs in by."
        return f"{hint}{again} It is read at the next turn after that."
    if trouble == MISCONFIGURED:
        return (
            f"{hint}Then `syncd connections check {one}`: it tells what is missing; once nothing is, it is read again."
        )
    again = f"It is tried again{when and f' {when}'}, at most 6 h apart."
    if kind == Transient.kind:
        return f"{hint}Nothing to do while the vendor does not answer. {again}"
    if kind == "internal":
        return f"A defect in syncd: the log has its traceback under `run.defect`. {again}"
    return f"{hint}{again} `syncd connections check {one}` asks the vendor what is wrong."
