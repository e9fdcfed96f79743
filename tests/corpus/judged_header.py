"""What of a message's header is in a call to Resend, for judge.py: every field, name and address."""
import collections
import email.errors
import email.header
import email.utils
import re

from reading import WEB, squeezed

# Fields of the email, and its parts.
ELSEWHERE = {"from", "to", "cc", "bcc", "subject", "reply-to", "content-type", "content-transfer-encoding",
             "content-disposition", "content-id", "content-location"}
# What `postmeter explain` says of every mail.
OF_EVERY_MAIL = {"date", "message-id", "mime-version", "return-path", "received", "dkim-signature", "dkim2-signature",
                 "domainkey-signature", "arc-seal", "arc-message-signature", "arc-authentication-results",
                 "content-length", "x-postmeter-idempotency-key"}
IDS = {"references", "in-reply-to"}
# An address as Resend wants it.
MAILBOX = re.compile(r'"(?:[^"\\]|\\.)*" <[^<>"\s]+@[^<>"\s]+>|[^<>"\s]+@[^<>"\s]+')
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def header_problems(message, mail, notes):
    """What is not as the message says, and no note says so. `notes`: {field: {change: [what]}}."""
    fields = collections.defaultdict(list)
    for name, raw in message.raw_items():
        fields[name.lower().strip()].append(raw)
    carried = {name.lower(): value for name, value in mail.get("headers", {}).items()}
    for name in carried.keys() - (fields.keys() - ELSEWHERE - OF_EVERY_MAIL):
        yield f"header {name} is not the message's"
    for name, raws in fields.items():
        if name not in ELSEWHERE | OF_EVERY_MAIL:
            yield from field_problems(name, raws, carried.get(name), notes[name])
    yield from subject_problems(fields["subject"], mail["subject"], notes)
    for name, sent in (("from", [mail["from"]]), ("reply-to", mail.get("reply_to", []))):
        yield from author_problems(name, fields[name], pairs(sent), notes[name])


def field_problems(name, raws, carried, changes):
    """Those of a field that stands there once or several times."""
    if "not_carried" in changes:
        if carried is not None:
            yield f"header {name} is carried, against its note"
        return
    yield from untold(name, raws, changes)
    values = [value_of(raw) for raw in raws]
    if "" in values and "empty" not in changes:
        yield f"header {name} is empty"
    values = [value for value in values if value]
    if not values:
        return
    joined = values[0]
    for value in values[1:]:
        if value != joined and "first_only" not in changes:
            joined += (" " if name in IDS else ", ") + value
    if len(set(values)) > 1 and not changes.keys() & {"first_only", "fields_joined"}:
        yield f"header {name} stands {len(values)} times"
    if not joined.isascii():
        if "field_encoded" not in changes:
            yield f"header {name} is not ASCII"
        # Python pads what is cut short, and takes `utf-` for UTF-8.
        is_sound = all(re.fullmatch(r"=\?utf-8\?B\?([\w+/=]{4})+\?=", word) for word in (carried or "").split(" "))
        same = is_sound and squeezed(decoded(carried or "")) == squeezed(decoded(joined))
    else:
        same = squeezed(carried or "") == joined
    if not same:
        yield f"header {name} is {carried!r}, not {joined!r}"


def untold(name, raws, changes):
    """Guesses at octets, and control characters, that no note tells."""
    if not all(is_utf8(raw) for raw in raws) and "read_as" not in changes:
        yield f"header {name} is no UTF-8"
    is_read = "ISO-2022-JP" in changes.get("read_as", [])
    if any(CONTROL.search(readable(raw)) for raw in raws) and not is_read and "controls_replaced" not in changes:
        yield f"header {name} has control characters"


def value_of(raw):
    return squeezed(CONTROL.sub(" ", readable(raw)))


def subject_problems(raws, sent, notes):
    changes = notes["subject"]
    raw = raws[0] if raws else ""
    if len(raws) > 1 and "first_only" not in changes:
        yield "header subject stands several times"
    if raws:
        yield from untold("subject", raws[:1], changes)
    text = readable(raw)
    if "ISO-2022-JP" in changes.get("read_as", []):
        text = raw.encode("utf-8", "surrogateescape").decode("iso2022_jp", "replace")
    # What cannot be read may stay as it is, too.
    wanted = {squeezed(CONTROL.sub(" ", said)) for said in (decoded(text), text)}
    is_none = "no_subject" in notes[None] and "" in wanted
    if squeezed(sent) not in ({"(no subject)"} if is_none else wanted - {""}):
        yield f"subject {sent!r} is not {decoded(text)!r}"


def author_problems(name, raws, shown, changes):
    yield from untold(name, raws, changes)
    wanted = pairs([readable(raw) for raw in raws])
    # Python reads a comma in an encoded word as one of the list, and leaves some comments out.
    said = [decoded(readable(raw)) for raw in raws if "=?" in raw or "comment_shown" in changes]
    said = {squeezed(re.sub(r'<[^>]*>|"', "", one)) for one in said}
    if wanted.keys() != shown.keys() or not all(shown[one] <= wanted[one] | said for one in shown):
        yield f"{name} {dict(shown)} is not {dict(wanted)}"


