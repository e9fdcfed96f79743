#!/usr/bin/env python3
"""Fetches the public mail that packages bring with them, for judge.py.

    public.py DIR

Needs a Debian or its like, pip and cargo; no root, and nothing is installed. Every message lies
in DIR/mail/PACKAGE afterwards, those of a mailbox file one by one. What a registry does not have
is said and left out; what is there from before is not fetched again.
"""
import pathlib
import re
import subprocess
import sys

# Suites whose packages are named below; their sources are read with lists of our own.
SUITE = "bookworm"
SOURCES = """Types: deb-src
URIs: http://deb.debian.org/debian
Suites: {suite}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
BINARIES = ["libpython3.11-testsuite", "spamassassin", "python3-dkim"]
DEBIAN_SOURCES = ["notmuch", "kf5-messagelib", "kmime", "gmime", "rspamd"]
PYTHON = {"flufl.bounce": "6.0.0"}
CRATES = {"mail-parser": "1.0.1", "mail-auth": "0.15.1", "lettre": "0.11.23"}
MANIFEST = "[package]\nname = \"corpora\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[lib]\npath = \"lib.rs\"\n[dependencies]\n"

# A message says two things at least that nothing else says.
FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
SAID = {b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"received", b"mime-version", b"content-type"}
MAX_OCTETS = 8 << 20


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = pathlib.Path(sys.argv[1]).resolve()
    fetched = directory / "fetched"
    for fetch in (binaries, sources, python, crates):
        fetch(fetched)
    for package in sorted(path for path in fetched.glob("*/*") if (path / "unpacked").is_dir()):
        found = list(messages(package / "unpacked"))
        into = directory / "mail" / package.name
        into.mkdir(parents=True, exist_ok=True)
        for name, octets in found:
            (into / name).write_bytes(octets)
        print(f"{package.name}: {len(found)} messages")


def run(into, *command):
    """Whether it was done; told if not."""
    done = subprocess.run(command, cwd=into, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"note: {' '.join(command)}: {done.stderr.strip()[-300:]}", file=sys.stderr)
    return done.returncode == 0


def fresh(fetched, registry, package):
    """A folder for what is not there yet, and the one that it is unpacked to."""
    into = fetched / registry / package
    unpacked = into / "unpacked"
    if unpacked.is_dir():
        return None
    into.mkdir(parents=True, exist_ok=True)
    return into, unpacked


def each_fresh(fetched, registry, packages):
    found = ((package, fresh(fetched, registry, package)) for package in packages)
    return [(package, *folders) for package, folders in found if folders]


def binaries(fetched):
    for package, into, unpacked in each_fresh(fetched, "deb", BINARIES):
        if run(into, "apt-get", "download", package):
            for archive in into.glob("*.deb"):
                run(into, "dpkg-deb", "-x", archive.name, unpacked.name)


def sources(fetched):
    wanted = each_fresh(fetched, "source", DEBIAN_SOURCES)
    lists = fetched / "apt"
    (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (lists / "ours.sources").write_text(SOURCES.format(suite=SUITE))
    ours = ["-o", f"Dir::Etc::sourcelist={lists}/ours.sources", "-o", "Dir::Etc::sourceparts=/dev/null",
            "-o", f"Dir::State::lists={lists}/lists"]
    if not wanted or not run(lists, "apt-get", *ours, "update"):
        return
    for package, into, unpacked in wanted:
        if run(into, "apt-get", *ours, "source", "--download-only", package):
            unpack(into, into.glob("*.orig.tar.*[!c]"), unpacked)


def python(fetched):
    for package, into, unpacked in each_fresh(fetched, "pip", PYTHON):
        if run(into, sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:",
               f"{package}=={PYTHON[package]}"):
            unpack(into, into.glob("*.tar.gz"), unpacked)


def crates(fetched):
    for package, into, unpacked in each_fresh(fetched, "cargo", CRATES):
        (into / "lib.rs").touch()
        (into / "Cargo.toml").write_text(f"{MANIFEST}{package} = \"={CRATES[package]}\"\n")
        if run(into, "cargo", "vendor", "--quiet", "vendored"):
            (into / "vendored" / package).rename(unpacked)


def unpack(into, archives, unpacked):
    for archive in archives:
        unpacked.mkdir(exist_ok=True)
        run(into, "tar", "-xf", archive.name, "-C", unpacked.name)


def messages(directory):
    """(file name, octets) of every message below."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    for path in (path for path in paths if path.stat().st_size <= MAX_OCTETS):
        octets = path.read_bytes()
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", str(path.relative_to(directory)))
        found = [one for one in apart(octets) if is_message(one) or path.suffix == ".eml"]
        for number, one in enumerate(found):
            yield (f"{name}.eml" if len(found) == 1 else f"{name}.{number}.eml"), one


def apart(octets):
    """The messages of a mailbox file, or the file."""
    if not octets.startswith(b"From "):
        return [octets]
    starts = [0] + [found.start() + 2 for found in re.finditer(rb"\n\nFrom \S+.* \d\d:\d\d.*\n", octets)]
    return [octets[start:end] for start, end in zip(starts, starts[1:] + [len(octets)])]


def is_message(octets):
    lines = re.split(rb"\r?\n\r?\n", octets, maxsplit=1)[0].splitlines()
    if lines and lines[0].startswith(b"From "):
        lines = lines[1:]
    fields = [line for line in lines if not line.startswith((b" ", b"\t"))]
    if not fields or not all(FIELD.match(field) for field in fields):
        return False
    names = {field.partition(b":")[0].strip().lower() for field in fields}
    return len(names & SAID) >= 2


if __name__ == "__main__":
    main()
