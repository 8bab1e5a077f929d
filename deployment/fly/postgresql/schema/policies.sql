-- Policies that believe weir alone, for documents and crdt_operations; others
-- are made the same way.  After context.sql, as the owner of the tables, which
-- weir's role must not be:
--
--     psql -X -1 -v ON_ERROR_STOP=1 -f policies.sql "$ADMIN_URL"
--
-- Both tables have a column organization_id (uuid, NOT NULL), also the one that
-- could look it up elsewhere: a policy then needs no second table, and the key
-- below can be made.
--
-- What holds with these, and with a role for weir that is neither superuser nor
-- BYPASSRLS nor owner: no SQL that comes through weir reads or writes a row of
-- another organization, whatever it sets and whatever functions it makes.
-- Without an organization, or a context that proves one, there are no rows.

-- (SELECT ...) is computed once a statement and not once a row, and its value
-- can be looked up in an index.  NULL equals nothing: no organization, no rows.
-- FORCE: for the owner too.

ALTER TABLE documents ALTER COLUMN organization_id
    SET DEFAULT app.current_organization()::uuid;
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE documents FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_organization ON documents;
CREATE POLICY own_organization ON documents
    USING (organization_id = (SELECT app.current_organization()::uuid))
    WITH CHECK (organization_id = (SELECT app.current_organization()::uuid));

ALTER TABLE crdt_operations ALTER COLUMN organization_id
    SET DEFAULT app.current_organization()::uuid;
ALTER TABLE crdt_operations ENABLE ROW LEVEL SECURITY;
ALTER TABLE crdt_operations FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_organization ON crdt_operations;
CREATE POLICY own_organization ON crdt_operations
    USING (organization_id = (SELECT app.current_organization()::uuid))
    WITH CHECK (organization_id = (SELECT app.current_organization()::uuid));

-- Foreign keys and unique constraints are checked past all policies.  A key that
-- names the document alone would let an operation be written into another
-- organization's document, and would tell which ids exist.  So it names both;
-- and what must be unique is so within an organization.
ALTER TABLE crdt_operations
    DROP CONSTRAINT IF EXISTS crdt_operations_of_own_documents;
CREATE UNIQUE INDEX IF NOT EXISTS documents_of_organization
    ON documents (organization_id, id);
ALTER TABLE crdt_operations ADD CONSTRAINT crdt_operations_of_own_documents
    FOREIGN KEY (organization_id, document_id)
    REFERENCES documents (organization_id, id) ON DELETE CASCADE;
CREATE INDEX IF NOT EXISTS crdt_operations_of_organization
    ON crdt_operations (organization_id, document_id);
