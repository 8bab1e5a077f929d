-- Documents that many edit together, and the log of their edits: one row a
-- keystroke.  As the owner of the tables, which weir's role must not be:
--
--     psql -X -1 -v ON_ERROR_STOP=1 -v app=ROLE -f collaboration.sql "$ADMIN_URL"
--
-- ROLE is whom weir logs in as: neither superuser nor BYPASSRLS.  These policies
-- believe app.current_organization_id, which weir sets ([variables]) and which
-- any SQL can set too; context.sql and policies.sql, run after this file, replace
-- them by policies that believe nobody but weir.
--
-- The log answers three questions, and is written for them:
--   what came after row N of a document   sequence_number: its order of commit,
--                                         where one [batch crdt_operations] with
--                                         order_by = document_id writes it
--   was this edit received already        (document_id, client_id, clock): an
--                                         edit sent again is ON CONFLICT DO NOTHING
--   what may be cleaned away              applied_at: the clock, not the beginning
--                                         of a transaction, which rows committed
--                                         together share

CREATE TABLE organizations (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    slug        varchar(100) NOT NULL UNIQUE,
    name        varchar(255) NOT NULL,
    settings    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz
);

-- Who somebody is; of which organizations is elsewhere.
CREATE TABLE users (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email       varchar(255) NOT NULL UNIQUE,
    name        varchar(255) NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION current_organization_setting() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(current_setting('app.current_organization_id', true), '')::uuid
$$;

CREATE TABLE documents (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL DEFAULT current_organization_setting()
                    REFERENCES organizations ON DELETE CASCADE,
    title           varchar(500) NOT NULL,
    crdt_type       varchar(50) NOT NULL DEFAULT 'yjs'
                    CHECK (crdt_type IN ('yjs', 'json_crdt', 'rga', 'lseq')),
    crdt_state      bytea,
    -- The last row of the log that crdt_state holds: no row after it may go.
    state_sequence  bigint NOT NULL DEFAULT 0,
    created_by      uuid REFERENCES users,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz,
    UNIQUE (organization_id, id)
);

-- A foreign key is checked past all policies: it names the organization too, so
-- that no edit can be written into another organization's document.
CREATE TABLE crdt_operations (
    sequence_number bigserial PRIMARY KEY,
    organization_id uuid NOT NULL DEFAULT current_organization_setting(),
    document_id     uuid NOT NULL,
    client_id       bigint NOT NULL,
    clock           bigint NOT NULL CHECK (clock >= 0),
    operation_type  varchar(50) NOT NULL
                    CHECK (operation_type IN ('insert', 'delete', 'retain', 'format')),
    operation_data  jsonb NOT NULL,
    vector_clock    jsonb NOT NULL DEFAULT '{}',
    author_id       uuid REFERENCES users,
    applied_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (document_id, client_id, clock),
    FOREIGN KEY (organization_id, document_id)
        REFERENCES documents (organization_id, id) ON DELETE CASCADE
);
CREATE INDEX crdt_operations_of_document ON crdt_operations (document_id, sequence_number);
CREATE INDEX crdt_operations_by_age ON crdt_operations (document_id, applied_at);

ALTER TABLE organizations   ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations   FORCE  ROW LEVEL SECURITY;
ALTER TABLE documents       ENABLE ROW LEVEL SECURITY;
ALTER TABLE documents       FORCE  ROW LEVEL SECURITY;
ALTER TABLE crdt_operations ENABLE ROW LEVEL SECURITY;
ALTER TABLE crdt_operations FORCE  ROW LEVEL SECURITY;

CREATE POLICY own_organization ON organizations
    USING (id = (SELECT current_organization_setting()));
CREATE POLICY own_organization ON documents
    USING (organization_id = (SELECT current_organization_setting()))
    WITH CHECK (organization_id = (SELECT current_organization_setting()));
CREATE POLICY own_organization ON crdt_operations
    USING (organization_id = (SELECT current_organization_setting()))
    WITH CHECK (organization_id = (SELECT current_organization_setting()));

GRANT SELECT ON organizations TO :"app";
GRANT SELECT, INSERT, UPDATE ON users TO :"app";
GRANT SELECT, INSERT, UPDATE, DELETE ON documents TO :"app";
GRANT SELECT, INSERT, DELETE ON crdt_operations TO :"app";
GRANT USAGE ON SEQUENCE crdt_operations_sequence_number_seq TO :"app";
