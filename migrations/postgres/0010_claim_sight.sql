-- What a claim sees of the lanes it wants, in one trip: locks those that nobody else is claiming from,
-- and then, in a statement of its own, reads limits and counts what runs in them. As the function is
-- VOLATILE, its second statement sees all that was committed before the first one got its locks (READ
-- COMMITTED), which a count in the same statement would not.
--
-- A row for each lane whose model may be called. `seen_at` is when the locks were held; `version` changes with each change of the model's row.
-- `running` is NULL where somebody else claims from the lane, or where it has no row yet; `oldest` is
-- when the first call began of those counted, from `since` on. A lane shares a limit with others when
-- its model or its tenant has one over all of them.

CREATE FUNCTION asynch_claim_sight(models BIGINT[], tenants BIGINT[], since TIMESTAMPTZ[])
RETURNS TABLE (lane_model BIGINT, lane_tenant BIGINT, seen_at TIMESTAMPTZ, version BIGINT, max_running INT, timeout_seconds INT,
               is_shared BOOLEAN, is_capped BOOLEAN, running BIGINT, oldest TIMESTAMPTZ)
LANGUAGE plpgsql VOLATILE ROWS 64 AS $$
DECLARE
    places BIGINT[];
BEGIN
    SELECT array_agg(locked.place) INTO places FROM (
        SELECT w.place FROM unnest(models, tenants) WITH ORDINALITY AS w(model_id, tenant_id, place)
        JOIN asynch_lane_out o ON o.tenant_id = w.tenant_id AND o.model_id = w.model_id
        ORDER BY o.model_id, o.tenant_id
        FOR UPDATE OF o SKIP LOCKED
    ) locked;
    seen_at := clock_timestamp();
    RETURN QUERY
    SELECT w.model_id, w.tenant_id, seen_at, m.xmin::text::bigint, m.max_concurrency, m.timeout_seconds,
           m.total_concurrency > 0, COALESCE(t.cap > 0, FALSE), calls.running, calls.oldest
    FROM unnest(models, tenants, since) WITH ORDINALITY AS w(model_id, tenant_id, since, place)
    JOIN asynch_models m ON m.id = w.model_id AND m.enabled = 1 AND m.deleted_at IS NULL
    LEFT JOIN asynch_tenant t ON t.tenant_id = w.tenant_id
    LEFT JOIN LATERAL (
        SELECT count(*) AS running, COALESCE(min(c.started_at), seen_at) AS oldest FROM asynch_task c
        WHERE c.model_id = w.model_id AND c.tenant_id = w.tenant_id AND c.phase = 0 AND c.state = 1
          AND c.started_at >= COALESCE(w.since, '-infinity')
    ) calls ON w.place = ANY(places);
END
$$;
