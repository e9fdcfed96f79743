#!/usr/bin/env python3
"""Clients that queue: they send over several servers at a steady rate, keep what is refused or not
answered, and try it again a little later at the next server, until SIGTERM; then only what is kept.

A line of --out for each try, written when it ended:
  {"mail", "try", "node", "from": seconds, "t": seconds, "code": 250 | 452 | … | "connect" | "lost", "stage", "text"}
and one whenever what a server says on /readyz changed:
  {"readyz": status, "node", "t"}
"lost" is a connection that ended before the answer to the final dot: nobody knows.
"""

import argparse
import heapq
import http.client
import json
import signal
import smtplib
import ssl
import threading
import time

# Longest wait for any answer: shorter than any client's, longer than any fault here.
ANSWER_S = 120
# Between a refusal and the next try of that mail.
RETRY_S = 2.0
# Of a client that was refused, before it does anything else.
BREATH_S = 0.2
# How long what is kept may still take after the end.
LAST_S = 120
FILLING = "This line is one of many that a mail has, and says nothing at all.\r\n" * 28


class Load:
    def __init__(self, given):
        self.given = given
        self.lock = threading.Lock()
        self.out = open(given.out, "a", encoding="utf-8")
        self.kept = [[] for _ in given.nodes]  # by the node that is to be tried: heaps of (due, mail, tries)
        self.made = 0
        self.unaccepted = 0
        self.next_at = time.time()
        self.over = threading.Event()

    def note(self, **line):
        with self.lock:
            self.out.write(json.dumps(line) + "\n")
            self.out.flush()

    def keep(self, mail, tries, tried):
        with self.lock:
            heapq.heappush(self.kept[(tried + 1) % len(self.kept)], (time.time() + RETRY_S, mail, tries))

    def job(self, node):
        """A mail that is due here, or a new one when it is time for one: (mail, tries)."""
        with self.lock:
            now, kept = time.time(), self.kept[node]
            if kept and kept[0][0] <= now:
                return heapq.heappop(kept)[1:]
            if self.over.is_set() or now < self.next_at:
                return None
            # What could not be sent meanwhile is not made up for.
            self.next_at = max(self.next_at + 1 / self.given.rate, now - 1)
            self.made += 1
            self.unaccepted += 1
            return f"{self.given.name}-{self.made:06}", 0

    def accepted(self):
        with self.lock:
            self.unaccepted -= 1

    def client(self, node):
        smtp, until = None, None
        while True:
            if self.over.is_set():
                until = until or time.time() + LAST_S
                with self.lock:
                    if self.unaccepted == 0 or time.time() > until:
                        return
            job = self.job(node)
            if job is None:
                time.sleep(0.01)
                continue
            smtp = self.attempt(smtp, node, *job)

    def attempt(self, smtp, node, mail, tries):
        """The session, if it can be used again."""
        begun, stage, code, text = time.time(), "connect", "connect", ""
        try:
            smtp = smtp or self.connect(node)
            for stage, command in (("mail", "MAIL FROM:<ann@example.com>"), ("rcpt", "RCPT TO:<bob@example.net>"),
                                   ("data", "DATA"), ("dot", None)):
                if command is None:
                    smtp.send(letter(mail, tries) + b".\r\n")
                    code = "lost"
                    code, text = smtp.getreply()
                else:
                    code, text = smtp.docmd(command)
                if code >= 400:
                    break
            if code >= 400 and smtp.docmd("RSET")[0] != 250:
                smtp = drop(smtp)
        except smtplib.SMTPResponseException as error:
            code, text, smtp = error.smtp_code, error.smtp_error, drop(smtp)
        except (OSError, smtplib.SMTPException) as error:
            if not isinstance(code, int) or code < 400:
                code, text = "lost" if stage == "dot" else "connect", str(error).encode()
            smtp = drop(smtp)
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        self.note(mail=mail, node=node, stage=stage, code=code, text=text, t=time.time(), **{"from": begun, "try": tries})
        if code == 250:
            self.accepted()
        else:
            self.keep(mail, tries + 1, node)
            time.sleep(BREATH_S)
        return smtp

    def connect(self, node):
        host, port = self.given.nodes[node].rsplit(":", 1)
        context = ssl.create_default_context(cafile=self.given.ca)
        smtp = smtplib.SMTP_SSL(host, int(port), "client.example", timeout=ANSWER_S, context=context)
        smtp.ehlo_or_helo_if_needed()
        smtp.login(self.given.credential["username"], self.given.credential["secret"])
        return smtp

    def watch(self, node):
        """Notes what /readyz says, each time it is another thing."""
        host, last = self.given.nodes[node].rsplit(":", 1)[0], None
        while True:
            try:
                asked = http.client.HTTPConnection(host, 3000, timeout=5)
                asked.request("GET", "/readyz")
                status = asked.getresponse().status
                asked.close()
            except OSError:
                status = 0
            if status != last:
                self.note(readyz=status, node=node, t=time.time())
                last = status
            time.sleep(0.1)


def drop(smtp):
    if smtp is not None:
        smtp.close()


def letter(mail, tries):
    return (f"From: ann@example.com\r\nTo: bob@example.net\r\nSubject: {mail} {tries}\r\n"
            f"Message-ID: <{mail}.{tries}@example.com>\r\n\r\n{FILLING}").encode()


def main():
    arguments = argparse.ArgumentParser()
    for name in ("--name", "--out", "--ca", "--credential"):
        arguments.add_argument(name, required=True)
    arguments.add_argument("--nodes", required=True, type=lambda text: text.split(","))
    arguments.add_argument("--connections", type=int, default=8)
    arguments.add_argument("--rate", type=float, default=50)
    given = arguments.parse_args()
    with open(given.credential, encoding="utf-8") as file:
        given.credential = json.load(file)
    load = Load(given)
    signal.signal(signal.SIGTERM, lambda *_: load.over.set())
    for node in range(len(given.nodes)):
        threading.Thread(target=load.watch, args=(node,), daemon=True).start()
    clients = [threading.Thread(target=load.client, args=(n % len(given.nodes),)) for n in range(given.connections)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


if __name__ == "__main__":
    main()
