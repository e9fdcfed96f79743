"""What of a message's parts is in a call to Resend, for judge.py: every text, file and reference."""
import base64
import dataclasses
import email.message
import email.utils
import html
import re
import urllib.parse

from judged_header import decoded, readable
from reading import charset_of, octets, squeezed, text_of, without_spaces

# Versions for particular readers: they come last, where they come as files.
PARTICULAR = ("text/x-amp-html", "text/watch-html")
# The type of a file that has none.
OCTETS = "application/octet-stream"
READABLE = ("text/plain", "text/html")
# Parameters of a text that say how it is to be read, and of a multipart those that say where its parts are.
READ = {"text": {"charset", "format", "delsp", "boundary", "name"},
        "multipart": {"boundary", "charset", "start", "type", "name"}}
CARRIED = {"content-type", "content-transfer-encoding", "content-disposition", "content-id", "content-location",
           "content-length", "content-md5"}
CID = re.compile(r"""(?i)(?<![a-z0-9])cid:((?:&(?!quot;|#34;|#39;|apos;)|[^"'\s<>()&])*)""")
URL = re.compile(r"""=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))|url\(\s*(?:&quot;|["'])?([^"'()]*?)(?:&quot;|["'])?\s*\)""")
# A text among HTML.
AS_HTML = '<div style="white-space: pre-wrap">{}</div>'


@dataclasses.dataclass
class Leaf:
    """A leaf of a message, with its number as `postmeter explain` counts."""
    number: str
    message: email.message.Message
    # What it is in, the outermost first.
    around: list
    # What Python found wrong with it and with what it is in.
    defects: set
    content: bytes = None
    # What notes say of it: {change: [what]}.
    changes: dict = dataclasses.field(default_factory=dict)
    file: dict = None
    text: str = None

    @property
    def kind(self):
        return self.message.get_content_type()

    def within(self, subtype):
        return [around for around in self.around if around.get_content_type() == f"multipart/{subtype}"]

    def id(self):
        return squeezed(readable(self.message.get("Content-ID", ""))).removeprefix("<").removesuffix(">")

    def location(self):
        return without_spaces(decoded(self.message.get("Content-Location", ""))).strip('"<>')

    def __str__(self):
        return f"part {self.number} ({self.kind})"


def leaves(message, notes, number="", around=(), defects=()):
    defects = {*defects, *(type(defect).__name__ for defect in message.defects)}
    if message.get_content_maintype() == "multipart" and message.is_multipart():
        for n, part in enumerate(message.get_payload(), 1):
            yield from leaves(part, notes, f"{number}.{n}" if number else str(n), (*around, message), defects)
    else:
        defects |= {type(defect).__name__ for inner in message.walk() for defect in inner.defects}
        number = number or "1"
        yield Leaf(number, message, list(around), defects, octets(message), notes[number])


def part_problems(found, mail, told):
    """(problem, leaf or None) of what is not there as it is in the message, where no note says so."""
    shown, files = [], [dict(file) for file in mail.get("attachments", [])]
    for leaf in found:
        leaf.file = leaf.text = None
        if leaf.kind in PARTICULAR and "version_left_out" in leaf.changes:
            continue
        if is_file(leaf):
            yield from file_found(leaf, files)
            continue
        leaf.text = text_of(leaf.message, leaf.content, leaf.changes)
        if leaf.text is None:
            yield f"{leaf} is not {charset_of(leaf.message) or 'ASCII'}", leaf
        elif squeezed(leaf.text):
            shown.append(leaf)
            lost = {name for name, _ in parameters(leaf.message)} - READ["text"] - lost_parameters(leaf.changes)
            yield from ((f"{leaf} loses {name}", leaf) for name in sorted(lost))
    for file in files:
        if not file.get("is_taken"):
            yield f"{file['filename']} is no part of the message", None
    given = [id(file) for file in files]
    places = [given.index(id(leaf.file)) for leaf in found if leaf.file and leaf.kind not in PARTICULAR]
    if places != sorted(places):
        yield "its files stand in another order", None
    pages = [leaf for leaf in shown if leaf.kind == "text/html"]
    referred = {id(file) for page in pages for file in references(page, found)}
    for leaf in found:
        if leaf.file:
            yield from ((problem, leaf) for problem in id_problems(leaf, id(leaf) in referred))
    yield from shown_problems(shown, pages, found, mail, told)
    yield from untold(shown, found)


def untold(shown, found):
    """What is lost with the place of something, and no note says so."""
    for leaf in shown:
        is_flowed = leaf.kind == "text/plain" and said(leaf.message, "format") == "flowed"
        if is_flowed and not leaf.changes.keys() & {"flowed", "unflowed"}:
            yield f"{leaf} is no longer flowed", leaf
    for leaf in found:
        if leaf.file is None:
            continue
        has_place = leaf.id() or leaf.location() or leaf.message.get_content_disposition() == "inline"
        is_told = leaf.changes.keys() & {"not_in_place", "same_content_id"}
        if has_place and "content_id" not in leaf.file and not is_told:
            yield f"{leaf} is not in its place", leaf
        is_version = leaf.around and leaf.around[-1].get_content_type() == "multipart/alternative"
        if is_version and "version_as_file" not in leaf.changes:
            yield f"{leaf} is a file, not a version", leaf


