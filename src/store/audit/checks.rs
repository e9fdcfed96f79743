//! What must hold of the rows, one statement each. Every one derives its truth from the
//! finer rows (messages, captures, entries) and never from the sum that it checks.

/// One check: a statement that returns the key of every row of `table` with this
/// problem, and where sums disagree, by how many credits.
pub(super) struct Check {
    pub(super) table: &'static str,
    pub(super) problem: &'static str,
    pub(super) offenders: &'static str,
    pub(super) is_of_sums: bool,
}

const fn check(table: &'static str, problem: &'static str, offenders: &'static str) -> Check {
    Check { table, problem, offenders, is_of_sums: false }
}

/// A check whose statement also returns by how many credits a row is wrong.
const fn sums(table: &'static str, problem: &'static str, offenders: &'static str) -> Check {
    Check { table, problem, offenders, is_of_sums: true }
}

/// All of them.
pub(super) const CHECKS: &[Check] = &[
    sums(
        "account",
        "held is not the sum of what its messages still hold",
        "SELECT a.customer_id, abs(a.held - coalesce(m.held, 0)) FROM account a LEFT JOIN
            (SELECT customer_id, CAST(sum(price - captured - released) AS BIGINT) AS held FROM message
             GROUP BY customer_id) m
            ON m.customer_id = a.customer_id WHERE a.held <> coalesce(m.held, 0)",
    ),
    sums(
        "account",
        // That each entry is the sum of its captures, and covers none twice, is checked below.
        "owed is not the sum of its captures that no entry has settled",
        "SELECT a.customer_id, abs(a.owed - coalesce(c.amount, 0) + coalesce(e.amount, 0)) FROM account a
         LEFT JOIN (SELECT customer_id, CAST(sum(amount) AS BIGINT) AS amount FROM capture
                    GROUP BY customer_id) c
            ON c.customer_id = a.customer_id
         LEFT JOIN (SELECT customer_id, CAST(sum(amount - closed) AS BIGINT) AS amount FROM entry
                    WHERE state = 'done' AND kind = 'debit' GROUP BY customer_id) e
            ON e.customer_id = a.customer_id
         WHERE a.owed <> coalesce(c.amount, 0) - coalesce(e.amount, 0)",
    ),
    check(
        "account",
        "last_capture is not the number of its last capture",
        "SELECT a.customer_id FROM account a WHERE a.last_capture <>
            (SELECT coalesce(max(c.number), a.closed_capture) FROM capture c WHERE c.customer_id = a.customer_id)",
    ),
    check(
        "account",
        // Entries that the operator decided outlive later ones.
        "last_entered is not the last capture that an open or done entry covers",
        "SELECT a.customer_id FROM account a WHERE a.last_entered <>
            (SELECT max(coalesce(max(e.last_capture), 0), a.closed_capture) FROM entry e
             WHERE e.customer_id = a.customer_id AND e.state IN ('open', 'done') AND e.kind = 'debit')",
    ),
    sums(
        "account",
        // What messages say was captured and what entries say was settled, of the rows that have left.
        "what has left it does not add up",
        "SELECT a.customer_id, abs(a.closed_captured + coalesce(m.closed, 0) - a.closed_settled - coalesce(e.closed, 0))
         FROM account a
         LEFT JOIN (SELECT customer_id, CAST(sum(closed) AS BIGINT) AS closed FROM message WHERE closed > 0
                    GROUP BY customer_id) m
            ON m.customer_id = a.customer_id
         LEFT JOIN (SELECT customer_id, CAST(sum(closed) AS BIGINT) AS closed FROM entry
                    WHERE state <> 'void' AND kind = 'debit' GROUP BY customer_id) e
            ON e.customer_id = a.customer_id
         WHERE a.closed_captured + coalesce(m.closed, 0) <> a.closed_settled + coalesce(e.closed, 0)",
    ),
    check(
        "account",
        "what has left it cannot be",
        "SELECT customer_id FROM account
         WHERE closed_price < 0 OR closed_captured < 0 OR closed_released < 0
            OR closed_capture > last_entered OR (closed_capture = 0 AND closed_settled <> 0)",
    ),
    sums(
        "account",
        // What refunds say was given back and what credit entries say, of the rows that have left.
        "what was given back and has left it does not add up",
        "SELECT a.customer_id, abs(a.closed_refunded - a.closed_credited - coalesce(e.closed, 0)) FROM account a
         LEFT JOIN (SELECT customer_id, CAST(sum(closed) AS BIGINT) AS closed FROM entry WHERE kind = 'credit'
                    GROUP BY customer_id) e ON e.customer_id = a.customer_id
         WHERE a.closed_refunded <> a.closed_credited + coalesce(e.closed, 0)",
    ),
    check(
        "account",
        "it belongs to no customer, or a count of it is impossible",
        "SELECT a.customer_id FROM account a LEFT JOIN customer c ON c.customer_id = a.customer_id
         WHERE c.customer_id IS NULL OR a.held < 0 OR a.owed < 0 OR a.version < 0
            OR (a.balance IS NULL) <> (a.balance_read_at IS NULL)",
    ),
    sums(
        "account",
        "its closed totals are not price = captured + released",
        "SELECT customer_id, abs(closed_price - closed_captured - closed_released) FROM account
         WHERE closed_price <> closed_captured + closed_released",
    ),
    check(
        "account",
        "its version has moved less often than its entries",
        "SELECT a.customer_id FROM account a WHERE a.version <
            (SELECT count(*) + count(e.closed_at) FROM entry e WHERE e.customer_id = a.customer_id)",
    ),
    check(
        "customer",
        "it has no account, or its id is empty",
        "SELECT c.customer_id FROM customer c LEFT JOIN account a ON a.customer_id = c.customer_id
         WHERE a.customer_id IS NULL OR c.customer_id = ''",
    ),
    check(
        "credential",
        "it belongs to no customer, or its hash is not 32 octets",
        "SELECT k.username FROM credential k LEFT JOIN customer c ON c.customer_id = k.customer_id
         WHERE c.customer_id IS NULL OR length(k.secret_hash) <> 32 OR k.username = ''",
    ),
    check(
        "sender",
        "it belongs to no customer, or its pattern is empty",
        "SELECT s.customer_id || ' ' || s.pattern FROM sender s
         LEFT JOIN customer c ON c.customer_id = s.customer_id WHERE c.customer_id IS NULL OR s.pattern = ''",
    ),
    check(
        "sender",
        "it came from a proof that is not there",
        "SELECT s.customer_id || ' ' || s.pattern FROM sender s
         LEFT JOIN proof p ON p.customer_id = s.customer_id AND p.domain = s.pattern AND p.state = 'verified'
         WHERE s.origin = 'proof' AND p.customer_id IS NULL",
    ),
    check(
        "proof",
        "it belongs to no customer, it gives its customer no sender, or the domain is another's too",
        "SELECT p.customer_id || ' ' || p.domain FROM proof p
         LEFT JOIN customer c ON c.customer_id = p.customer_id
         LEFT JOIN sender s ON s.customer_id = p.customer_id AND s.pattern = p.domain
         WHERE c.customer_id IS NULL OR (p.state = 'verified' AND (s.pattern IS NULL OR p.verified_at IS NULL))
            OR (p.state = 'verified' AND EXISTS (SELECT 1 FROM proof o WHERE o.domain = p.domain
                AND o.customer_id <> p.customer_id AND o.state = 'verified'))",
    ),
    check(
        "message",
        "it belongs to no account",
        "SELECT m.message_id FROM message m LEFT JOIN account a ON a.customer_id = m.customer_id
         WHERE a.customer_id IS NULL",
    ),
    sums(
        "message",
        "its price is not what its unit and kind make it",
        "SELECT message_id, abs(price - due) FROM
            (SELECT m.message_id, m.price, CASE
                WHEN m.kind <> 'submission' THEN 0 WHEN m.unit = 'message' THEN 1
                ELSE (SELECT count(*) FROM recipient r WHERE r.message_id = m.message_id) END AS due
             FROM message m) d
         WHERE price <> due",
    ),
    sums(
        "message",
        "more is captured and released than its price, or it is final and holds something",
        "SELECT message_id, abs(price - captured - released) FROM message
         WHERE captured < 0 OR released < 0 OR captured + released > price
            OR (final_at IS NOT NULL AND captured + released <> price)",
    ),
    check(
        "message",
        "it has no part",
        "SELECT m.message_id FROM message m
         WHERE NOT EXISTS (SELECT 1 FROM part p WHERE p.message_id = m.message_id)",
    ),
    sums(
        "message",
        "captured is not the sum of its captures",
        "SELECT m.message_id, abs(m.captured - coalesce(c.amount, 0) - m.closed) FROM message m LEFT JOIN
            (SELECT message_id, CAST(sum(amount) AS BIGINT) AS amount FROM capture GROUP BY message_id) c
            ON c.message_id = m.message_id WHERE m.captured <> coalesce(c.amount, 0) + m.closed",
    ),
    sums(
        "message",
        "captured and released are not what became of its recipients",
        "SELECT m.message_id, CASE m.unit
            WHEN 'recipient' THEN abs(m.captured - r.sent + coalesce(b.amount, 0))
                                + abs(m.released - r.failed - coalesce(b.amount, 0))
            ELSE abs(m.captured - CASE WHEN r.sent > 0 THEN 1 ELSE 0 END + coalesce(b.amount, 0))
               + abs(m.released - CASE WHEN r.sent = 0 AND r.queued = 0 THEN 1 ELSE 0 END
                     - coalesce(b.amount, 0)) END
         FROM message m JOIN
            (SELECT message_id, count(*) FILTER (WHERE state = 'sent') AS sent,
                    count(*) FILTER (WHERE state = 'failed') AS failed,
                    count(*) FILTER (WHERE state = 'queued') AS queued FROM recipient GROUP BY message_id) r
            ON r.message_id = m.message_id
         LEFT JOIN (SELECT message_id, CAST(sum(amount) AS BIGINT) AS amount FROM refund
                    WHERE state = 'released'
                    GROUP BY message_id) b ON b.message_id = m.message_id
         WHERE m.kind = 'submission' AND CASE m.unit
            WHEN 'recipient' THEN m.captured <> r.sent - coalesce(b.amount, 0)
                               OR m.released <> r.failed + coalesce(b.amount, 0)
            ELSE m.captured <> CASE WHEN r.sent > 0 THEN 1 ELSE 0 END - coalesce(b.amount, 0)
              OR m.released <> CASE WHEN r.sent = 0 AND r.queued = 0 THEN 1 ELSE 0 END
                              + coalesce(b.amount, 0) END",
    ),
    check(
        "message",
        "it is final and a recipient is not, or the other way round",
        "SELECT m.message_id FROM message m WHERE (m.final_at IS NULL) <> EXISTS
            (SELECT 1 FROM recipient r WHERE r.message_id = m.message_id AND r.state = 'queued')",
    ),
    check(
        "part",
        "it belongs to no message, has no recipient, or is another customer's than its message",
        "SELECT p.message_id || '-' || p.part_no FROM part p
         LEFT JOIN message m ON m.message_id = p.message_id
         WHERE m.message_id IS NULL OR p.customer_id <> m.customer_id OR NOT EXISTS (SELECT 1 FROM recipient r
            WHERE r.message_id = p.message_id AND r.part_no = p.part_no)",
    ),
    check(
        "part",
        "its state is not that of its recipients",
        "SELECT p.message_id || '-' || p.part_no FROM part p JOIN
            (SELECT message_id, part_no, count(*) FILTER (WHERE state = 'sent') AS sent,
                    count(*) FILTER (WHERE state = 'queued') AS queued
             FROM recipient GROUP BY message_id, part_no) r
            ON r.message_id = p.message_id AND r.part_no = p.part_no
         WHERE CASE p.state WHEN 'sent' THEN r.queued > 0 OR r.sent = 0
                            WHEN 'failed' THEN r.queued > 0 OR r.sent > 0 ELSE r.queued = 0 END",
    ),
    check(
        "part",
        "its times are not those of its state",
        "SELECT message_id || '-' || part_no FROM part
         WHERE (state = 'queued') <> (due_at IS NOT NULL) OR (state = 'sending') <> (lease_until IS NOT NULL)
            OR attempt < 0 OR key_no < 0",
    ),
    check(
        "part",
        // What was never composed was never tried.
        "its call is not there, or it cannot be in one or in none as it stands",
        "SELECT p.message_id || '-' || p.part_no FROM part p LEFT JOIN batch b ON b.batch_id = p.batch_id
         WHERE (p.batch_id IS NULL) <> (p.batch_no IS NULL) OR p.batch_max < 1
            OR (p.batch_id IS NULL AND p.batch_max > 1 AND p.unknown = 1 AND p.state IN ('queued', 'sending'))
            OR (p.batch_id IS NOT NULL AND (b.batch_id IS NULL OR p.road <> 'resend' OR p.state = 'held'
                OR p.batch_max < max(b.size, 2) OR (p.state = 'queued' AND p.unknown = 0)))",
    ),
    check(
        "batch",
        "its parts are not those that it was composed of, or some of them are final and others not",
        "SELECT b.batch_id FROM batch b LEFT JOIN
            (SELECT batch_id, count(*) AS parts, count(DISTINCT batch_no) AS places, min(batch_no) AS first,
                    max(batch_no) AS last, count(*) FILTER (WHERE state IN ('queued', 'sending')) AS waiting
             FROM part WHERE batch_id IS NOT NULL GROUP BY batch_id) p ON p.batch_id = b.batch_id
         WHERE p.parts IS NULL OR p.places <> p.parts OR p.first < 0 OR p.last >= b.size
            OR p.waiting NOT IN (0, b.size)",
    ),
    check(
        "recipient",
        "it belongs to no part, or its state is unknown",
        "SELECT r.message_id || ' ' || r.address FROM recipient r
         LEFT JOIN part p ON p.message_id = r.message_id AND p.part_no = r.part_no
         WHERE p.message_id IS NULL OR r.state NOT IN ('queued', 'sent', 'failed')",
    ),
    check(
        "recipient",
        "it failed without a reason, or was sent with one",
        "SELECT message_id || ' ' || address FROM recipient
         WHERE (state = 'failed' AND status IS NULL) OR (state = 'sent' AND status IS NOT NULL)",
    ),
    check(
        "body",
        "its message is final, or there is none",
        "SELECT b.message_id FROM body b LEFT JOIN message m ON m.message_id = b.message_id
         WHERE m.message_id IS NULL OR m.final_at IS NOT NULL",
    ),
    check(
        "body",
        "it is missing, and its message is not final",
        "SELECT m.message_id FROM message m WHERE m.final_at IS NULL
            AND NOT EXISTS (SELECT 1 FROM body b WHERE b.message_id = m.message_id)",
    ),
    check(
        "header",
        "its message is not final or not there, or no part of it left by Resend",
        "SELECT h.message_id FROM header h LEFT JOIN message m ON m.message_id = h.message_id
         WHERE m.message_id IS NULL OR m.final_at IS NULL OR m.kind <> 'submission' OR m.reverse_path = ''
            OR NOT EXISTS (SELECT 1 FROM part p WHERE p.message_id = h.message_id
                AND p.road = 'resend' AND p.state = 'sent')",
    ),
    check(
        "spool",
        "its message is final, or there is none",
        "SELECT s.spool_id FROM spool s LEFT JOIN message m ON m.message_id = s.message_id
         WHERE s.message_id IS NOT NULL AND (m.message_id IS NULL OR m.final_at IS NOT NULL)",
    ),
    check(
        "spool",
        "its message was never accepted, and the sweep has left it for more than a day",
        "SELECT spool_id FROM spool WHERE message_id IS NULL AND left_at IS NULL
            AND begun_at < (unixepoch() - 86400) * 1000",
    ),
    check(
        "spool",
        "its message is final, and the sweep has left it for more than a day",
        "SELECT spool_id FROM spool WHERE left_at < (unixepoch() - 86400) * 1000",
    ),
    check(
        "chunk",
        "it belongs to no spool, or one before it is missing",
        "SELECT c.spool_id || ' ' || c.chunk_no FROM chunk c LEFT JOIN spool s ON s.spool_id = c.spool_id
         WHERE s.spool_id IS NULL OR c.chunk_no < 0
            OR (c.chunk_no > 0 AND NOT EXISTS (SELECT 1 FROM chunk b
                WHERE b.spool_id = c.spool_id AND b.chunk_no = c.chunk_no - 1))",
    ),
    sums(
        "capture",
        "its message is missing or another customer's",
        "SELECT c.customer_id || ' ' || c.number, abs(c.amount) FROM capture c
         LEFT JOIN message m ON m.message_id = c.message_id
         WHERE m.message_id IS NULL OR m.customer_id <> c.customer_id OR c.amount < 1",
    ),
    check(
        "capture",
        "the one before it is missing, or it has left already",
        "SELECT c.customer_id || ' ' || c.number FROM capture c
         LEFT JOIN account a ON a.customer_id = c.customer_id
         WHERE c.number <= a.closed_capture OR (c.number > coalesce(a.closed_capture, 0) + 1 AND NOT EXISTS
            (SELECT 1 FROM capture b WHERE b.customer_id = c.customer_id AND b.number = c.number - 1))",
    ),
    sums(
        "entry",
        // What a void entry covered may have been given back since.
        "its amount is not the sum of its captures",
        "SELECT entry_id, abs(amount - captured) FROM
            (SELECT e.entry_id, e.amount - e.closed AS amount,
                    (SELECT coalesce(CAST(sum(c.amount) AS BIGINT), 0) FROM capture c
                WHERE c.customer_id = e.customer_id
                  AND c.number BETWEEN e.first_capture AND e.last_capture) AS captured
             FROM entry e WHERE e.kind = 'debit' AND e.state <> 'void') s
         WHERE amount <> captured",
    ),
    check(
        "entry",
        // What a void entry covered may have been taken back since, and its number with it.
        "it covers captures that there never were",
        "SELECT e.entry_id FROM entry e JOIN account a ON a.customer_id = e.customer_id
         WHERE e.kind = 'debit' AND (e.first_capture < 1 OR e.last_capture < e.first_capture
            OR e.last_capture - e.first_capture >= e.amount OR (e.state <> 'void' AND e.last_capture > a.last_capture))",
    ),
    sums(
        "entry",
        // A capture that has left counts as one.
        "it covers captures that another entry covers",
        "SELECT e.entry_id, max(min(e.covered, e.last_capture) - e.first_capture + 1,
            (SELECT coalesce(CAST(sum(c.amount) AS BIGINT), 0) FROM capture c
             WHERE c.customer_id = e.customer_id
                AND c.number BETWEEN e.first_capture AND min(e.covered, e.last_capture)))
         FROM (SELECT entry_id, customer_id, first_capture, last_capture, max(last_capture) OVER
                (PARTITION BY customer_id ORDER BY first_capture, entry_id
                 ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered
               FROM entry WHERE state <> 'void' AND kind = 'debit') AS e WHERE e.covered >= e.first_capture",
    ),
    sums(
        "entry",
        "it leaves captures out between it and the entry before it",
        "SELECT e.entry_id, e.first_capture - 1 - max(coalesce(e.covered, 0), coalesce(a.closed_capture, 0)) FROM
            (SELECT entry_id, customer_id, first_capture, max(last_capture) OVER
                (PARTITION BY customer_id ORDER BY first_capture, entry_id
                 ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered
             FROM entry WHERE state <> 'void' AND kind = 'debit') AS e
         LEFT JOIN account a ON a.customer_id = e.customer_id
         WHERE e.first_capture > max(coalesce(e.covered, 0), coalesce(a.closed_capture, 0)) + 1",
    ),
    check(
        "entry",
        "another entry of its customer is open too",
        "SELECT e.entry_id FROM entry e WHERE e.state = 'open' AND
            (SELECT count(*) FROM entry o WHERE o.customer_id = e.customer_id AND o.state = 'open') > 1",
    ),
    check(
        "entry",
        "its tries, its doubt and who decided it do not fit together",
        "SELECT entry_id FROM entry WHERE tries < 1 OR unknown_tries < 0
            OR (unknown_tries > 0) <> (first_unknown_at IS NOT NULL)
            OR (doubtful_since IS NOT NULL AND (unknown_tries = 0 OR last_tried_at IS NULL))
            OR (decided_by IS NOT NULL) <> (doubtful_since IS NOT NULL AND state <> 'open')",
    ),
    check(
        "entry",
        "it belongs to no account, or is closed without a time",
        "SELECT e.entry_id FROM entry e LEFT JOIN account a ON a.customer_id = e.customer_id
         WHERE a.customer_id IS NULL OR (e.state = 'open') <> (e.closed_at IS NULL)
            OR e.state NOT IN ('open', 'done', 'void') OR e.kind NOT IN ('debit', 'credit') OR e.amount < 1",
    ),
    check(
        "idempotency_key",
        "nobody was served under it, more messages than it counts, or it is another customer's or too old",
        "SELECT k.customer_id || ' ' || k.key FROM idempotency_key k
         LEFT JOIN idempotency_recipient r ON r.customer_id = k.customer_id AND r.key = k.key
         LEFT JOIN message m ON m.message_id = r.message_id
         WHERE r.key IS NULL OR r.number > k.messages OR length(k.fingerprint) <> 64
            OR k.customer_id NOT IN (SELECT customer_id FROM customer) OR k.expires_at <= m.accepted_at
         GROUP BY k.customer_id, k.key",
    ),
    check(
        "idempotency_recipient",
        "its key or its message is missing or another customer's, or the message is not for it",
        "SELECT r.customer_id || ' ' || r.message_id || ' ' || r.address FROM idempotency_recipient r
         LEFT JOIN message m ON m.message_id = r.message_id
         WHERE m.message_id IS NULL OR m.customer_id <> r.customer_id OR m.kind <> 'submission'
            OR NOT EXISTS (SELECT 1 FROM idempotency_key k WHERE k.customer_id = r.customer_id AND k.key = r.key)
            OR NOT EXISTS (SELECT 1 FROM recipient p
                WHERE p.message_id = r.message_id AND p.address = r.address)",
    ),
    check(
        "idempotency_recipient",
        "its message stands under two keys, or its number for two messages",
        "SELECT min(customer_id || ' ' || message_id) FROM idempotency_recipient GROUP BY message_id
            HAVING min(customer_id || ' ' || key) <> max(customer_id || ' ' || key) OR min(number) <> max(number)
         UNION ALL
         SELECT min(customer_id || ' ' || message_id) FROM idempotency_recipient
            GROUP BY customer_id, key, number HAVING min(message_id) <> max(message_id)",
    ),
    sums(
        "entry",
        "its amount is not the sum of its refunds",
        "SELECT entry_id, abs(amount - refunded) FROM
            (SELECT e.entry_id, e.amount - e.closed AS amount,
                (SELECT coalesce(CAST(sum(r.amount) AS BIGINT), 0) FROM refund r
                 WHERE r.entry_id = e.entry_id) AS refunded
             FROM entry e WHERE e.kind = 'credit' AND e.state <> 'void') s
         WHERE amount <> refunded",
    ),
    sums(
        "refund",
        "it is not what became of its entry",
        "SELECT r.message_id || ' ' || r.address, r.amount FROM refund r LEFT JOIN entry e ON e.entry_id = r.entry_id
         WHERE CASE r.state
            WHEN 'credited' THEN e.state IS DISTINCT FROM 'done' OR e.kind <> 'credit' OR e.customer_id <> r.customer_id
            WHEN 'due' THEN r.entry_id IS NOT NULL
                        AND (e.state IS DISTINCT FROM 'open' OR e.kind <> 'credit' OR e.customer_id <> r.customer_id)
            ELSE r.entry_id IS NOT NULL END",
    ),
    check(
        "refund",
        "its message is missing, another customer's, or counted in another unit",
        "SELECT r.message_id || ' ' || r.address FROM refund r LEFT JOIN message m ON m.message_id = r.message_id
         WHERE m.message_id IS NULL OR m.customer_id <> r.customer_id OR (m.unit = 'message') <> (r.address = '')
            OR (r.address <> '' AND NOT EXISTS (SELECT 1 FROM recipient p
                WHERE p.message_id = r.message_id AND p.address = r.address))",
    ),
    check(
        "refund",
        "somebody whom it is for has not bounced",
        "SELECT f.message_id || ' ' || f.address FROM refund f JOIN recipient r ON r.message_id = f.message_id
            AND (f.address = '' OR r.address = f.address)
         WHERE f.state <> 'waiting' AND r.state <> 'failed' AND r.bounced_at IS NULL",
    ),
    sums(
        "refund",
        "more is given back than was captured",
        "SELECT f.message_id, CAST(sum(f.amount) AS BIGINT) - max(m.captured) FROM refund f JOIN message m
         ON m.message_id = f.message_id
         WHERE f.state IN ('due', 'credited') GROUP BY f.message_id
         HAVING sum(f.amount) > max(m.captured)",
    ),
    check(
        "decision",
        "it is about no message, says nothing known, or what was cancelled is not final",
        "SELECT d.message_id || ' ' || d.number FROM decision d LEFT JOIN message m ON m.message_id = d.message_id
         WHERE m.message_id IS NULL OR d.choice NOT IN ('retry', 'cancel') OR d.via NOT IN ('command', 'http')
            OR d.held_parts < 0 OR (d.choice = 'cancel' AND m.final_at IS NULL)",
    ),
    check(
        "gate",
        "its road is unknown, or it is tried again before it closed",
        "SELECT road FROM gate WHERE road NOT IN ('resend', 'smtp') OR try_again_at < since OR reason = ''",
    ),
    check(
        "part",
        "it is in somebody's hands who does not send it",
        "SELECT message_id || ' ' || part_no FROM part WHERE node IS NOT NULL AND state <> 'sending'",
    ),
    check(
        "spool",
        "no process has such a name",
        "SELECT spool_id FROM spool WHERE node <> 'local' AND length(node) <> 32",
    ),
    check("node", "its name is none of ours", "SELECT node_id FROM node WHERE length(node_id) <> 32"),
    check(
        "duty",
        "nobody has such a duty",
        "SELECT name FROM duty WHERE name NOT IN ('sweep', 'books', 'debtors', 'doubts', 'domains')",
    ),
    check(
        "webhook",
        "it has no type, no id, or names no customer of ours",
        "SELECT w.webhook_id FROM webhook w WHERE w.type = '' OR w.webhook_id = ''
            OR (w.customer_id IS NOT NULL AND w.customer_id NOT IN (SELECT customer_id FROM customer))",
    ),
    check(
        "event",
        "its part is not there",
        "SELECT e.message_id FROM event e WHERE NOT EXISTS
            (SELECT 1 FROM part p WHERE p.message_id = e.message_id AND p.part_no = e.part_no)",
    ),
    check(
        "attempt",
        "its part is not there",
        "SELECT a.message_id FROM attempt a WHERE NOT EXISTS
            (SELECT 1 FROM part p WHERE p.message_id = a.message_id AND p.part_no = a.part_no)",
    ),
    check(
        "suppression",
        "it belongs to no customer",
        "SELECT address FROM suppression WHERE customer_id NOT IN (SELECT customer_id FROM customer)",
    ),
    check(
        "reputation",
        "it belongs to no customer",
        "SELECT customer_id FROM reputation WHERE customer_id NOT IN (SELECT customer_id FROM customer)",
    ),
    check(
        "checkout",
        "it is paid for nobody, or by somebody unknown",
        "SELECT k.token_hash FROM checkout k WHERE (k.state = 'pending') <> (k.customer_id IS NULL)
            OR length(k.token_hash) <> 64
            OR (k.customer_id IS NOT NULL AND k.customer_id NOT IN (SELECT customer_id FROM customer))",
    ),
    check(
        "session",
        "it belongs to no customer, its credential is not theirs, or it ends before it begins",
        "SELECT s.session_hash FROM session s LEFT JOIN customer c ON c.customer_id = s.customer_id
         LEFT JOIN credential k ON k.username = s.username
         WHERE c.customer_id IS NULL OR length(s.session_hash) <> 64 OR s.expires_at <= s.begun_at
            OR (s.username IS NOT NULL AND k.customer_id IS DISTINCT FROM s.customer_id)",
    ),
    check(
        "sign_in_link",
        "it belongs to no customer, or it is over before it is there",
        "SELECT l.link_hash FROM sign_in_link l LEFT JOIN customer c ON c.customer_id = l.customer_id
         WHERE c.customer_id IS NULL OR length(l.link_hash) <> 64 OR l.expires_at <= l.created_at",
    ),
    check(
        "alert",
        "it belongs to no customer, or says nothing known",
        "SELECT a.kind || ' ' || a.subject_id FROM alert a
         LEFT JOIN customer c ON c.customer_id = a.customer_id
         WHERE c.customer_id IS NULL OR a.kind NOT IN ('refund', 'dispute') OR a.words = ''",
    ),
    check(
        "told",
        "it belongs to no customer, or is no occasion",
        "SELECT t.kind || ' ' || t.occasion FROM told t
         LEFT JOIN customer c ON c.customer_id = t.customer_id
         WHERE c.customer_id IS NULL OR t.kind NOT IN ('payment', 'out-of-credit')
            OR (t.kind = 'out-of-credit' AND t.occasion <> t.customer_id)",
    ),
    check(
        "bucket",
        "it is the bucket of nobody",
        "SELECT name FROM bucket WHERE name NOT IN ('dodo', 'dodo-entries', 'resend') AND name NOT LIKE 'sign-in %'",
    ),
    check(
        "meta",
        "it says nothing that this version knows",
        "SELECT key FROM meta WHERE NOT (key IN ('seal', 'shared_key', 'moving_to', 'moved_to', 'moving_from')
            OR key LIKE 'moved %' OR (key LIKE 'commit/%' AND (value = '' OR value LIKE '% ____-__-__'))
            OR (key = 'made_by' AND value IN ('serve', 'sandbox')) OR (key = 'oldest_level' AND value LIKE '_% _%'))",
    ),
];
