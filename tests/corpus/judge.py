#!/usr/bin/env python3
"""Judges what Postmeter makes of messages, with Python's email package as an independent reader.

    judge.py DIR [--postmeter BIN] [--verbose]
    judge.py DIR --snapshots      judges the .json beside each .eml instead

Every .eml (and .txt, .msg) file below DIR is given to `postmeter explain --json`. What Python
reads in it must be what would be sent, neither less nor more: the text, the HTML and what that
refers to, every file with its name, type, parameters and Content-ID, every header field, and
every recipient in their field and under their name.

    whole      all of it is there, and there is no note
    noted      all of it is there but for what notes say
    refused    with a reason
    unlike     something is not there, where Python found the message broken
    silent     something is not there and no note says so: a bug; exit 1

A note excuses what it says and nothing else: with `read_as` the octets are read in that character
set and compared, `renamed` is looked up under that name, and `new_content_id` must be in the HTML.

A line `From …` of a mailbox file is left out before, and a message without From or without a
recipient gets `ann@example.com` or `bob@example.com`: parts of messages are tested, too.

Texts are compared without regard to how much white space stands between two words, and a nested
message without regard to any, since Python writes it anew. `judge_test.py` tests all of this.
"""
import argparse
import collections
import email
import email.policy
import functools
import json
import pathlib
import re
import subprocess
import sys
import tempfile

# Nothing is left beside the messages.
sys.dont_write_bytecode = True
from judged_header import header_problems, recipient_problems
from judged_parts import leaves, loss_problems, part_problems

BATCH = 100
# What Python finds wrong with a header, not with what follows it.
OF_HEADERS = {"FirstHeaderLineIsContinuationDefect", "MissingHeaderBodySeparatorDefect", "MisplacedEnvelopeHeaderDefect"}


def judged(raw, explained):
    """(verdict, why)"""
    if "refused" in explained:
        return "refused", explained["refused"]["text"]
    message = read(raw)
    notes = notes_of(explained)
    problems, in_header = [], {type(defect).__name__ for defect in message.defects} & OF_HEADERS
    for part in explained["parts"]:
        if "email" in part:
            found = list(leaves(message, notes))
            problems += [(problem, leaf.defects if leaf else set().union(*(leaf.defects for leaf in found)))
                         for problem, leaf in part_problems(found, part["email"], notes[None])]
            problems += [(problem, in_header) for problem in header_problems(message, part["email"], notes)]
    if any("email" in part for part in explained["parts"]):
        problems += [(problem, in_header) for problem in loss_problems(message, notes)]
    problems += [(problem, in_header) for problem in recipient_problems(message, explained["parts"], notes)]
    if problems:
        kind = "unlike" if all(defects for _, defects in problems) else "silent"
        wrong = sorted(set().union(*(defects for _, defects in problems)))
        return kind, "; ".join(problem for problem, _ in problems) + (f" [{', '.join(wrong)}]" if wrong else "")
    return ("noted" if explained["notes"] else "whole"), ", ".join(note["text"] for note in explained["notes"])


@functools.lru_cache(maxsize=1)
def read(raw):
    return email.message_from_bytes(raw.replace(b"\r\n", b"\n"), policy=email.policy.compat32)


def notes_of(explained):
    """{field in lower case, part or None: {change: [what]}}"""
    notes = collections.defaultdict(dict)
    for note in explained["notes"]:
        change = note["change"]
        kind, what = (change, True) if isinstance(change, str) else next(iter(change.items()))
        notes[(note.get("field") or "").lower() or note.get("part")].setdefault(kind, []).append(what)
    return notes


def completed(path):
    """The octets of a file as a client could submit them."""
    raw = path.read_bytes().replace(b"\r\n", b"\n")
    if raw.startswith(b"From "):
        raw = raw.partition(b"\n")[2]
    header = b"\n" + raw.partition(b"\n\n")[0].lower()
    if b"\nfrom:" not in header:
        raw = b"From: ann@example.com\n" + raw
    if not any(b"\n" + name in header for name in (b"to:", b"cc:", b"bcc:")):
        raw = b"To: bob@example.com\n" + raw
    return raw


