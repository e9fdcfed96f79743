#!/usr/bin/env python3
"""Reads what clients, stand-ins and PostgreSQL wrote down during one scenario, and judges it.

Prints the figures as a line of JSON, appended to --results; `judge.py --table FILE` makes the
table of all of them, and exits 1 if anything was lost, sent twice or debited wrongly.
"""

import argparse
import bisect
import collections
import glob
import json
import re
import sys
from datetime import datetime, timezone

PROMOTED = re.compile(r"^(\S+ \S+) UTC \[\d+\] LOG:  database system is ready to accept connections$")


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def promotion(logs, since, until):
    """When a PostgreSQL began to take writes in that time, the first if several did."""
    found = []
    for path in glob.glob(logs):
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if match := PROMOTED.match(line.rstrip()):
                    at = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc).timestamp()
                    if since <= at <= until:
                        found.append(at)
    return min(found, default=None)


def gap(times, since):
    """The longest time between two of these, of which the second is later than that: (length, begin)."""
    times = times[max(bisect.bisect(times, since) - 1, 0):]
    return max(((after - before, before) for before, after in zip(times, times[1:])), default=(0, None))


def first_after(times, moment):
    return next((at - moment for at in times if at >= moment), None) if moment else None


def judge(given):
    tries = [line for line in read(given.events) if "mail" in line]
    ready = [line for line in read(given.events) if "readyz" in line]
    upstream = read(given.upstream)
    since, until = given.fault, max(line["t"] for line in tries)
    accepted = sorted((line for line in tries if line["code"] == 250), key=lambda line: line["t"])
    times = [line["t"] for line in accepted]
    promoted = promotion(given.logs, since, until)
    sent = collections.defaultdict(list)
    for line in upstream:
        if (line.get("mail") or "").startswith(given.name + "-"):
            sent[line["mail"]].append(line["t"])
    by_mail = collections.Counter(subject.split(" ")[0] for subject, at in sent.items() for _ in at)
    acknowledged = {f"{line['mail']} {line['try']}" for line in accepted}
    parts = collections.Counter(line["part"] for line in upstream if "part" in line)
    refused = collections.Counter(str(line["code"]) for line in tries if line["code"] != 250)
    longest, begun = gap(times, since)
    result = {
        "scenario": given.name, "way": given.way,
        "gap": longest, "gap_begins": begun and begun - since,
        "promoted": promoted and promoted - since, "after_promotion": first_after(times, promoted),
        "sent_after_promotion": first_after(sorted(at for times in sent.values() for at in times), promoted),
        "longest_wait": max((line["t"] - line["from"] for line in tries), default=0),
        "acknowledged": len(acknowledged), "refused": dict(refused),
        "given_up": len({line["mail"] for line in tries} - {line["mail"] for line in accepted}),
        "lost": len(acknowledged - sent.keys()),
        "twice": sum(1 for count in by_mail.values() if count > 1),
        # Of those: refused or not answered, and sent all the same.
        "unasked": sum(1 for subject in sent if subject not in acknowledged),
        "same_part_twice": sum(1 for count in parts.values() if count > 1),
        "off": sum(line.get("debit", 0) for line in upstream) + given.owed - len(parts),
        "audit": given.audit,
        "nodes": {str(node): of_node(node, tries, ready, sent, since) for node in sorted({line["node"] for line in tries})},
    }
    with open(given.results, "a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1))


def of_node(node, tries, ready, sent, since):
    """How one server fared: the longest time without a 250 of its own, when it was not ready, and
    when the last mail left that it had acknowledged before the fault."""
    mine = sorted((line for line in tries if line["node"] == node and line["code"] == 250), key=lambda line: line["t"])
    before = [sent.get(f"{line['mail']} {line['try']}") for line in mine if line["t"] < since]
    left = [at[0] for at in before if at]
    states = [[round(line["t"] - since, 1), line["readyz"]] for line in ready if line["node"] == node]
    longest, begun = gap([line["t"] for line in mine], since)
    return {"gap": longest, "gap_begins": begun and begun - since, "readyz": states,
            "last_of_before": max(left, default=since) - since,
            "refused": collections.Counter(str(line["code"]) for line in tries if line["node"] == node and line["code"] != 250)}


def seconds(value):
    return "–" if value is None else f"{value:.1f} s"


def table(path):
    head = ["scenario", "way", "longest gap", "new primary after", "250 after that", "sent after that", "acknowledged",
            "refused", "lost", "twice", "debits off", "audit"]
    rows, bad = [], 0
    for one in read(path):
        refused = ", ".join(f"{count} × {code}" for code, count in sorted(one["refused"].items())) or "none"
        bad += any(one[name] for name in ("lost", "twice", "same_part_twice", "off", "audit", "given_up"))
        # Sending again within 15 s of the new primary is what is promised.
        bad += any((one[name] or 0) > 15 for name in ("after_promotion", "sent_after_promotion"))
        rows.append([one["scenario"].removesuffix("-" + one["way"]), one["way"], seconds(one["gap"]), seconds(one["promoted"]),
                     seconds(one["after_promotion"]), seconds(one["sent_after_promotion"]), one["acknowledged"], refused, one["lost"], one["twice"],
                     one["off"], "ok" if one["audit"] == 0 else "FAILED"])
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    return 1 if bad or not rows else 0


def main():
    if sys.argv[1] == "--table":
        sys.exit(table(sys.argv[2]))
    arguments = argparse.ArgumentParser()
    for name in ("--name", "--way", "--events", "--upstream", "--logs", "--results"):
        arguments.add_argument(name, required=True)
    arguments.add_argument("--fault", type=float, required=True)
    arguments.add_argument("--owed", type=int, required=True)
    arguments.add_argument("--audit", type=int, required=True)
    judge(arguments.parse_args())


if __name__ == "__main__":
    main()
