"""Nasty request-targets, and what must become of each (docs/rules.md 2.3, docs/aws.md A1-B4).

The table is written by hand; `judge` derives the same from the rules, and test_oracle.py compares the two, so that
neither a slip in the table nor a misread rule goes unnoticed. `judge` then also decides over generated targets.
"""

import random
import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

# What becomes of a target. Each names the rule that decides.
OK = "passes and verifies"
DOTS = "dot segment: 400"  # after 0, 1 or 2 decodings, with \ read as /, and ..;
SLASH = "%2f in the path: 400 unless the route allows it"
BYTES = "%00 %0a %0d %5c in the path: 400"
ESCAPE = "malformed escape: 400"
RAW = "raw control, non-ASCII or backslash: 400"
LEADING = "leading //: 400"
FRAGMENT = "fragment: 400, or routed and sent without it"
SYNTAX = "not an origin-form target: 400"
QUOTE = 'raw " in the path: 400, or byte-exact and verifying'  # hyper takes it, RFC 3986 does not
NOTUTF8 = "query not UTF-8: 400 on a SigV4 route"
PRESIGNED = "x-amz- query name: 400 on a SigV4 route"

ALWAYS_REFUSED = {DOTS, BYTES, ESCAPE, RAW, LEADING, SYNTAX}
SIGNED_ONLY = {NOTUTF8, PRESIGNED}


class Target(NamedTuple):
    raw: bytes
    rule: str

    @property
    def id(self) -> str:
        text = self.raw.decode("latin-1").encode("unicode_escape").decode()
        return text if len(text) <= 48 else f"{text[:40]}...{len(self.raw)}"


def rows(rule: str, *raws: bytes) -> list[Target]:
    return [Target(raw, rule) for raw in raws]


