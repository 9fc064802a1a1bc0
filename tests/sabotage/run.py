"""Deliberate faults in the logic of the store, each of which a named test must catch.

It is no test of the store but one of its tests: faults of the kind that a machine does not think of, such as a sync that is skipped, or a tombstone that
is dropped while what it hides lives on. Each fault is put into a copy of the tree, alone; then the test named beside it is run, and has to fail.

    python3 tests/sabotage/run.py            # all of them: about half a minute each
    python3 tests/sabotage/run.py NAME ...   # those whose names contain one of these words
    python3 tests/sabotage/run.py --check    # only that each still finds its place in the source; a second

Invariant: a fault that compiles and whose test passes ends the run with a failure, and so does one whose place is gone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from faults import FAULTS

TREE = Path(__file__).resolve().parents[2]

# A fault may make a test wait for ever: that is as good as a failure.
SECONDS_MAX = 600


def places(fault, tree=TREE):
    """The text of the file with the fault in it, or what is wrong with its place."""
    text = (tree / fault.file).read_text()
    found = text.count(fault.old)
    if found != 1:
        return None, f"{fault.name}: its place is {found} times in {fault.file}"
    return text.replace(fault.old, fault.new), None


def copy_tree(to):
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=TREE, check=True, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        source = TREE / name
        if source.is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)


def run(fault, tree, target):
    """Whether the test beside a fault fails, and how."""
    text, _ = places(fault, tree)
    path = tree / fault.file
    whole = path.read_text()
    path.write_text(text)
    env = dict(os.environ, CARGO_TARGET_DIR=str(target))
    try:
        built = subprocess.run(["cargo", "test", "--locked", "--no-run", *fault.target], cwd=tree, env=env, capture_output=True, text=True)
        if built.returncode != 0:
            return False, "it does not compile:\n" + built.stderr[-3000:]
        done = subprocess.run(
            ["cargo", "test", "--locked", *fault.target, fault.test], cwd=tree, env=env, capture_output=True, text=True, timeout=SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return True, "hangs"
    finally:
        path.write_text(whole)
    if " 0 passed; 0 failed" in done.stdout and "running 0 tests" in done.stdout:
        return False, f"there is no test {fault.test}"
    failed = sorted({line.split()[1] for line in done.stdout.splitlines() if line.startswith("test ") and line.endswith("FAILED")})
    return done.returncode != 0, "passes" if done.returncode == 0 else "fails: " + ", ".join(failed[:4])


def main():
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    chosen = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    wrong = [what for _, what in map(places, chosen) if what]
    if wrong or "--check" in sys.argv:
        print("\n".join(wrong) if wrong else f"{len(chosen)} faults find their places")
        return 1 if wrong else 0
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        tree, target = Path(folder) / "tree", Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target")) / "sabotage"
        copy_tree(tree)
        for fault in chosen:
            caught, how = run(fault, tree, target.resolve())
            print(f"{'caught' if caught else 'MISSED'}  {fault.name}: {fault.test} {how}", flush=True)
            if not caught:
                missed.append(fault.name)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults were caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
