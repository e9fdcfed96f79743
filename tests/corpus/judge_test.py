#!/usr/bin/env python3
"""Tests the judge: whatever is taken out of the snapshots of the corpus or changed in them must be noticed.

    judge_test.py        exit 1: a change was not noticed, or too few were made
"""
import base64
import collections
import copy
import json
import pathlib
import re
import sys

sys.dont_write_bytecode = True
from judge import judged

# Notes without which something would be lost or changed silently, as Python reads the message.
NEEDED = {"cc_as_to", "dissolved", "field_encoded", "fields_joined", "first_only", "flowed", "hidden_in_to", "in_html",
          "name_not_shown", "named", "new_content_id", "no_subject", "no_text", "not_carried", "not_in_place",
          "not_shown", "other_names", "parameters_lost", "part_field_lost", "replaced", "same_content_id", "split",
          "text_left_out", "texts_joined", "type_left_out", "unflowed", "version_as_file", "version_left_out",
          "versions_joined"}
# Places of a text or file at which it is changed, at most.
PLACES = 4
# Changes that are made, at least: the corpus has so many of each kind.
LEAST = {"file dropped": 100, "content_id dropped": 25, "charset dropped": 3, "field dropped": 250,
         "recipient dropped": 250, "bcc dropped": 1, "text changed": 1000, "file changed": 200, "names swapped": 20,
         "note dropped": 100}


def mutations(snapshot):
    """(kind of change, the snapshot with it)"""
    yield from notes(snapshot)
    for at, part in enumerate(snapshot.get("parts", [])):
        yield "call dropped", changed(snapshot, lambda all: all["parts"].pop(at))
        for kind, change in [*files(part["email"]), *fields(part["email"]), *texts(part["email"])]:
            yield kind, changed(snapshot, lambda all: change(all["parts"][at]["email"]))
        for kind, change in recipients(part):
            yield kind, changed(snapshot, lambda all: change(all["parts"][at]))


def notes(snapshot):
    for at, note in enumerate(snapshot.get("notes", [])):
        change = note["change"]
        if (change if isinstance(change, str) else next(iter(change))) in NEEDED:
            yield "note dropped", changed(snapshot, lambda all: all["notes"].pop(at))


def changed(snapshot, change):
    snapshot = copy.deepcopy(snapshot)
    change(snapshot)
    return snapshot


def files(mail):
    attachments = mail.get("attachments", [])
    for at, file in enumerate(attachments):
        yield "file dropped", lambda mail, at=at: mail["attachments"].pop(at)
        yield "file twice", lambda mail, at=at: mail["attachments"].append(mail["attachments"][at])
        yield "name changed", lambda mail, at=at, file=file: (
            mail["attachments"][at].update(filename="x" + file["filename"]))
        if "content_id" in file:
            yield "content_id dropped", lambda mail, at=at: mail["attachments"][at].pop("content_id")
            yield "content_id changed", lambda mail, at=at: mail["attachments"][at].update(content_id="other@x")
        else:
            yield "content_id added", lambda mail, at=at: mail["attachments"][at].update(content_id="other@x")
        kind = file.get("content_type", "")
        # A file without a type is octets.
        if kind not in ("", "application/octet-stream"):
            yield "type dropped", lambda mail, at=at: mail["attachments"][at].pop("content_type")
        if ";" in kind:
            name = "charset dropped" if "charset=" in kind else "parameter dropped"
            bare = kind.partition(";")[0]
            yield name, lambda mail, at=at, bare=bare: mail["attachments"][at].update(content_type=bare)
        for content in changed_contents(file):
            yield "file changed", lambda mail, at=at, content=content: mail["attachments"][at].update(content=content)
        for other in range(at):
            if attachments[other]["filename"] != file["filename"]:
                yield "names swapped", lambda mail, at=at, other=other: swap(mail["attachments"], at, other, "filename")
            if attachments[other]["content"] != file["content"]:
                yield "contents swapped", lambda mail, at=at, other=other: (
                    swap(mail["attachments"], at, other, "content"))


