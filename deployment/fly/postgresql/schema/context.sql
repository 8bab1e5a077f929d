-- Who a connection of weir works for, proved: app.current_organization().
--
-- A setting like app.current_organization_id can be set by any SQL, so a policy
-- that reads it trusts whoever writes the SQL.  weir also sets
-- app.weir_context (see [context] in its configuration), to
--
--     weir1.ORGANIZATION.USER.PID.EXPIRY.MAC
--
-- ORGANIZATION and USER in hex, PID this backend's, EXPIRY in seconds since 1970,
-- MAC the HMAC-SHA256 of all before its dot in hex, by a key that only weir and
-- the table below have.  The function believes nothing else: not another
-- backend's value, not an expired one, not a changed one.  A transaction that
-- began before EXPIRY goes on.
--
-- Needs PostgreSQL 13 and pgcrypto, and no superuser: whoever may create
-- extensions and schemas in this database.  Run it as a role that weir does not
-- log in as, again and again if you like:
--
--     psql -X -1 -v ON_ERROR_STOP=1 -f context.sql "$ADMIN_URL"
--
-- weir must reach PostgreSQL itself, not another pooler: PID must stay the same.
-- The clocks of both should agree to well within half of weir's ttl.
--
-- To install the key, or to replace it: tell the database first, weir second.
--
--     psql -X -v ON_ERROR_STOP=1 "$ADMIN_URL" <<'END'
--     \set key `printenv WEIR_CONTEXT_KEY`
--     SELECT app_private.set_context_key(:'key');
--     END
--
-- then `key` in weir's configuration, and SIGHUP.  The key of before is accepted
-- until, when weir has been using the new one for as long as its ttl,
--
--     SELECT app_private.forget_previous_context_key();
--
-- A server that logs statements or parameters logs the key and the contexts:
-- leave log_statement below `all`, and log_parameter_max_length at 0.

CREATE SCHEMA IF NOT EXISTS app;
CREATE SCHEMA IF NOT EXISTS app_private;
REVOKE ALL ON SCHEMA app, app_private FROM PUBLIC;
GRANT USAGE ON SCHEMA app TO PUBLIC;

-- Where it is already, it stays, and is used from there.
CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA app_private;

CREATE TABLE IF NOT EXISTS app_private.context_key (
    slot    text PRIMARY KEY CHECK (slot IN ('current', 'previous')),
    key     bytea NOT NULL CHECK (octet_length(key) >= 32),
    since   timestamptz NOT NULL DEFAULT now()
);
REVOKE ALL ON app_private.context_key FROM PUBLIC;

-- The new key from now on; the one it replaces is accepted too.  Twice the same
-- changes nothing.
CREATE OR REPLACE FUNCTION app_private.set_context_key(new_key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bytes bytea := convert_to(new_key, 'UTF8');
BEGIN
    IF bytes IS NULL OR octet_length(bytes) < 32 THEN
        RAISE EXCEPTION 'a context key has at least 32 characters'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE app_private.context_key IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM app_private.context_key
               WHERE slot = 'current' AND key = bytes) THEN
        RETURN;
    END IF;
    DELETE FROM app_private.context_key WHERE slot = 'previous';
    UPDATE app_private.context_key SET slot = 'previous';
    INSERT INTO app_private.context_key (slot, key) VALUES ('current', bytes);
END
$$;

CREATE OR REPLACE FUNCTION app_private.forget_previous_context_key() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM app_private.context_key WHERE slot = 'previous'
$$;

REVOKE ALL ON FUNCTION app_private.set_context_key(text),
    app_private.forget_previous_context_key() FROM PUBLIC;

-- The organization's id; NULL without a context, or with one that proves nothing.
--
-- STABLE: one answer in a statement, so that (SELECT app.current_organization())
-- is computed once.  PARALLEL RESTRICTED: a parallel worker has another pid; it is
-- given the leader's answer.  What is compared are digests of the two MACs: how
-- long that takes tells nothing about either.  pgcrypto's schema is written into
-- the body, so that no search_path and no later schema can replace hmac().
DO $install$
DECLARE
    crypto name := (SELECT n.nspname FROM pg_catalog.pg_extension e
                    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
                    WHERE e.extname = 'pgcrypto');
BEGIN
    EXECUTE pg_catalog.format($body$
CREATE OR REPLACE FUNCTION app.current_organization() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    context text := current_setting('app.weir_context', true);
    field   text[];
    said    bytea;
    proof   bytea;
BEGIN
    -- The length bounds what a hostile value can cost.
    IF context IS NULL OR context = '' OR octet_length(context) > 4096 THEN
        RETURN NULL;
    END IF;
    field := string_to_array(context, '.');
    IF array_length(field, 1) IS DISTINCT FROM 6 OR field[1] <> 'weir1' THEN
        RETURN NULL;
    END IF;
    said := convert_to(left(context, -1 - length(field[6])), 'UTF8');
    proof := sha256(convert_to(field[6], 'UTF8'));
    IF (SELECT count(*) FROM app_private.context_key k
        WHERE sha256(convert_to(encode(
            %1$I.hmac(said, k.key, 'sha256'::text), 'hex'), 'UTF8')) = proof) = 0 THEN
        RETURN NULL;
    END IF;
    -- From here on every word is weir's.
    IF field[4] <> pg_backend_pid()::text
       OR to_timestamp(field[5]::bigint) < transaction_timestamp() THEN
        RETURN NULL;
    END IF;
    RETURN nullif(convert_from(decode(field[2], 'hex'), 'UTF8'), '');
END
$function$
    $body$, crypto);
END
$install$;

GRANT EXECUTE ON FUNCTION app.current_organization() TO PUBLIC;
