"""Reads a bounce on stdin with Python's email package, and says what is in it as JSON."""

import json
import sys
from email import message_from_binary_file, message_from_string, policy

bounce = message_from_binary_file(sys.stdin.buffer, policy=policy.default)
parts = list(bounce.iter_parts())
status = parts[1]
groups = [{name: str(value) for name, value in group.items()} for group in status.get_payload()]
third = parts[2] if len(parts) > 2 else None
explanation, *beside = parts[0].iter_parts() if parts[0].is_multipart() else [parts[0]]
whole = third.get_content() if third and third.get_content_type() == "message/rfc822" else None
original = whole or (message_from_string(third.get_content(), policy=policy.default) if third else None)
defects = [str(defect) for part in bounce.walk() for defect in part.defects]

print(json.dumps({
    "type": bounce.get_content_type(),
    "report_type": bounce.get_param("report-type"),
    "subject": str(bounce["Subject"]),
    "to": [address.addr_spec for address in bounce["To"].addresses],
    "from": [address.addr_spec for address in bounce["From"].addresses],
    "thread": [str(bounce["In-Reply-To"]), str(bounce["References"])],
    "auto_submitted": str(bounce["Auto-Submitted"]),
    "has_date": bounce["Date"].datetime is not None,
    "parts": [part.get_content_type() for part in parts],
    "text": explanation.get_content(),
    "groups": groups,
    "original": {name: str(value) for name, value in original.items()} if original else None,
    "body": whole.get_content().replace("\r\n", "\n") if whole else None,
    "files": {part.get_filename(): part.get_content().decode("latin-1") for part in beside},
    "defects": defects,
}))
