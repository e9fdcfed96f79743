#!/usr/bin/env python3
"""Judges what Postmeter makes of messages, with Python's email package as an independent reader.

    judge.py DIR [--postmeter BIN] [--verbose]
    judge.py DIR --snapshots      judges the .json beside each .eml instead

Every .eml (and .txt, .msg) file below DIR is given to `postmeter explain --json`, and every
leaf of it, as Python reads it, is looked for in what would be sent, with its file name and type,
and so is every header field, with names and addresses where it has such:

    whole      every leaf is there, octet for octet (texts: as text), and no note says otherwise
    noted      a note names what is lost or changed
    refused    with a reason
    unlike     Python's reader and ours take the message apart differently, and no note says so
    silent     a leaf is not there and no note names it: a bug; exit 1

A line `From …` of a mailbox file is left out before, and a message without From or without a
recipient gets `ann@example.com` or `bob@example.com`: parts of messages are tested, too.

Texts are compared without regard to white space at line ends, since JSON carries them as text.
"""
import argparse
import base64
import collections
import email
import email.header
import email.policy
import email.utils
import html
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.parse

BATCH = 100
# Notes about a part that explain why its octets are not there as they are.
EXPLAIN = {"read_as", "replaced", "damaged", "unflowed", "text_left_out", "version_left_out",
           "calendar_rewritten", "new_content_id"}
# Character sets under another name, or read as readers of mail do.
WEB = {"iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "iso8859-1": "cp1252",
       "us-ascii": "ascii", "gb2312": "gb18030", "gbk": "gb18030", "ks_c_5601-1987": "cp949", "euc-kr": "cp949",
       "windows-949": "cp949",
       "shift_jis": "cp932", "windows-31j": "cp932", "tis-620": "cp874", "iso-8859-11": "cp874",
       "iso-8859-9": "cp1254", "x-sjis": "cp932", "iso-8859-8-i": "iso-8859-8", "x-gbk": "gb18030"}


def leaves(message, number="", defects=()):
    """The leaves with their numbers, as `postmeter explain` counts them, and with what Python
    found wrong with each and with what it is in."""
    defects = [*defects, *(type(defect).__name__ for defect in message.defects)]
    if message.get_content_maintype() == "multipart" and message.is_multipart():
        for n, part in enumerate(message.get_payload(), 1):
            yield from leaves(part, f"{number}.{n}" if number else str(n), defects)
    else:
        defects += (type(defect).__name__ for inner in message.walk() for defect in inner.defects)
        yield number or "1", message, defects


def octets(leaf, raw):
    """The decoded octets of a leaf; of a nested message its text as it stands."""
    if leaf.get_content_maintype() == "message" and str(leaf.get("Content-Transfer-Encoding", "")).strip().lower() == "base64":
        # It may not be, and Python looks for a message in the text of Base64.
        return base64.b64decode("".join(inner.as_string() for inner in leaf.get_payload()))
    if leaf.is_multipart():
        return None
    encoding = str(leaf.get("Content-Transfer-Encoding", "")).split()
    if encoding:
        # Python does not look beyond a comment.
        leaf.replace_header("Content-Transfer-Encoding", encoding[0].rstrip(";"))
    payload = leaf.get_payload(decode=True)
    return payload if payload is not None else b""


def squeezed(text):
    return re.sub(r"\s+", " ", text.replace("\0", " ")).strip()


def as_text(leaf, content):
    name = ((leaf.get_content_charset() or "").split() or ["us-ascii"])[0].strip('"').lower()
    meta = re.search(rb"<meta[^>]*charset=[\"']?([\w-]+)", content[:1024], re.IGNORECASE)
    own = meta[1].decode().lower() if meta and not leaf.get_content_charset() else "utf-8"
    candidates = [WEB.get(name, name), "utf-8", WEB.get(own, own), "cp1252"]
    for candidate in candidates:
        try:
            return content.decode(candidate).lstrip("\ufeff")
        except (LookupError, UnicodeDecodeError, ValueError):
            continue
    return content.decode("latin-1")


def is_carried(leaf, content, sent):
    """Whether the octets are in the email, as a file or as shown text."""
    if content is None:
        # A nested message: by what is most particular in it.
        wanted = squeezed("".join(inner.as_string() for inner in leaf.get_payload()))
        files = [squeezed(file.decode("utf-8", "surrogateescape")) for file in sent["files"]]
        return any(without_folding(wanted) == without_folding(file) for file in files)
    normal = content.replace(b"\r\n", b"\n")
    if any(normal == file.replace(b"\r\n", b"\n") for file in sent["files"]):
        return True
    # The line end before a boundary belongs to the boundary; Python may keep it.
    if any(normal.rstrip(b"\r\n") == file.replace(b"\r\n", b"\n").rstrip(b"\r\n") for file in sent["files"]):
        return True
    if leaf.get_content_type() not in ("text/plain", "text/html"):
        return False
    text = squeezed(as_text(leaf, content))
    if sent["new_ids"] and not any(text in shown for shown in sent["shown"]):
        # References were rewritten, and a note says so: what stands around them must be there.
        pieces = [squeezed(piece) for piece in re.split(r"<[^>]*>", text)]
        return all(piece in sent["shown"][1] for piece in pieces)
    return text == "" or any(text in shown for shown in sent["shown"])


