-- Where a line of a customer's list came from: what a proof gave, its end takes back, and nothing else.
ALTER TABLE sender ADD COLUMN origin TEXT NOT NULL DEFAULT 'operator'
    CHECK (origin IN ('operator', 'starter', 'proof'));

-- Domains that customers claim, and prove, by themselves.
CREATE TABLE proof (
    customer_id   TEXT    NOT NULL REFERENCES customer (customer_id),
    -- In A-labels and lower case.
    domain        TEXT    NOT NULL CHECK (domain <> ''),
    way           TEXT    NOT NULL CHECK (way IN ('dns', 'resend')),
    state         TEXT    NOT NULL CHECK (state IN ('adding', 'pending', 'verified', 'lost', 'denied', 'removing')),
    -- What has to be published, where DNS is the proof.
    token         TEXT,
    -- The domain's id at Resend, once Resend has told it.
    resend_id     TEXT UNIQUE,
    -- Resend's word for where it stands, and the records that it asks for, as it wrote them.
    status        TEXT,
    records       TEXT,
    -- What the last look found, in words.
    detail        TEXT,
    created_at    INTEGER NOT NULL,
    checked_at    INTEGER,
    verified_at   INTEGER,
    -- Since when it is surely not there, and how often that was seen.
    missing_since INTEGER,
    tries         INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_check_at INTEGER,
    -- When it is forgotten unless it is proven.
    expires_at    INTEGER,
    PRIMARY KEY (customer_id, domain),
    CHECK ((way = 'dns') = (token IS NOT NULL)),
    CHECK (way = 'resend' OR (resend_id IS NULL AND state NOT IN ('adding', 'removing'))),
    CHECK (state <> 'verified' OR (verified_at IS NOT NULL AND expires_at IS NULL)),
    CHECK (state NOT IN ('pending', 'lost') OR expires_at IS NOT NULL)
) STRICT, WITHOUT ROWID;

-- A domain belongs to one customer at a time; at Resend it is there once, proven or not.
CREATE UNIQUE INDEX proof_owner ON proof (domain) WHERE state = 'verified';
CREATE UNIQUE INDEX proof_at_resend ON proof (domain) WHERE way = 'resend';
CREATE INDEX proof_due ON proof (next_check_at) WHERE next_check_at IS NOT NULL;
