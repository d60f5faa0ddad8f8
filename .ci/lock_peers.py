"""Write requirements-peers.lock: what requirements-peers.in needs beyond requirements.lock.

The project's own versions are the constraints, so nothing of the project is replaced; a tool that
asks for another version of something that is locked makes the resolver fail.
"""

import lock

PEERS = lock.ROOT / "requirements-peers.lock"
HEADER = """\
# Made by `make lock-peers` from requirements-peers.in; do not edit. Installed with
# `pip install --no-deps` on top of requirements.lock.
"""


def main() -> None:
    lock.WISHES = lock.ROOT / "requirements-peers.in"
    project = set(lock.LOCK.read_text().splitlines())
    pins = [lock.pin(name, version) for name, version in sorted(lock.resolve().items())]
    own = [pin for pin in pins if pin not in project]
    PEERS.write_text(HEADER + "".join(f"{pin}\n" for pin in own))
    print(f"{PEERS.name}: {len(own)} packages")


if __name__ == "__main__":
    main()
