"""An AWS for one test, inside a namespace (netns.py): ministack behind real names, and an API's backend behind that."""

import contextlib
import dataclasses
import tempfile

import netns
import trustme
from emulators import Backend, Front, Ministack
from test_readme import tls_for


@dataclasses.dataclass
class Cloud:
    """`authority` is the PEM of who vouches for the names; `front` has noted what was sent to them."""

    ministack: Ministack
    backend: Backend
    front: Front
    authority: str


@contextlib.contextmanager
def cloud(names, addresses=()):
    names = sorted(names)
    netns.settle(names, addresses=addresses)
    with contextlib.ExitStack() as stack:
        ministack = stack.enter_context(Ministack(stack.enter_context(tempfile.TemporaryDirectory())))
        backend = stack.enter_context(Backend())
        authority = trustme.CA()
        front = stack.enter_context(Front(ministack.port, ("127.0.0.1", 443), tls_for(authority, names)))
        yield Cloud(ministack, backend, front, authority.cert_pem.bytes().decode())
