"""Sends one letter with Python's smtplib, as its documentation shows it.

Usage: smtplib_send.py starttls|tls PORT CA_FILE USERNAME SECRET FROM TO BCC SUBJECT TEXT
Prints the conversation, the server's replies in it.
"""

import smtplib
import ssl
import sys
from email.message import EmailMessage

mode, port, ca_file, username, secret, sender, to, bcc, subject, text = sys.argv[1:]

letter = EmailMessage()
letter["From"] = sender
letter["To"] = to
letter["Bcc"] = bcc
letter["Subject"] = subject
letter.set_content(text)

context = ssl.create_default_context(cafile=ca_file)
if mode == "tls":
    server = smtplib.SMTP_SSL("127.0.0.1", int(port), context=context)
else:
    server = smtplib.SMTP("127.0.0.1", int(port))
with server:
    if mode == "starttls":
        server.starttls(context=context)
    server.login(username, secret)
    server.set_debuglevel(1)
    refused = server.send_message(letter)
    assert refused == {}, refused
