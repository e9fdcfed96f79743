"""Texts and octets of a message's parts, as Python reads them, for judge.py."""
import base64
import re

# Character sets under another name, or read as readers of mail do.
WEB = {"iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "iso8859-1": "cp1252",
       "us-ascii": "ascii", "gb2312": "gb18030", "gbk": "gb18030", "ks_c_5601-1987": "cp949", "euc-kr": "cp949",
       "windows-949": "cp949",
       "shift_jis": "cp932", "windows-31j": "cp932", "tis-620": "cp874", "iso-8859-11": "cp874",
       "iso-8859-9": "cp1254", "x-sjis": "cp932", "iso-8859-8-i": "iso-8859-8", "x-gbk": "gb18030"}


def squeezed(text):
    return re.sub(r"\s+", " ", text.replace("\0", " ")).strip()


def without_spaces(text):
    return re.sub(r"\s+", "", text)


def octets(leaf):
    """The decoded octets of a leaf; `None`: a nested message that Python took apart."""
    encoding = str(leaf.get("Content-Transfer-Encoding", "")).split()
    if leaf.get_content_maintype() == "message" and encoding and encoding[0].lower() == "base64":
        # It may not be, and Python looks for a message in the text of Base64.
        return base64.b64decode("".join(inner.as_string() for inner in leaf.get_payload()))
    if leaf.is_multipart():
        return None
    if encoding:
        # Python does not look beyond a comment.
        leaf.replace_header("Content-Transfer-Encoding", encoding[0].rstrip(";"))
    if encoding and encoding[0].lower() == "base64":
        return from_base64(leaf.get_payload())
    return leaf.get_payload(decode=True) or b""


def from_base64(text):
    """Also where several were put one after another, at whose padding Python ends."""
    pieces = re.sub(r"[^A-Za-z0-9+/=]", "", text).split("=")
    # A single letter more than whole groups says nothing.
    pieces = (piece[:-1] if len(piece) % 4 == 1 else piece for piece in pieces)
    return b"".join(base64.b64decode(piece + "=" * (-len(piece) % 4)) for piece in pieces)


def charset_of(leaf):
    return ((leaf.get_content_charset() or "").split() or [""])[0].strip('"').lower()


def text_of(leaf, content, changes):
    """The text of a leaf; `None`: it cannot be read so, and no note says that it was read otherwise."""
    meta = re.search(rb"<meta[^>]*charset=[\"']?([\w-]+)", content[:1024], re.IGNORECASE)
    own = meta[1].decode().lower() if meta and leaf.get_content_type() == "text/html" else "us-ascii"
    charset = changes.get("read_as", [charset_of(leaf) or own])[0].lower()
    marks = "replace" if "replaced" in changes else "strict"
    try:
        text = content.decode(WEB.get(charset, charset), marks)
    except LookupError:
        text = content.decode("utf-8", marks) if content.isascii() or "replaced" in changes else None
    except (UnicodeDecodeError, ValueError):
        return None
    if text is not None and "replaced" in changes:
        text = text.replace("\0", "\ufffd")
    text = text and re.sub("\ufffd+", "\ufffd", text.lstrip("\ufeff"))
    return unflowed(text) if text and "unflowed" in changes else text


def unflowed(text):
    """The paragraphs of format=flowed with DelSp (RFC 3676)."""
    paragraphs, depth_before = [], None
    for line in text.replace("\r\n", "\n").split("\n"):
        said = line.lstrip(">")
        depth = len(line) - len(said)
        said = said.removeprefix(" ")
        is_open = said.endswith(" ") and said != "-- "
        said = said[:-1] if is_open else said
        if depth == depth_before and said != "-- ":
            paragraphs[-1] += said
        else:
            paragraphs.append(">" * depth + " " + said)
        depth_before = depth if is_open else None
    return "\n".join(paragraphs)
