-- Made by `make marts-sql` from dbt/models/staging/stg_audits.sql; change that.
create or replace view worldloop_marts.stg_audits as
with log_rows as (

    select
        audit_id,
        site,
        actor,
        action,
        of_kind,
        of_id,
        reason,
        done_at,
        log_site
    from (
        select
            cast(audit_id as varchar) as audit_id,
            cast(site as varchar) as site,
            cast(actor as varchar) as actor,
            cast(action as varchar) as action,
            cast(of_kind as varchar) as of_kind,
            cast(of_id as varchar) as of_id,
            cast(reason as varchar) as reason,
            cast(done_at as timestamp(6)) as done_at,
            origin as log_site,
            row_number() over (partition by audit_id order by origin) as occurrence
        from worldloop.audits
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        audit_id,
        of_id,

        -- strings
        site,
        actor,
        action,
        of_kind,
        reason,

        -- timestamps
        done_at
    from log_rows

)

select * from final