def swap(attachments, one, other, key):
    attachments[one][key], attachments[other][key] = attachments[other][key], attachments[one][key]


def changed_contents(file):
    if file["filename"].lower().endswith(".ics"):
        yield from changed_texts(file["content"])
        return
    octets = base64.b64decode(file["content"])
    for at in places(len(octets)):
        if octets[at:at + 1].strip():
            yield base64.b64encode(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1:]).decode()


def changed_texts(text):
    """The text with one character changed that is not white space, and without one."""
    for at in places(len(text)):
        if text[at].strip():
            yield text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1:]
        if text[at].strip() or not re.search(r"\s\s|^\s|\s$", text[max(0, at - 1):at + 2]):
            yield text[:at] + text[at + 1:]


def places(length):
    return sorted({length * n // PLACES for n in range(PLACES)} & set(range(length)) | {length - 1} - {-1})


def fields(mail):
    for name, value in mail.get("headers", {}).items():
        yield "field dropped", lambda mail, name=name: mail["headers"].pop(name)
        for other in changed_texts(value):
            yield "field changed", lambda mail, name=name, other=other: mail["headers"].update({name: other})
    yield "field added", lambda mail: mail.setdefault("headers", {}).update({"X-Other": "x"})
    yield "reply_to added", lambda mail: mail.setdefault("reply_to", []).append("other@x.example")
    for at in range(len(mail.get("reply_to", []))):
        yield "reply_to dropped", lambda mail, at=at: mail["reply_to"].pop(at)
    for other in changed_texts(mail["from"]):
        yield "from changed", lambda mail, other=other: mail.update({"from": other})


def texts(mail):
    for name in ("subject", "text", "html"):
        for other in changed_texts(mail.get(name) or ""):
            yield f"{name} changed", lambda mail, name=name, other=other: mail.update({name: other})
        if mail.get(name):
            yield f"{name} dropped", lambda mail, name=name: mail.update({name: ""})
            yield f"{name} twice", lambda mail, name=name: mail.update({name: mail[name] * 2})


def recipients(part):
    mail = part["email"]
    yield "recipient added", lambda part: part["email"]["to"].append("other@x.example")
    for field in ("to", "cc", "bcc"):
        for at, one in enumerate(mail.get(field, [])):
            kind = "bcc dropped" if field == "bcc" else "recipient dropped"
            yield kind, lambda part, field=field, at=at: part["email"][field].pop(at)
            address = one.rpartition("<")[2].rstrip(">")
            if address in part["recipients"]:
                yield kind, lambda part, field=field, at=at, address=address: (
                    part["email"][field].pop(at), part["recipients"].remove(address))
            for other in {"to", "cc", "bcc"} - {field}:
                yield "recipient moved", lambda part, field=field, other=other, at=at: (
                    part["email"].setdefault(other, []).append(part["email"][field].pop(at)))
            if one != address:
                yield "name dropped", lambda part, field=field, at=at, address=address: (
                    part["email"][field].__setitem__(at, address))


def main():
    made, missed = collections.Counter(), collections.Counter()
    for path in sorted(pathlib.Path(__file__).resolve().parent.glob("*.eml")):
        raw, snapshot = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
        for kind, mutated in mutations(snapshot):
            made[kind] += 1
            verdict, _ = judged(raw, mutated)
            if verdict not in ("silent", "unlike"):
                missed[f"{path.stem}: {kind}"] += 1
    print(f"{made.total()} changes: " + ", ".join(f"{count} {kind}" for kind, count in sorted(made.items())))
    problems = [f"not noticed: {one} ({count} times)" for one, count in missed.items()]
    problems += [f"only {made[kind]} of {kind}" for kind, least in LEAST.items() if made[kind] < least]
    print("\n".join(problems) or "each was noticed")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