def explain(postmeter, config, paths):
    found = {}
    for start in range(0, len(paths), BATCH):
        batch = [str(path) for path in paths[start:start + BATCH]]
        run = subprocess.run([postmeter, "explain", "--config", config, "--json", *batch], capture_output=True, text=True)
        lines = [json.loads(line) for line in run.stdout.splitlines()]
        if len(lines) != len(batch):
            sys.exit(f"postmeter explain: {run.stderr}")
        found.update(zip(batch, lines))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--postmeter", default="postmeter")
    beside = pathlib.Path(__file__).resolve().parent / "../../../shared/reference/resend-openapi.yaml"
    parser.add_argument("--openapi", type=pathlib.Path, default=beside, help="Resend's API description, for --snapshots")
    parser.add_argument("--snapshots", action="store_true", help="judge what is written beside the messages")
    parser.add_argument("--verbose", action="store_true", help="say what was decided about each file")
    arguments = parser.parse_args()
    kinds = {".eml", ".txt", ".msg"}
    paths = sorted(path for path in arguments.directory.rglob("*") if path.suffix in kinds and path.is_file())
    counts, reasons = collections.Counter(), collections.Counter()
    if arguments.snapshots:
        snapshots = [json.loads(path.with_suffix(".json").read_text()) for path in paths]
        verdicts = [judged(path.read_bytes(), snapshot) for path, snapshot in zip(paths, snapshots)]
        schema = read_schema(arguments.openapi)
        for path, snapshot in zip(paths, snapshots):
            for part in snapshot.get("parts", []) if schema else []:
                check(schema, schema["components"]["schemas"]["SendEmailRequest"], part["email"], path.name)
    else:
        verdicts = judge_all(arguments.postmeter, paths)
    for path, (verdict, why) in zip(paths, verdicts):
        counts[verdict] += 1
        if verdict == "refused":
            reasons[re.sub(r"\d+(\.\d+)*", "N", why)] += 1
        if arguments.verbose or verdict in ("silent", "unlike"):
            print(f"{verdict:8} {path}: {why}")
    print(f"{len(paths)} messages: " + ", ".join(
        f"{counts[kind]} {kind}" for kind in ("whole", "noted", "refused", "unlike", "silent")))
    for reason, count in reasons.most_common():
        print(f"  refused {count:4}  {reason}")
    sys.exit(1 if counts["silent"] else 0)


def judge_all(postmeter, paths):
    with tempfile.TemporaryDirectory() as copies:
        copied = [pathlib.Path(copies, f"{number}.eml") for number in range(len(paths))]
        for path, copy in zip(paths, copied):
            copy.write_bytes(completed(path))
        config = pathlib.Path(copies, "postmeter.toml")
        # What is asked is how mail is carried, not how much of it one takes.
        config.write_text("[smtp]\nmax_recipients = 1000\n")
        explained = explain(postmeter, config, copied)
        return [judged(copy.read_bytes(), explained[str(copy)]) for copy in copied]


def read_schema(path):
    """Resend's API description, if it is there and PyYAML too."""
    try:
        import yaml
        return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (ImportError, OSError):
        print(f"note: {path} or PyYAML is not there, so requests are not held against it")
        return None


def check(document, schema, value, at):
    """Exits where a request is not what the description asks for, or has a field that it lacks."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return check(document, document["components"]["schemas"][name], value, at)
    for option in schema.get("oneOf", []):
        if option.get("type") == kind_of(value):
            return check(document, option, value, at)
    if "oneOf" in schema or schema.get("type", kind_of(value)) != kind_of(value):
        sys.exit(f"{at}: {value!r} is not {schema}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            sys.exit(f"{at}: {len(value)} items")
        for item in value:
            check(document, schema["items"], item, f"{at}[]")
    if isinstance(value, dict):
        missing = [name for name in schema.get("required", []) if name not in value]
        unknown = [name for name in value if "properties" in schema and name not in schema["properties"]]
        if missing or unknown:
            sys.exit(f"{at}: missing {missing}, unknown {unknown}")
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                check(document, inner, value[name], f"{at}/{name}")
        if "properties" not in schema and not all(isinstance(inner, str) for inner in value.values()):
            sys.exit(f"{at}: values must be strings")


def kind_of(value):
    return {str: "string", list: "array", dict: "object", bool: "boolean"}.get(type(value), "number")


if __name__ == "__main__":
    main()