def has(sent, content):
    """How often the octets are there as a file."""
    return sum(octets.replace(b"\r\n", b"\n").rstrip(b"\n") == content for octets in sent["files"])


def without_folding(text):
    return re.sub(r"\s+", "", text)


def what_is_sent(email_object):
    files = []
    for attachment in email_object.get("attachments", []):
        kind, name = attachment.get("content_type") or "", attachment["filename"]
        if name.lower().endswith(".ics"):
            files.append(attachment["content"].encode())
        else:
            files.append(base64.b64decode(attachment["content"], validate=True))
    shown = [email_object.get("text", ""), email_object.get("html") or ""]
    shown += [html.unescape(shown[1])]
    return {"files": files, "shown": [squeezed(text) for text in shown], "attachments": email_object.get("attachments", [])}


def file_problems(number, leaf, content, sent, notes):
    """A file that has another name or type than its leaf, where no note says so."""
    wanted = (content or b"").replace(b"\r\n", b"\n").rstrip(b"\n")
    same = [attachment for attachment, octets in zip(sent["attachments"], sent["files"])
            if content is None or octets.replace(b"\r\n", b"\n").rstrip(b"\n") == wanted]
    name = leaf.get_filename()
    if not same or (content is None and not name):
        return
    names = {without_folding(attachment["filename"]) for attachment in same}
    wanted_names = {without_folding(decoded(name)), *names_said(leaf)} if name else names
    if not notes & {"named", "renamed"} and not names & wanted_names:
        yield f"part {number} is named {name!r}, not {sorted(names)}"
    kinds = {kind_of_file(attachment) for attachment in same}
    has_type = "/" in str(leaf.get("Content-Type", "text/plain"))
    if content is not None and has_type and not notes & {"type_left_out", "type_of_name"} and leaf.get_content_type() not in kinds:
        yield f"part {number} is {leaf.get_content_type()}, not {sorted(kinds)}"


def names_said(leaf):
    """Each name that its fields give a file: Python takes one, and does not read raw UTF-8."""
    for field, value in leaf.raw_items():
        if not field.lower().startswith("content-"):
            continue
        for star, quoted, bare in re.findall(r'(?i)name(\*?)\s*=\s*(?:"([^"]*)"|([^;\s]+))', readable(value)):
            said = quoted or bare
            if star and said.count("'") >= 2:
                charset, _, said = said.split("'", 2)
                try:
                    said = urllib.parse.unquote(said, charset or "utf-8", "replace")
                except LookupError:
                    continue
            yield without_folding(decoded(said))


def kind_of_file(attachment):
    """Its type; without one it is octets, where our tables say nothing about the name."""
    return (attachment.get("content_type") or "application/octet-stream").partition(";")[0].lower()


def judged(path, explained):
    """(verdict, why)"""
    if "refused" in explained:
        return "refused", explained["refused"]["text"]
    raw = path.read_bytes().replace(b"\r\n", b"\n")
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    new_ids = any("new_content_id" in note["change"] for note in explained["notes"])
    sent = [{**what_is_sent(part["email"]), "new_ids": new_ids} for part in explained["parts"] if "email" in part]
    if not sent:
        return "whole", "over SMTP"
    notes = collections.defaultdict(set)
    for note in explained["notes"]:
        change = note["change"]
        notes[note.get("part")].add(change if isinstance(change, str) else next(iter(change)))
    problems, defects, count = [], collections.defaultdict(set), collections.Counter()
    for number, leaf, wrong in leaves(message):
        before = len(problems)
        content = octets(leaf, raw)
        if content is not None and squeezed(content.decode("latin-1")) == "" and leaf.get_content_maintype() == "text":
            continue
        if any(not is_carried(leaf, content, one) for one in sent) and not notes[number] & EXPLAIN:
            problems.append(f"part {number} ({leaf.get_content_type()})")
        for one in sent:
            problems += file_problems(number, leaf, content, one, notes[number])
        if content is not None and leaf.get_content_maintype() not in ("text", "message") and not notes[number] & EXPLAIN:
            # As often as it is in the message.
            content = content.replace(b"\r\n", b"\n").rstrip(b"\n")
            count[content] += 1
            if any(has(one, content) < count[content] for one in sent):
                problems.append(f"part {number} ({leaf.get_content_type()}) again")
        for problem in problems[before:]:
            defects[problem].update(wrong)
    for problem in header_problems(message, explained):
        problems.append(problem)
        defects[problem].update(type(defect).__name__ for defect in message.defects)
    if problems:
        kind = "unlike" if all(defects[problem] for problem in problems) else "silent"
        wrong = sorted(set().union(*defects.values()))
        return kind, "; ".join(problems) + (f" [{', '.join(wrong)}]" if wrong else "")
    return ("noted" if explained["notes"] else "whole"), ", ".join(note["text"] for note in explained["notes"])


