-- demo_schema: two organizations in one small collaboration schema.
--
-- Every table carries its organization, row level security is FORCEd, and the
-- policies ask one variable.  Nobody sets it: '' is nobody's, so nothing shows.
-- Variables of psql: password (weir's own), acme and beta (the organizations).
\set ON_ERROR_STOP on
\set QUIET on

-- weir's login: owns nothing, bypasses nothing.
CREATE ROLE weir_app LOGIN PASSWORD :'password'
    NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;

CREATE FUNCTION current_organization() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT NULLIF(current_setting('app.current_organization_id', true), '')::uuid
$$;

CREATE TABLE organizations (
    id   uuid PRIMARY KEY,
    slug text NOT NULL UNIQUE,
    name text NOT NULL
);

CREATE TABLE documents (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL DEFAULT current_organization()
                    REFERENCES organizations ON DELETE CASCADE,
    title           text NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, id)
);

-- The operation log: one row a keystroke.  The pair of keys makes it
-- impossible to log an operation on another organization's document.
CREATE TABLE crdt_operations (
    sequence_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id uuid NOT NULL DEFAULT current_organization(),
    document_id     uuid NOT NULL,
    operation_type  text NOT NULL
                    CHECK (operation_type IN ('insert', 'delete', 'retain', 'format')),
    operation_data  jsonb NOT NULL,
    applied_at      timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (organization_id, document_id)
        REFERENCES documents (organization_id, id) ON DELETE CASCADE
);
CREATE INDEX ON crdt_operations (document_id, sequence_number);

INSERT INTO organizations VALUES
    (:'acme', 'acme', 'Acme Candles'),
    (:'beta', 'beta', 'Beta Boats');
INSERT INTO documents (organization_id, title) VALUES
    (:'acme', 'Launch plan'), (:'acme', 'Price list'), (:'acme', 'Scents of 2027'),
    (:'beta', 'Hull drawings'), (:'beta', 'Sea trial notes');

ALTER TABLE organizations   ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations   FORCE  ROW LEVEL SECURITY;
ALTER TABLE documents       ENABLE ROW LEVEL SECURITY;
ALTER TABLE documents       FORCE  ROW LEVEL SECURITY;
ALTER TABLE crdt_operations ENABLE ROW LEVEL SECURITY;
ALTER TABLE crdt_operations FORCE  ROW LEVEL SECURITY;

CREATE POLICY own ON organizations   USING (id = current_organization());
CREATE POLICY own ON documents       USING (organization_id = current_organization());
CREATE POLICY own ON crdt_operations USING (organization_id = current_organization());

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO weir_app;
