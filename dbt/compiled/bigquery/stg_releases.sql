-- Made by `make marts-sql` from dbt/models/staging/stg_releases.sql; change that.
create or replace view worldloop_marts.stg_releases as
with log_rows as (

    select
        wave,
        site,
        root_hash,
        atlas_hash,
        num_clips,
        num_rejected,
        duration_s,
        log_site
    from (
        select
            cast(wave as string) as wave,
            cast(site as string) as site,
            cast(root_hash as string) as root_hash,
            cast(atlas_hash as string) as atlas_hash,
            cast(num_clips as int64) as num_clips,
            cast(num_rejected as int64) as num_rejected,
            cast(duration_s as float64) as duration_s,
            origin as log_site,
            row_number() over (partition by wave order by origin) as occurrence
        from worldloop.releases
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        wave,

        -- strings
        site,
        root_hash,
        atlas_hash,

        -- numerics
        num_clips,
        num_rejected,
        duration_s
    from log_rows

)

select * from final