TARGETS = [
    *rows(
        OK,
        # plain paths, and the trailing slash, which is significant
        b"/", b"/a", b"/a/", b"/a/b/c", b"/a/b/c/", b"/0", b"/A/b", b"/-._~",
        # inner // stays on the wire; signers collapse it in the canonical path only
        b"/a//b", b"/a///b", b"/a//", b"/a//b//c//", b"/a//b?x=//",
        # escapes in the path: sent as they stand, signed encoded twice
        b"/a%20b", b"/%20", b"/a%2Bb", b"/%25", b"/100%25", b"/a%25b", b"/%E3%81%82", b"/%e3%81%82", b"/caf%C3%A9",
        b"/caf%c3%a9", b"/%F0%9F%98%80", b"/%41", b"/%7E", b"/%7euser", b"/%2A", b"/%2a", b"/%3F", b"/%23", b"/a%23f",
        b"/%3B", b"/%3A", b"/%40", b"/$default/%40connections/AbC%3D", b"/%24", b"/%26", b"/%3D", b"/%22", b"/%27",
        b"/%3C%3E", b"/%7B%7D", b"/%5B%5D", b"/%7C", b"/%5E", b"/%60", b"/%FF", b"/%C3", b"/%09", b"/%1F", b"/%7F",
        # an escaped percent sign: one decoding away from something else, which API Gateway may do and we must not
        b"/%2520", b"/a%252Fb", b"/%252F", b"/a%255Cb", b"/%25zz", b"/%25%32%46", b"/%25252e%25252e/x", b"/a%25",
        # raw characters that RFC 3986 allows in a path, and a few it does not but hyper does
        b"/~user", b"/a+b", b"/+", b"/a;b=c", b"/a;", b"/;", b"/a:b", b"/:", b"/a:443/b", b"/a:/b", b"/a://b", b"/http://evil.test/", b"/*", b"/a*b", b"/it's", b"/(a)",
        b"/a!", b"/a$b", b"/a,b", b"/@me", b"/a@b.c", b"/a=b", b"/a&b", b"/a|b", b"/a^b", b"/[a]", b"/{id}", b"/{proxy+}",
        b"/a'b\x28c\x29*!", b"/$default", b"/@connections/AbC=",
        # dots that are not dot segments
        b"/...", b"/a/.../b", b"/.hidden", b"/..a", b"/a..", b"/a.", b"/a..b", b"/.a/..b/c..", b"/....", b"/%2e%2e%2e", b"/%2ea", b"/a%2e",
        # queries: empty, bare keys, empty values, = in values, ? in values
        b"/q?", b"/q?a", b"/q?a=", b"/q?a&b", b"/q?a=&b", b"/q?a=1", b"/q?a=b=c", b"/q?a==", b"/q?a=b?c", b"/q??", b"/q?a?b=c?d",
        b"/q?=v", b"/q?a=1&=v", b"/q?%20=%20", b"/q?a=%3D&%3D=a", b"/q?a=%26&b=%26",
        # empty pairs are dropped, the rest keeps its order
        b"/q?&a=1", b"/q?a=1&", b"/q?a=1&&b=2", b"/q?&&", b"/q?&", b"/q?&&a=1&&&b=2&&",
        # + is a space, %2B is a plus
        b"/q?a=b+c", b"/q?a=b%20c", b"/q?a=b%2Bc", b"/q?a=b%2bc", b"/q?a=+", b"/q?a=++", b"/q?+=1", b"/q?a+b=c+d", b"/q?a=1+2%2B3%203",
        b"/q?a=%2B%20+",
        # reserved characters, raw and escaped, upper and lower case
        b"/q?a=~", b"/q?a=%7E", b"/q?a=%7e", b"/q?a=/", b"/q?a=%2F", b"/q?a=%2f", b"/q?a=:", b"/q?a=%3A", b"/q?a=;", b"/q?a=1;b=2",
        b"/q?a=%3B", b"/q?a=*", b"/q?a=%2A", b"/q?a='", b"/q?a=%27", b"/q?a=()!$,@", b"/q?a=|^[]{}", b"/q?a[]=1&a[]=2", b"/q?a[b]=c",
        b"/q?a=%28%29%21%24%2C%40", b"/q?a=`%60".replace(b"`", b""), b"/q?filter={x:1}", b"/q?a=-._", b"/q?a=%2D%2E%5F", b"/q?a=%61",
        b"/q?%61=a", b"/q?a=%25", b"/q?a=%2525", b"/q?a=100%25&b=%2520", b"/q?a=%22%3C%3E", b"/q?a=%5C", b"/q?a=%5c..%5c", b"/q?a=%23", b"/q?a=%0A%0D",
        b"/q?a=%0d%0aX-Evil:%201", b"/q?a=%09", b"/q?a=%7F", b"/q?b&&c=%20+%7E&d=%2F'()*!",
        # dot segments and double slashes are harmless in a query
        b"/q?x=/../", b"/q?x=../..", b"/q?x=//evil.test", b"/q?..", b"/q?x=%2e%2e%2f", b"/q?x=http://evil.test/?a=b", b"/q?x=..;/",
        # unicode
        b"/q?a=%E3%81%82", b"/q?%E3%81%82=1", b"/q?a=%e3%81%82", b"/q?%C3%A9=1&e=2", b"/q?a=%F0%9F%98%80", b"/q?a=%C2%A0", b"/q?a=e%CC%81",
        b"/q?a=%E2%80%A8", b"/q?a=%EF%BF%BD", b"/q?a=%EF%BB%BF",
        # duplicates, and orders that a sort by anything else than encoded name, then value, gets wrong
        b"/q?a=1&a=2", b"/q?a=2&a=1", b"/q?a=1&a=1", b"/q?a=&a", b"/q?a&a=&a=1", b"/q?b=1&a=2", b"/q?a-=1&a=2", b"/q?a=2&a-=1",
        b"/q?a%20b=1&a=2", b"/q?B=1&a=2&A=3&b=4", b"/q?a10=1&a2=2&a1=3", b"/q?a.b=1&a-b=2&a_b=3&a~b=4&ab=5", b"/q?a%3A=1&a0=2&a!=3",
        b"/q?z=1&%C3%A9=2&~=3&a=4", b"/q?a=b&a=B&a=%20&a=~&a=-&a=0", b"/q?aa=1&a=2&a%3Db=3", b"/q?%7E=1&z=2&Z=3&_=4&.=5&-=6&0=7",
        b"/q?a=1&b=2&a=0&b=1&a", b"/q?a=b%26c&a=b&a=bc",
        # names that only resemble AWS's
        b"/q?x_amz_date=1", b"/q?ax-amz-date=1", b"/q?X-Amzn-Trace-Id=1", b"/q?x-amz=1", b"/q?a=X-Amz-Signature", b"/q?+x-amz-date=1",
        b"/q?Action=ListUsers&Version=2010-05-08",
        # long ones, under the 8 KiB of a URI
        b"/q?" + b"a" * 7000, b"/q?" + b"&".join(b"k%d=v%%20%d" % (n % 97, n) for n in range(400)), b"/" + b"p" * 7000,
        b"/" + b"/".join([b"s"] * 1500), b"/" + b"%E3%81%82" * 700, b"/q?a=" + b"%2B" * 2000, b"/q?a=" + b"+" * 2000, b"/q?" + b"&" * 3000 + b"a=1",
    ),
    *rows(
        DOTS,
        b"/.", b"/..", b"/./", b"/../", b"/./a", b"/../a", b"/a/.", b"/a/..", b"/a/./b", b"/a/../b", b"/a/../../b", b"/a//../b",
        b"/%2e", b"/%2E", b"/%2e%2e", b"/%2E%2e/x", b"/.%2e/x", b"/%2e./x", b"/a/%2e/b", b"/a/%2e%2e/b", b"/a/.%2E", b"/a/%2e",
        b"/%252e/x", b"/%252e%252e/x", b"/.%252e/x", b"/%252E./x", b"/%2e%252e/x", b"/a/%252e%252e", b"/%25%32%65%25%32%65/x",
        b"/..%2fx", b"/..%2Fx", b"/%2e%2e%2fx", b"/a%2f..%2fb", b"/a%2F..", b"/..%252fx", b"/%252e%252e%252fx", b"/a%252f..%252fb",
        b"/..%255cx", b"/a%255c..%255cb", b"/..;/x", b"/..;a=b/x", b"/a/..;/b", b"/%2e%2e;/x", b"/..%3b/x", b"/../?a=1", b"/..?a=/ok",
    ),
    *rows(SLASH, b"/a%2Fb", b"/a%2fb", b"/%2F", b"/%2Fa", b"/a%2F", b"/a%2F%2Fb", b"/a/b%2Fc/d", b"/a%2Fb%2Fc?d=e%2Ff", b"/%2F%2Fevil.test/x",
          b"/a%2Fb%20c%2Bd", b"/a%2F...%2Fb", b"/a%2fB%2Fc", b"/a%2F//b"),
    *rows(BYTES, b"/%00", b"/a%00b", b"/a%0ab", b"/a%0Ab", b"/a%0db", b"/a%0Db", b"/%0d%0aX-Evil:1", b"/a%5cb", b"/a%5Cb", b"/%5c", b"/%5c%5cevil.test", b"/a%00?b=1",
          b"/%0a", b"/a/%0d"),
    *rows(DOTS, b"/..%5cx", b"/..%5C..%5Cx", b"/a%5c..", b"/%2e%2e%5cx"),  # two rules at once: dots, by \ read as /
    *rows(ESCAPE, b"/%", b"/a%", b"/%2", b"/%zz", b"/%2g", b"/%g2", b"/% ".rstrip() + b"/x", b"/%%", b"/%%20", b"/%u0041", b"/a%2/b", b"/q?%", b"/q?a=%", b"/q?a=%2",
          b"/q?a=%zz", b"/q?%zz=1", b"/q?a=%%20", b"/q?a=1&b=%4&c=2", b"/q?a=100%", b"/q?a=%u3042", b"/q?%=%"),
    *rows(RAW, "/é".encode(), "/あ".encode(), "/q?a=é".encode(), "/q?é=1".encode(), b"/\xff", b"/q?a=\xff", b"/\xc3", b"/a\\b", b"/\\evil.test", b"/..\\x",
          b"/q?a=\\", b"/a\tb", b"/q?a=\t", b"/a\x00b", b"/a\x01b", b"/a\x0bb", b"/a\x1bb", b"/a\x7fb", b"/q?a=\x7f", b"/q?a=\x00", b"/a\rb", b"/\xe2\x80\xae"),
    *rows(LEADING, b"//", b"//a", b"//evil.test/x", b"///x", b"///", b"//evil.test:443/x?a=1", b"//user@evil.test/", b"//?a=1", b"////a"),
    *rows(FRAGMENT, b"/a#f", b"/#", b"/a#", b"/q?a=1#f", b"/public#/../admin", b"/a#%zz", b"/a#?b=1", b"/q?a#b=c&d=e"),
    *rows(SYNTAX, b"/a b", b"/ ", b"/a b/c", b"/q?a=b c", b"/a<b", b"/a>b", b"/a`b", b'/q?a="b"', b"/q?a=<b>", b"?a=1", b"a/b", b"", b"q"),
    *rows(QUOTE, b'/a"b', b'/"'),
    *rows(NOTUTF8, b"/q?a=%FF", b"/q?%FF=1", b"/q?a=%C3", b"/q?a=%C3%28", b"/q?a=%ED%A0%80", b"/q?a=%C0%AF", b"/q?a=%F5%80%80%80", b"/q?a=1&b=%80&c=2", b"/q?a=%E3%81", b"/q?a=%fe+%ff"),
    *rows(PRESIGNED, b"/q?X-Amz-Signature=abc", b"/q?x-amz-signature=abc", b"/q?X-AMZ-DATE=20250101T000000Z", b"/q?a=1&X-Amz-Security-Token=t", b"/q?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2Fb",
          b"/q?X-Amz-Expires", b"/q?x%2Damz%2Dsignature=1", b"/q?%58-Amz-Date=1", b"/q?&&x-amz-meta=1", b"/q?x-amz-=1"),
]  # fmt: skip


