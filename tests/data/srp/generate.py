"""Writes vectors.json: SRP logins as pycognito 2024.5.1 (PyPI) computes them, for src/auth/srp/tests.rs.

Run with pycognito installed: python3 tests/data/srp/generate.py > tests/data/srp/vectors.json

Everything random comes from a seeded generator, so the file comes out the same every time. Besides plain cases, numbers
are drawn until each of those that are padded (A, B, u, the salt, S) has been seen with its top bit set, and with a byte or a
digit of zeros in front: what naive padding gets wrong once in 256 logins.
"""

import base64
import datetime
import json
import random

from pycognito import aws_srp

draw = random.Random(20261121)
PRIME = int(aws_srp.N_HEX, 16)
MULTIPLIER = int(aws_srp.hex_hash("00" + aws_srp.N_HEX + "0" + aws_srp.G_HEX), 16)

USERS = ["orders", "Ada.Lovelace@example.com", "0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11", "j\u00fcrgen", "\u5c71\u7530 \u592a\u90ce", "a"]
PASSWORDS = ["correct horse battery staple", "p:a:s:s", "\u00fcnl\u00f6sbar-\u20ac", "\U0001f511 key", "x", " leading and trailing "]
POOLS = ["eu-west-1_AbCdEfGhI", "ap-northeast-1_AtRsMFTq0", "us-gov-west-1_000000000"]
DAYS = [(year, month, day) for year, month, day in
        [(2026, 1, 1), (2026, 2, 2), (2026, 3, 3), (2026, 4, 4), (2026, 5, 5), (2026, 6, 6), (2026, 7, 7), (2026, 8, 8),
         (2026, 9, 9), (2026, 10, 10), (2026, 11, 21), (2026, 12, 31), (2028, 2, 29), (2000, 2, 29), (2100, 3, 1),
         (1999, 12, 31), (2038, 1, 19)]]


class Login(aws_srp.AWSSRP):
    """With a given secret number."""

    def __init__(self, small_a, **settings):
        self._small_a = small_a
        super().__init__(client="none", client_id="none", **settings)

    def generate_random_small_a(self):
        return self._small_a


def case(small_a=None, small_b=None, salt=None):
    """A login of a random user, with the pool's half computed here."""
    small_a = draw.getrandbits(1024) if small_a is None else small_a
    user, password, pool = draw.choice(USERS), draw.choice(PASSWORDS), draw.choice(POOLS)
    salt = f"{draw.getrandbits(128):x}" if salt is None else salt
    login = Login(small_a, username=user, password=password, pool_id=pool)
    inner = aws_srp.hash_sha256(f"{pool.split('_')[1]}{user}:{password}".encode())
    x = int(aws_srp.hex_hash(aws_srp.pad_hex(salt) + inner), 16)
    small_b = draw.getrandbits(256) if small_b is None else small_b
    big_b = (MULTIPLIER * pow(2, x, PRIME) + pow(2, small_b, PRIME)) % PRIME
    u = aws_srp.calculate_u(login.large_a_value, big_b)
    shared = pow(big_b - MULTIPLIER * pow(2, x, PRIME), small_a + u * x, PRIME)
    return login, {
        "pool_id": pool, "user": user, "password": password, "secret": f"{small_a:0256x}", "salt": salt,
        "public": f"{big_b:x}", "block": base64.b64encode(draw.randbytes(draw.choice([1, 64, 700]))).decode(),
    }, {"A": login.large_a_value, "B": big_b, "u": u, "salt": int(salt, 16), "S": shared}


def finished(login, challenge, note, day):
    moment = datetime.datetime(*day, draw.randrange(24), draw.randrange(60), draw.randrange(60))

    class Clock(datetime.datetime):
        @classmethod
        def utcnow(cls):
            return moment

    aws_srp.datetime.datetime = Clock
    answer = login.process_challenge(
        {"USERNAME": challenge["user"], "USER_ID_FOR_SRP": challenge["user"], "SALT": challenge["salt"],
         "SRP_B": challenge["public"], "SECRET_BLOCK": challenge["block"]},
        {"USERNAME": challenge["user"]})
    aws_srp.datetime.datetime = REAL
    return challenge | {
        "note": note, "time": int(moment.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "expected_public": login.get_auth_params()["SRP_A"],
        "expected_timestamp": answer["TIMESTAMP"], "expected_signature": answer["PASSWORD_CLAIM_SIGNATURE"],
    }


REAL = datetime.datetime
WIDTH = {"A": 3072, "B": 3072, "u": 256, "salt": 128, "S": 3072}


def traits(numbers):
    for name, number in numbers.items():
        digits = f"{number:x}"
        if len(digits) % 2:
            yield f"{name} has an odd number of digits"
        elif digits[0] in "89abcdef":
            yield f"{name} has its top bit set"
        if number.bit_length() <= WIDTH[name] - 8:
            yield f"{name} has a zero byte in front"


def main():
    vectors, seen = [], set()
    for number, day in enumerate(DAYS):
        login, challenge, _ = case()
        vectors.append(finished(login, challenge, f"day {number}", day))
    wanted = {f"{name} {trait}" for name in WIDTH
              for trait in ("has an odd number of digits", "has its top bit set", "has a zero byte in front")}
    while wanted - seen:
        login, challenge, numbers = case()
        new = set(traits(numbers)) & wanted - seen
        if new:
            seen |= new
            vectors.append(finished(login, challenge, "; ".join(sorted(new)), draw.choice(DAYS)))
    for note, given in [
        ("the smallest secret", {"small_a": 1}),
        ("the largest secret", {"small_a": 2**1024 - 1}),
        ("the smallest number of the pool", {"small_b": 0}),
        ("a salt of one digit", {"salt": "9"}),
        ("a salt of one byte with its top bit set", {"salt": "80"}),
        ("a salt of 255 bits", {"salt": "7" + "f" * 63}),
    ]:
        login, challenge, _ = case(**given)
        vectors.append(finished(login, challenge, note, draw.choice(DAYS)))
    print("[")
    print(",\n".join(json.dumps(vector) for vector in vectors))
    print("]")


main()