def header_problems(message, explained):
    """Fields that are neither carried nor named in a note."""
    skipped = {"from", "to", "cc", "bcc", "subject", "reply-to", "content-type",
               "content-transfer-encoding", "content-disposition", "content-id", "content-location",
               # What `postmeter explain` says of every mail.
               "date", "message-id", "mime-version", "return-path", "received", "dkim-signature", "dkim2-signature",
               "domainkey-signature", "arc-seal", "arc-message-signature", "arc-authentication-results",
               "content-length", "x-postmeter-idempotency-key"}
    noted = {(note.get("field") or "").lower() for note in explained["notes"]}
    for part in explained["parts"]:
        if "email" not in part:
            continue
        carried = {name.lower(): value for name, value in part["email"].get("headers", {}).items()}
        for name, value in message.items():
            low = name.lower().strip()
            if low in skipped or low in noted:
                continue
            value = squeezed(str(value))
            if value and squeezed(carried.get(low, "")) != value and squeezed(value) not in squeezed(carried.get(low, "")):
                yield f"header {name}"
        yield from address_problems(message, part, noted)
        subject = message.get("Subject")
        if subject is not None and "subject" not in noted:
            raw = next(value for name, value in message.raw_items() if name.lower() == "subject")
            raw = readable(raw)
            # What cannot be read may stay as it is, too.
            wanted = {without_folding(decoded(raw)), without_folding(raw)}
            if without_folding(part["email"]["subject"]) not in wanted and any(wanted):
                yield f"subject {part['email']['subject']!r} is not {decoded(raw)!r}"


def people(message, field):
    """{address: names} of a field, as Python reads it."""
    values = [readable(value) for name, value in message.raw_items() if name.lower() == field]
    return pairs(values)


def pairs(values):
    found = email.utils.getaddresses([value.replace("\n", " ") for value in values])
    people = collections.defaultdict(set)
    for name, address in found:
        if "@" in address:
            people[as_idn(address)].add(without_folding(decoded(name)))
    return people


def as_idn(address):
    local, _, domain = address.rpartition("@")
    try:
        return f"{local}@{domain.lower().encode('idna').decode()}"
    except UnicodeError:
        return f"{local}@{domain.lower()}"


def address_problems(message, part, noted):
    """People who are shown otherwise than the message says, where no note says so."""
    sent = {name: pairs([value] if isinstance(value, str) else value)
            for name, value in part["email"].items() if name in ("from", "to", "cc", "reply_to")}
    recipients = {as_idn(address).lower() for address in part["recipients"]}
    for field, shown in (("from", sent["from"]), ("reply-to", sent.get("reply_to", {}))):
        wanted = people(message, field)
        # Python reads a comma in an encoded word as one of the list.
        raw = without_folding("".join(decoded(readable(value)) for name, value in message.raw_items() if name.lower() == field))
        is_there = {address: all(name and name in raw for name in shown[address]) for address in shown}
        is_same = wanted.keys() == shown.keys() and all(
            shown[address] <= wanted[address] or is_there[address] for address in shown)
        if field not in noted and not is_same:
            yield f"{field} {dict(shown)} is not {dict(wanted)}"
    named = collections.defaultdict(set)
    shown = collections.defaultdict(set)
    for field in ("to", "cc"):
        for address, names in people(message, field).items():
            named[address.lower()] |= names
        for address, names in sent.get(field, {}).items():
            shown[address.lower()] |= names
    for address in recipients & (named.keys() | shown.keys()):
        if not noted & {"to", "cc"} and not (shown[address] and shown[address] <= named[address]):
            yield f"{address} is shown as {shown[address]}, not {named[address]}"
    if shown.keys() - recipients:
        yield f"{shown.keys() - recipients} are no recipients"


def readable(raw):
    """A field beyond ASCII as UTF-8 or, where it is none, as readers of mail do."""
    octets = raw.encode("utf-8", "surrogateescape")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("cp1252", "replace")


def decoded(value):
    """RFC 2047 by Python; what it cannot read stays."""
    value = re.sub(r"(=\?[^?*]+)\*[^?]*\?", r"\1?", value)
    try:
        pieces = email.header.decode_header(value.replace("\n", ""))
        return "".join(p if isinstance(p, str) else p.decode(WEB.get(c or "utf-8", c or "utf-8")) for p, c in pieces)
    except (LookupError, UnicodeDecodeError, ValueError, email.errors.HeaderParseError):
        return value


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
        verdicts = [judged(path, snapshot) for path, snapshot in zip(paths, snapshots)]
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
        return [judged(copy, explained[str(copy)]) for copy in copied]


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
