#!/usr/bin/env python3
"""Plants bugs in the files that the model compiles, one after the other, and looks that each is found.

Run it in the root of the repository, with nothing else at work there; the files are put back as they were.
"""

import pathlib
import subprocess
import sys

CACHE = "src/auth/refreshing.rs"
DRAIN = "src/server/drain.rs"
MUTANTS = [
    ("a late refusal counts against the next credential", CACHE,
     "if held.lease.generation == generation {", "if held.lease.generation >= generation {"),
    ("the last handle wakes nobody", CACHE,
     "    fn drop(&mut self) {\n        self.demand.notify_one();", "    fn drop(&mut self) {"),
    ("waiters subscribe after they have looked", CACHE,
     "            let held = state.held.as_ref().filter(|held| held.may_be_used::<S>(now));\n            if let Some(held)",
     "            tries = self.tries.subscribe();\n"
     "            let held = state.held.as_ref().filter(|held| held.may_be_used::<S>(now));\n            if let Some(held)"),
    ("nobody is told of a failure", CACHE,
     "        self.tries.send_modify(|tries| *tries += 1);",
     "        if self.state.load().failure.is_none() { self.tries.send_modify(|tries| *tries += 1); }"),
    ("a failure makes a refusal forgotten", CACHE,
     "self.state.rcu(|state| State { held: state.held.clone(), failure: Some(failure.clone()) });",
     "let mut held = old.held.clone(); if let Some(held) = &mut held { held.forced = None; }"
     " self.state.store(Arc::new(State { held, failure: Some(failure.clone()) }));"),
    ("the mark of the last request may go back", DRAIN,
     "self.last_request.fetch_max(since, Ordering::Relaxed);", "self.last_request.store(since, Ordering::Relaxed);"),
    ("a request is marked after it is no longer counted", DRAIN,
     "        work.touch();\n        if self.is_tunnel {\n            work.tunnels.fetch_sub(1, Ordering::Release);\n        }\n"
     "        work.in_flight.fetch_sub(1, Ordering::Release);",
     "        if self.is_tunnel {\n            work.tunnels.fetch_sub(1, Ordering::Release);\n        }\n"
     "        work.in_flight.fetch_sub(1, Ordering::Release);\n        work.touch();"),
    ("who accepts is not counted", "tests/model/tests/drain.rs", "let accepting = drain.count();", "let accepting = ();"),
]


def test() -> bool:
    return subprocess.run(["cargo", "test", "-q", "-p", "model"], capture_output=True).returncode == 0


if not test():
    sys.exit("it fails without a mutant")
missed = 0
for name, file, before, after in MUTANTS:
    path = pathlib.Path(file)
    text = path.read_text()
    assert text.count(before) >= 1, f"{name}: {file} has changed"
    try:
        path.write_text(text.replace(before, after, 1))
        is_missed = test()
    finally:
        path.write_text(text)
    missed += is_missed
    print(f"{'MISSED' if is_missed else 'found'}: {name}", flush=True)
sys.exit(missed)