def judge(raw: bytes) -> str:
    """The rule that decides over a target, read straight from docs/rules.md 2.3. Written for clarity, not for serving."""
    if re.search(rb"[\x00-\x1f\x7f-\xff\\]", raw):
        return RAW
    if not raw.startswith(b"/") or re.search(rb"[ <>`]", raw):
        return SYNTAX
    if b"#" in raw:
        return FRAGMENT
    path, _, query = raw.partition(b"?")
    if b'"' in raw:
        return SYNTAX if b'"' in query else QUOTE
    if re.search(rb"%(?![0-9a-fA-F]{2})", raw):
        return ESCAPE
    if raw.startswith(b"//"):
        return LEADING
    decoded = [path, unquote_to_bytes(path), unquote_to_bytes(unquote_to_bytes(path))]
    segments = [segment for form in decoded for segment in form.replace(b"\\", b"/").split(b"/")]
    if any(segment in (b".", b"..") or segment.startswith(b"..;") for segment in segments):
        return DOTS
    if re.search(rb"%(00|0a|0d|5c)", path, re.IGNORECASE):
        return BYTES
    names = [unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")) for pair in query.split(b"&")]
    if any(name.lower().startswith(b"x-amz-") for name in names):
        return PRESIGNED
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        return NOTUTF8
    return SLASH if re.search(rb"%2f", path, re.IGNORECASE) else OK


def encode(text: bytes) -> str:
    return quote(unquote_to_bytes(text.replace(b"+", b" ")), safe="-_.~")


def pairs(query: bytes) -> list[tuple[bytes, bytes | None]]:
    """What a query means: decoded pairs in order, '+' a space, None for a bare key, empty pairs gone."""
    split = [piece.partition(b"=") for piece in query.split(b"&") if piece]
    decoded = [[unquote_to_bytes(part.replace(b"+", b" ")) for part in (name, value)] for name, _, value in split]
    return [(name, value if equals else None) for (name, value), (_, equals, _) in zip(decoded, split, strict=True)]


def on_the_wire(raw: bytes, base: bytes, *, signed: bool) -> set[bytes]:
    """The targets that may arrive for one that passes: the path as sent, below the base; a signed query made canonical.

    More than one only where the rules leave a choice: an empty query's `?` on a signed route, and a lone `/`.
    """
    path, mark, query = raw.partition(b"?")
    if signed:
        query = b"&".join(
            encode(name).encode() + equals + encode(value).encode()
            for name, equals, value in (piece.partition(b"=") for piece in query.split(b"&") if piece)
        )
    tails = {mark + query} if query or not signed else {b"", mark}
    paths = {base + path} if path != b"/" else {base, base + b"/"}
    return {path + tail for path in paths for tail in tails}


# Generated targets are put together from these. `;` after dots and double-encoded controls are left out: the rules
# say nothing sharp about `/a..;b` or `/%2500`.
PIECES = [
    b"/", b"/", b"/", b"//", b"a", b"b", b"Z9", b".", b"..", b"...", b"%2e", b"%2E%2e", b"%252e", b"%2F", b"%2f", b"%252F", b"%20", b"%2B", b"+", b"~",
    b"%7E", b"*", b"'", b"(", b"!", b"$", b",", b"@", b":", b"|", b"^", b"[", b"{", b"=", b"&", b"&&", b"%3D", b"%26", b"%25", b"%C3%A9", b"%e3%81%82",
    b"-", b"_", b"%5c", b"%00", b"%", b"\\", b"x-amz-", b"X-Amz-Date", b"?", b"?", b"?", b"%FF",
]  # fmt: skip
RARE = {b"%", b"\\", b"%00", b"%5c", b"%FF", b"x-amz-", b"X-Amz-Date", b".", b"..", b"%2e", b"%2E%2e", b"%252e", b"%2F", b"%2f"}


def generated(seed: int, count: int) -> list[Target]:
    """The same targets for the same seed. What is refused is drawn less often, or nothing long would ever pass."""
    draw = random.Random(seed)
    weights = [1 if piece in RARE else 8 for piece in PIECES]
    raws = [b"/" + b"".join(draw.choices(PIECES, weights, k=draw.randint(1, 24))) for _ in range(count)]
    return [Target(raw, judge(raw)) for raw in raws]
