-- Made by `make marts-sql` from dbt/models/staging/stg_round_waves.sql; change that.
create or alter view worldloop_marts.stg_round_waves as
with log_rows as (

    select
        round,
        wave,
        root_hash,
        log_site
    from (
        select
            cast(round as varchar(8000)) as round,
            cast(wave as varchar(8000)) as wave,
            cast(root_hash as varchar(8000)) as root_hash,
            origin as log_site,
            row_number() over (partition by round, wave order by origin) as occurrence
        from worldloop.round_waves
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        round,
        wave,
        root_hash
    from log_rows

)

select * from final
