#!/usr/bin/env python3
"""Stand-ins for Resend and Dodo, written apart from Postmeter's own, that write down all they take.

Resend: POST /emails and /emails/batch. A repeated Idempotency-Key with the same body is answered
with the same ids and sends nothing; with another body, or while the first is under way, 409.
Dodo: one customer with one balance; a ledger entry is applied once for each idempotency_key, and
answered with 409 when it comes again.

One JSON line for each mail and each debit, before it is answered:
  {"t": seconds, "mail": subject, "part": tag, "id": id}    {"t": seconds, "debit": amount, "key": key}
"""

import argparse
import hashlib
import json
import threading
import time
import uuid
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

CREDITS = 10_000_000
# How long Resend takes over a call.
PAUSE_S = 0.3


class Log:
    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def note(self, lines):
        now = time.time()
        self.file.writelines(json.dumps({"t": now, **line}) + "\n" for line in lines)
        self.file.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def answer(self, status, value):
        octets = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def unknown(self):
        print("nobody answers", self.command, self.path, flush=True)
        self.answer(404, {"statusCode": 404, "name": "not_found", "message": "no such path"})


class Resend(Handler):
    log: Log
    lock = threading.Lock()
    known = {}  # (path, key): [digest, answer]; no answer while the call is under way

    def do_GET(self):
        self.unknown()

    def do_POST(self):
        body = self.body()
        if self.path not in ("/emails", "/emails/batch"):
            return self.unknown()
        key, digest = (self.path, self.headers.get("idempotency-key")), hashlib.sha256(body).digest()
        if key[1] is None:
            return self.answer(400, {"statusCode": 400, "name": "invalid_idempotency_key", "message": "none"})
        with self.lock:
            before = self.known.get(key)
            if before is None:
                self.known[key] = [digest, None]
        if before is not None:
            return self.again(before, digest)
        mails = json.loads(body)
        mails = mails if isinstance(mails, list) else [mails]
        time.sleep(PAUSE_S)
        ids = [str(uuid.uuid4()) for _ in mails]
        with self.lock:
            self.log.note({"mail": mail.get("subject"), "part": tag(mail), "id": id}
                          for mail, id in zip(mails, ids))
            data = [{"id": id} for id in ids]
            self.known[key][1] = {"data": data} if self.path.endswith("batch") else data[0]
        self.answer(200, self.known[key][1])

    def again(self, before, digest):
        if before[0] != digest:
            name = "invalid_idempotent_request"
        elif before[1] is None:
            name = "concurrent_idempotent_requests"
        else:
            return self.answer(200, before[1])
        self.answer(409, {"statusCode": 409, "name": name, "message": "the key was used"})


def tag(mail):
    return next((one["value"] for one in mail.get("tags") or [] if one["name"] == "postmeter"), None)


class Dodo(Handler):
    log: Log
    lock = threading.Lock()
    lines = []
    keys = set()
    balance = CREDITS

    def do_GET(self):
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        query = parse_qs(url.query)
        if parts[0] == "credit-entitlements" and parts[-1] == "balances":
            whose = query.get("customer_id", ["cus_cluster"])[0]
            with self.lock:
                balance = {"customer_id": whose, "balance": str(Dodo.balance), "overage": "0"}
            return self.answer(200, {"items": [balance] if whose == "cus_cluster" else []})
        if parts[0] == "credit-entitlements" and parts[-1] == "ledger":
            size = int(query.get("page_size", ["100"])[0])
            first = int(query.get("page_number", ["0"])[0]) * size
            with self.lock:
                return self.answer(200, {"items": self.lines[first:first + size]})
        self.unknown()

    def do_POST(self):
        entry = json.loads(self.body() or b"{}")
        if not self.path.endswith("/ledger-entries"):
            return self.unknown()
        key, amount = entry["idempotency_key"], int(entry["amount"])
        with self.lock:
            if key in self.keys:
                return self.answer(409, {"code": "IDEMPOTENCY_KEY_USED", "message": "the key was used"})
            self.keys.add(key)
            before = Dodo.balance
            Dodo.balance -= amount
            self.log.note([{"debit": amount, "key": key}])
            line = {
                "id": f"cdl_{len(self.lines)}", "is_credit": False, "amount": str(amount),
                "balance_before": str(before), "balance_after": str(Dodo.balance),
                "transaction_type": "manual_adjustment", "description": entry.get("reason"),
                "created_at": datetime.now(timezone.utc).isoformat().replace("+00:00", "Z"),
            }
            self.lines.append(line)
        self.answer(200, line)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    arguments = argparse.ArgumentParser()
    for name in ("--dodo", "--resend", "--log"):
        arguments.add_argument(name, required=True)
    given = arguments.parse_args()
    Resend.log = Dodo.log = Log(given.log)
    threads = []
    for handler, address in ((Dodo, given.dodo), (Resend, given.resend)):
        host, port = address.rsplit(":", 1)
        threads.append(threading.Thread(target=Server((host, int(port)), handler).serve_forever))
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
