"""Verifies DKIM signatures with dkimpy, as a receiver would.

Reads JSON from stdin: {"records": {NAME: TXT}, "mails": [BASE64]}.
Prints for each mail a list of "DOMAIN SELECTOR ALGORITHM ok|broken", one a signature.
"""

import base64
import json
import sys

import dkim

asked = json.load(sys.stdin)


def txt(name, timeout=5):
    return asked["records"].get(name.decode().rstrip("."), "").encode()


def verdicts(mail):
    count = sum(1 for name, _ in dkim.DKIM(mail).headers if name.lower() == b"dkim-signature")
    for index in range(count):
        verifier = dkim.DKIM(mail)
        try:
            verdict = "ok" if verifier.verify(idx=index, dnsfunc=txt) else "broken"
        except dkim.DKIMException as error:
            verdict = f"broken: {error}"
        fields = verifier.signature_fields
        yield " ".join(fields.get(tag, b"?").decode() for tag in (b"d", b"s", b"a")) + " " + verdict


print(json.dumps([list(verdicts(base64.b64decode(mail))) for mail in asked["mails"]]))