def is_file(leaf):
    name = leaf.message.get_filename()
    return (leaf.kind not in READABLE or leaf.content is None or leaf.changes.keys() & {"named", "renamed"}
            or leaf.message.get_content_disposition() not in (None, "inline", "")
            or bool(name) and "name_not_shown" not in leaf.changes)


def file_found(leaf, files):
    """The file that the leaf has become, each of them once."""
    free = [file for file in files if not file.get("is_taken")]
    same = [file for file in free if has_octets(leaf, file)]
    if not same:
        yield f"{leaf}", leaf
        return
    leaf.file = same[0]
    leaf.file["is_taken"] = True
    yield from ((problem, leaf) for problem in name_problems(leaf, leaf.file))
    yield from ((problem, leaf) for problem in type_problems(leaf, leaf.file))


def has_octets(leaf, file):
    if file["filename"].lower().endswith(".ics"):
        # A calendar is UTF-8 unless it says otherwise.
        own = {} if charset_of(leaf.message) else {"read_as": ["utf-8"]}
        text = text_of(leaf.message, leaf.content, own | leaf.changes)
        return text is not None and lines(text) == lines(re.sub("\ufffd+", "\ufffd", file["content"]))
    try:
        content = base64.b64decode(file["content"], validate=True).replace(b"\r\n", b"\n")
    except ValueError:
        return False
    if leaf.content is None:
        # A nested message: as Python writes it.
        wanted = "".join(inner.as_string() for inner in leaf.message.get_payload())
        return without_spaces(wanted) == without_spaces(content.decode("utf-8", "surrogateescape"))
    # The line end before a boundary belongs to the boundary; Python may keep it.
    return leaf.content.replace(b"\r\n", b"\n").rstrip(b"\n") == content.rstrip(b"\n")


def lines(text):
    return text.lstrip("\ufeff").replace("\r\n", "\n").rstrip("\n")


def name_problems(leaf, file):
    told = leaf.changes.get("named", []) + leaf.changes.get("renamed", [])
    name = leaf.message.get_filename()
    wanted = {without_spaces(name) for name in told} or {*names_said(leaf.message), without_spaces(decoded(name or ""))}
    if without_spaces(file["filename"]) not in wanted:
        yield f"{leaf} is named {file['filename']!r}, not {sorted(wanted)}"


def names_said(message):
    """Each name that its fields give a file: Python takes one, and does not read raw UTF-8."""
    for field, value in message.raw_items():
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
            yield without_spaces(decoded(said))


def type_problems(leaf, file):
    kind, _, _ = (file.get("content_type") or "").partition(";")
    written = email.message.Message()
    written["Content-Type"] = file.get("content_type") or "text/plain"
    if leaf.changes.keys() & {"type_left_out", "type_of_name"}:
        if kind:
            yield f"{leaf} is {kind}, against its note"
    elif "/" in str(leaf.message.get("Content-Type", "text/plain")) and (kind.lower() or OCTETS) != leaf.kind:
        yield f"{leaf} is {kind}"
    charset = charset_of(leaf.message)
    matters = charset and not kind == "text/calendar" and not says_the_same(leaf.content, charset)
    for name, value in parameters(leaf.message):
        is_read = name in ("name", "boundary") or name == "charset" and not matters
        if not is_read and said(written, name) != value and name not in lost_parameters(leaf.changes):
            yield f"{leaf} loses {name}={value}"


def says_the_same(content, charset):
    """Whether octets say the same without their character set."""
    try:
        return content is None or content.isascii() and content.decode(charset) == content.decode("ascii")
    except (LookupError, UnicodeDecodeError):
        return content.isascii()


def parameters(message):
    return [(name.lower(), said(message, name)) for name, _ in (message.get_params() or [])[1:]
            if name and re.fullmatch(r"[!-~]+", name)]


def said(message, name):
    value = message.get_param(name)
    return email.utils.collapse_rfc2231_value(value).lower() if value is not None else None


def lost_parameters(changes):
    return {name.lower() for some in changes.get("parameters_lost", []) for name in some}


