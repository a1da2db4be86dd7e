"""`vtok doctor`: is this machine ready?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from schemas.errors import EXIT_DONE, EXIT_FAILED
from vtok import console


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> int:
    """Check Python, torch, CUDA, ffmpeg, Ray, the compiler and the disk; says how to fix what is wrong."""
    from vtok.doctor import FAIL, examine

    findings = examine()
    if as_json:
        console.say(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            console.say(f"{finding.level:4}  {finding.name:12} {finding.detail}")
            if finding.hint:
                console.say(f"{'':6}{'':12} hint: {finding.hint}")
        console.say("next: vtok demo")
    return EXIT_FAILED if any(finding.level == FAIL for finding in findings) else EXIT_DONE