def recipient_problems(message, parts, notes):
    """Who gets the mail, and in which field and under which name each of them is shown."""
    fields = {field: [readable(raw) for name, raw in message.raw_items() if name.lower().strip() == field]
              for field in ("to", "cc", "bcc", "x-corpus-to")}
    named = {field: pairs(values) for field, values in fields.items()}
    envelope = named["x-corpus-to"].keys() or named["to"].keys() | named["cc"].keys() | named["bcc"].keys()
    given = [as_idn(address) for part in parts for address in part["recipients"]]
    if {one.lower() for one in given} != {one.lower() for one in envelope} or len(given) != len(set(given)):
        yield f"goes to {sorted(given)}, not to {sorted(envelope)}"
    if len(parts) > 1 and "split" not in notes[None]:
        yield f"goes as {len(parts)} mails"
    lower = {field: {one.lower(): names for one, names in found.items()} for field, found in named.items()}
    for field in ("to", "cc"):
        yield from untold(field, [raw for name, raw in message.raw_items() if name.lower() == field], notes[field])
        others = lower[field].keys() - {one.lower() for one in given}
        told = {as_idn(one).lower() for some in notes[field].get("not_shown", []) for one in some}
        # A quoted local part that is no recipient is no address to Resend.
        told |= {one for one in others if '"' in one and "no_address" in notes[field]}
        if others - told:
            yield f"{sorted(others - told)} of {field} are not shown"
    for part in parts:
        if "email" in part:
            yield from placed_problems(part, lower, notes)


def placed_problems(part, named, notes):
    mail = part["email"]
    sent = {field: pairs(mail.get(field, [])) for field in ("to", "cc", "bcc")}
    written = [mail["from"], *(one for field in ("to", "cc", "bcc", "reply_to") for one in mail.get(field, []))]
    yield from (f"{one!r} is not written as an address" for one in written if not MAILBOX.fullmatch(one))
    if not mail["to"]:
        yield "nobody stands in to"
    listed = [as_idn(email.utils.parseaddr(one)[1]) for field in sent for one in mail.get(field, [])]
    others = [name for field in ("to", "cc") for some in notes[field].get("other_names", []) for name in some]
    others = {name.strip('"') for name in others}
    if sorted(listed) != sorted(as_idn(one) for one in part["recipients"]):
        yield f"one call goes to {sorted(listed)}, not to {sorted(part['recipients'])}"
    for field in sent:
        for address, names in sent[field].items():
            address = address.lower()
            known = named["to"].get(address, set()) | named["cc"].get(address, set())
            home = next((one for one in ("to", "cc") if address in named[one]), "bcc")
            is_moved = field == "to" and (
                home == "cc" and not sent["cc"] and notes[None].keys() & {"cc_as_to", "split"}
                or home == "bcc" and "hidden_in_to" in notes[None] and len(listed) == 1)
            if home != field and not is_moved:
                yield f"{address} stands in {field}, not in {home}"
            if home != "bcc" and not (names and names <= known):
                yield f"{address} is shown as {sorted(names)}, not {sorted(known)}"
            if home != "bcc" and known - names - others - {""}:
                yield f"{address} is shown as {sorted(names)} alone, not {sorted(known)}"


def pairs(values):
    """{address: names}, as Python reads it."""
    people = collections.defaultdict(set)
    for name, address in email.utils.getaddresses([value.replace("\n", " ") for value in values]):
        if "@" in address:
            people[as_idn(address)].add(squeezed(decoded(name)))
    return people


def as_idn(address):
    local, _, domain = address.rpartition("@")
    try:
        return f"{local}@{domain.lower().encode('idna').decode()}"
    except UnicodeError:
        return f"{local}@{domain.lower()}"


def is_utf8(raw):
    try:
        raw.encode("utf-8", "surrogateescape").decode()
        return True
    except UnicodeDecodeError:
        return False


def readable(raw):
    """A field beyond ASCII as UTF-8 or, where it is none, as readers of mail do."""
    octets = raw.encode("utf-8", "surrogateescape")
    return octets.decode() if is_utf8(raw) else octets.decode("cp1252", "replace")


def decoded(value):
    """RFC 2047 by Python; what it cannot read stays."""
    value = re.sub(r"(=\?[^?*]+)\*[^?]*\?", r"\1?", value)
    try:
        pieces = email.header.decode_header(value.replace("\n", ""))
        pieces = ((piece, WEB.get(charset, charset or "raw-unicode-escape")) for piece, charset in pieces)
        return "".join(piece if isinstance(piece, str) else piece.decode(charset) for piece, charset in pieces)
    except (LookupError, UnicodeDecodeError, ValueError, email.errors.HeaderParseError):
        return value