def loss_problems(message, notes, number=""):
    """Parameters and fields of parts that are lost without a note."""
    is_multipart = message.get_content_maintype() == "multipart" and message.is_multipart()
    inner = message.get_payload() if is_multipart else []
    for n, part in enumerate(inner, 1):
        yield from loss_problems(part, notes, f"{number}.{n}" if number else str(n))
    changes = notes[number] if number else notes["content-type"]
    if is_multipart:
        for name, value in parameters(message):
            if name not in READ["multipart"] | lost_parameters(changes):
                yield f"part {number or 'all'} ({message.get_content_type()}) loses {name}={value}"
        is_a_file = message.get_filename() or message.get_content_disposition() not in (None, "inline", "")
        if is_a_file and "dissolved" not in (changes if number else notes[None]):
            yield f"part {number or 'all'} ({message.get_content_type()}) is no file"
    for name in ("content-disposition", "content-id", "content-location"):
        values = {squeezed(str(value)) for value in message.get_all(name, [])}
        told = changes if number else notes[name]
        if len(values) > 1 and not told.keys() & {"part_field_first_only", "first_only"}:
            yield f"part {number or 'all'} has several {name}"
    if number and "part_fields_lost" not in changes and "version_left_out" not in changes:
        told = {name.lower() for name in changes.get("part_field_lost", [])}
        for name in {name.lower().strip() for name in message.keys()} - CARRIED - told:
            if name.startswith("content-"):
                yield f"part {number} loses {name}"


def meant(page, target, is_id, found):
    """The leaf that HTML means: of several the one that is nearest."""
    base = page.location()
    of_it = [leaf for leaf in found if leaf is not page and (
        leaf.id() == target if is_id else
        leaf.location() and urllib.parse.urljoin(base, leaf.location()) == urllib.parse.urljoin(base, target))]
    for group in reversed(page.within("related")):
        near = [leaf for leaf in of_it if group in leaf.around]
        if near:
            return min(near, key=lambda leaf: leaf.within("related")[-1] is not group)
    return next(iter(of_it), None)


def rewritten(page, found, new):
    """The HTML, each reference to a leaf as `new` has it."""
    def by_id(match):
        leaf = meant(page, urllib.parse.unquote(html.unescape(match[1])), True, found)
        return new(leaf, match[0])

    def by_location(match):
        group = next(group for group in range(1, 5) if match[group] is not None)
        target = html.unescape(match[group]).strip()
        leaf = None if target.lower().startswith("cid:") else meant(page, target, False, found)
        start, end = match.span(group)
        return match[0][:start - match.start()] + new(leaf, match[group]) + match[0][end - match.start():]

    return CID.sub(by_id, URL.sub(by_location, page.text))


def references(page, found):
    """The leaves that HTML refers to."""
    met = []
    rewritten(page, found, lambda leaf, as_it_is: met.append(leaf) or as_it_is)
    return [leaf for leaf in met if leaf is not None and leaf.file]


def id_problems(leaf, is_referred):
    given = leaf.file.get("content_id")
    if "new_content_id" in leaf.changes:
        wanted = leaf.changes["new_content_id"][0]
    else:
        wanted = leaf.id() if is_referred else None
    if given != wanted:
        yield f"{leaf} has the Content-ID {given}, not {wanted}"


def shown_problems(shown, pages, found, mail, told):
    """What is shown, each text in its place and nothing else: in the text and in the HTML.
    `told`: what notes say of the message."""
    def new(leaf, as_it_is):
        is_new = leaf is not None and leaf.file and "new_content_id" in leaf.changes
        return f"cid:{leaf.file.get('content_id')}" if is_new else as_it_is

    left_out = {"in_html", "text_left_out"} if pages else set()
    texts = [leaf.text for leaf in shown if leaf.kind == "text/plain" and not leaf.changes.keys() & left_out]
    pieces = []
    for leaf in shown if pages else []:
        if leaf.kind == "text/html":
            pieces.append(rewritten(leaf, found, new))
        elif not any(is_other_version(leaf, page) for page in pages):
            pieces.append(AS_HTML.format(html.escape(leaf.text, quote=False)))
    if not shown and "no_text" in told:
        texts = ["(no text)"]
    if max(len(texts), len(pieces)) > 1 and not told.keys() & {"texts_joined", "versions_joined"}:
        yield "its texts are joined", shown[0]
    for kind, wanted in (("text", texts), ("html", pieces)):
        given, wanted = (squeezed(re.sub("\ufffd+", "\ufffd", one)) for one in (mail.get(kind) or "", " ".join(wanted)))
        if given != wanted:
            yield f"the {kind} is {excerpt(given, wanted)}, not {excerpt(wanted, given)}", next(iter(shown), None)


def is_other_version(leaf, page):
    """Whether an alternative has the leaf in one version and the HTML in another."""
    def version(of, around):
        return [*of.around, of.message][of.around.index(around) + 1]

    both = (around for around in leaf.within("alternative") if around in page.around)
    return any(version(leaf, around) is not version(page, around) for around in both)


def excerpt(text, other):
    """Where it begins to differ."""
    at = next((at for at, (one, two) in enumerate(zip(text, other)) if one != two), min(len(text), len(other)))
    return repr(text[max(0, at - 20):at + 40])
