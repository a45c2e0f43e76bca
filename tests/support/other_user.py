"""Code that is run as a user who is not root."""

import subprocess
import sys
import textwrap


def as_other_user(code: str, imports: str, error: str) -> str:
    """Run one line of code; what it prints, or what the error says that it raises.

    Args:
        imports: a line that imports what the code needs.
        error: the name of the error's class, which `imports` has as well.
    """
    program = f"""
        import os, sys
        from pathlib import Path
        {imports}
        if os.geteuid() == 0:
            os.setgroups([]), os.setgid(10001), os.setuid(10001)
        try:
            {code}
        except {error} as raised:
            print(raised)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.check_output(command, text=True, timeout=60).strip()
